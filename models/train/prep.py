"""Writes logs.json (message templates) and pairs.json (paragraphs with summaries), without the held-out part.

usage: prep.py --kernel FOLDER --lists FOLDER [FOLDER ...] --eval FILE [FILE ...] --out FOLDER
"""

import argparse
import collections
import json
import os

import descriptions
import kernel_logs
from held_out import EvaluationTexts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", required=True, help="unpacked Linux source")
    parser.add_argument("--lists", required=True, nargs="+", help="folders with Packages and Translation-en lists")
    parser.add_argument("--eval", required=True, nargs="+", help="evaluation files, whose texts are left out")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    evaluation = EvaluationTexts(args.eval)

    logs = kernel_logs.collect(args.kernel)
    kept_logs = [log for log in logs if not evaluation.can_render(log["template"])]
    print(len(logs), "templates,", len(logs) - len(kept_logs), "dropped because they can render an evaluation text")
    print(collections.Counter(log["subsystem"] for log in kept_logs))
    print(collections.Counter(log["severity"] for log in kept_logs))

    pairs = descriptions.collect(args.lists, args.kernel)
    kept_pairs = [pair for pair in pairs if not evaluation.has(pair["text"])]
    print(len(pairs), "pairs,", len(pairs) - len(kept_pairs), "dropped because their text is an evaluation text")
    print(collections.Counter(pair["source"] for pair in kept_pairs))

    for name, rows in (("logs", kept_logs), ("pairs", kept_pairs)):
        with open(f"{args.out}/{name}.json", "w") as file:
            json.dump(rows, file)


if __name__ == "__main__":
    main()
