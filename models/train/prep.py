"""Writes what is learned from, without the held-out part: logs.json (message templates), pairs.json (paragraphs with
summaries), and val-*.jsonl, other files' and packages' rows in the form of the evaluation files, to tune by.

usage: prep.py --kernel FOLDER [FOLDER ...] --lists FOLDER [FOLDER ...] --eval FILE [FILE ...] --out FOLDER
"""

import argparse
import collections
import json
import os
import random

import descriptions
import kernel_logs
import render
import spans
import teacher
from held_out import EvaluationTexts, hash_of, package_family

VALIDATION_SHARE = 40  # one driver and one package family in so many
VALIDATION_ROWS = 1500
SEVERITIES = ["critical", "error", "warning", "info"]


def is_validation(name):
    return hash_of(name) % VALIDATION_SHARE == 1


def split_logs(logs):
    """(for training, for validation): no driver and no template is in both."""
    held = [log for log in logs if is_validation(log["driver"])]
    templates = {log["template"] for log in held}
    return [log for log in logs if log["template"] not in templates], held


def write_rows(path, rows):
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_validation(out, logs, pairs):
    rng = random.Random(3)
    for label in ("subsystem", "severity"):
        labels = SEVERITIES if label == "severity" else sorted({log[label] for log in logs})
        # A debug message is in the evaluation of no task.
        usable = [log for log in logs if log["severity"]]
        chosen = rng.sample(usable, min(VALIDATION_ROWS, len(usable)))
        write_rows(f"{out}/val-log-{label}.jsonl", (
            {"text": render.line(log, rng), "labels": labels, "answer": log[label]} for log in chosen))
    chosen = rng.sample(pairs, min(VALIDATION_ROWS, len(pairs)))
    write_rows(f"{out}/val-summary.jsonl", ({"text": pair["text"], "answer": pair["summary"]} for pair in chosen))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", required=True, nargs="+", help="unpacked Linux sources")
    parser.add_argument("--lists", required=True, nargs="+", help="folders with Packages and Translation-en lists")
    parser.add_argument("--eval", required=True, nargs="+", help="evaluation files, whose texts are left out")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    evaluation = EvaluationTexts(args.eval)

    logs = kernel_logs.collect(args.kernel)
    kept_logs = [log for log in logs if not evaluation.can_render(log["template"])]
    print(len(logs), "templates,", len(logs) - len(kept_logs), "dropped because they can render an evaluation text")
    kept_logs, validation_logs = split_logs(kept_logs)
    print(collections.Counter(log["subsystem"] for log in kept_logs))
    print(collections.Counter(log["severity"] for log in kept_logs))

    pairs = descriptions.collect(args.lists, args.kernel[0])
    kept_pairs = [pair for pair in pairs if not evaluation.has(pair["text"])]
    print(len(pairs), "pairs,", len(pairs) - len(kept_pairs), "dropped because their text is an evaluation text")
    validation_pairs = [pair for pair in kept_pairs if pair["package"] and is_validation(package_family(pair["package"]))]
    held = {id(pair) for pair in validation_pairs}
    kept_pairs = [pair for pair in kept_pairs if id(pair) not in held]
    for pair in kept_pairs:
        pair["span"] = spans.best_span(pair["text"], pair["summary"])
    print(collections.Counter(pair["source"] for pair in kept_pairs),
          sum(pair["span"] is not None for pair in kept_pairs), "with a span that says the same")
    write_validation(args.out, validation_logs, validation_pairs)
    print(len(validation_logs), "templates and", len(validation_pairs), "pairs kept for validation", flush=True)

    for label in ("subsystem", "severity"):
        teacher.add_shares(kept_logs, label)
    teacher.add_section_shares(kept_pairs)
    for name, rows in (("logs", kept_logs), ("pairs", kept_pairs)):
        with open(f"{args.out}/{name}.json", "w") as file:
            json.dump(rows, file)


if __name__ == "__main__":
    main()
