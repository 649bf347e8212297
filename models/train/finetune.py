"""Your labels, your model: a CSV of text and label in, a ternary model, its task file and its evaluation out.

usage: finetune.py --csv FILE --model FILE.gguf --question TEXT --out FOLDER [--minutes N]

The CSV has the columns `text` and `label`. One text in five is kept for the evaluation and one in ten to choose the
temperature by; texts alike but for their digits stay together. The answer is measured beside a logistic regression on
the same rows: with few of them that may be the better choice, and the figures say so.
"""

import argparse
import collections
import csv
import itertools
import json
import os
import random
import struct
import time

import torch
from torch import nn

import choices
import crossed
import export
import figures
import gguf
import teacher
import warm_start
from auxiliary import Auxiliary
from batches import CROSSED, MERGES_SKIPPED, Source
from baselines import CHARACTERS, WORDS, Regression
from calibrate import best_temperature
from evaluate import Scorer, classification
from held_out import hash_of, normal
from model import Model, Shape
from tokenizer import load as load_tokenizer
from train import loss_of, optimizers

LEAST_OF_A_LABEL = 5
LONGEST_TEXT = 400  # characters; what is longer is cut
PROMPT_WEIGHT = 0.1
LINES_OF_A_ROW, MOST_LINES = 8, 60_000  # made of parts of two texts
PASSES = 40  # at most, through the rows: beyond, small sets are learned by heart


def read(path):
    """(text, label) of each row; labels with too few rows are left out and named."""
    with open(path, newline="") as file:
        table = csv.DictReader(file)
        if not {"text", "label"} <= set(table.fieldnames or ()):
            raise SystemExit(f"{path} has the columns {table.fieldnames}; it needs text and label")
        rows = [(row["text"].strip()[:LONGEST_TEXT], row["label"].strip()) for row in table]
    rows = [(text, label) for text, label in rows if text and label]
    counts = collections.Counter(label for _, label in rows)
    rare = sorted(label for label, count in counts.items() if count < LEAST_OF_A_LABEL)
    if rare:
        print(f"left out, with fewer than {LEAST_OF_A_LABEL} rows: {', '.join(rare)}")
    rows = [row for row in rows if row[1] not in rare]
    if len(counts) - len(rare) < 2:
        raise SystemExit(f"{path} has {len(counts) - len(rare)} labels with enough rows; two are needed")
    return rows


def split(rows):
    """(training, validation, test) of the rows."""
    parts = ([], [], [])
    for row in rows:
        place = hash_of(normal(row[0])) % 10
        parts[2 if place < 2 else 1 if place == 2 else 0].append(row)
    for name, part in zip(("training", "validation", "evaluation"), parts):
        if not part:
            raise SystemExit(f"no row is left for {name}; give more rows")
    return parts


def as_set(rows, labels):
    return [{"text": text, "labels": labels, "answer": label} for text, label in rows]


def crossings(rows, rng):
    """Lines of parts of two texts, with what the teachers, fitted to all rows, say of them (`crossed.py`)."""
    pairs = crossed.pairs_of(rows, lambda row: row[1], rng)
    count = min(MOST_LINES, LINES_OF_A_ROW * len(rows))
    lines = [crossed.mixed(one[0], other[0], rng) for one, other in itertools.islice(pairs, count)]
    return crossed.judged(lines, *teacher.opinion(rows, lines))


def tune(model, tokenizer, rows, question, minutes):
    """Trains until the time or PASSES passes are over, at falling rates."""
    rng = random.Random(0)
    counts = collections.Counter(label for _, label in rows)
    labels = sorted(counts)
    taught = teacher.by_folds(rows, [hash_of(normal(text)) for text, _ in rows])
    lines = crossings(rows, rng)

    def example(row):
        (text, label), shares = row
        if rng.random() < CROSSED:
            text, shares = rng.choice(lines).values()
            label = max(shares, key=shares.get)
        asked = choices.fixed(question, text, label, shares)
        return asked._replace(line_shares=[shares.get(name, 0.0) for name in labels])

    source = Source(list(zip(rows, taught)), example, tokenizer, rng, MERGES_SKIPPED)
    model.auxiliary = Auxiliary(model.shape.hidden, [len(labels)], [1.0])
    pairs = optimizers(model, 1e-3, 5e-4)
    start, step, seen = time.monotonic(), 0, 0
    print(len(rows), "rows for training:", dict(counts), flush=True)
    while (progress := max((time.monotonic() - start) / (60 * minutes), seen / (PASSES * len(rows)))) < 1:
        for optimizer, rate in pairs:
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20) * (1 - progress)
        batch = source.next_batch()
        loss, answer_loss = loss_of(model, batch, PROMPT_WEIGHT)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in pairs:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + len(batch.ids)
        if step % 20 == 0:
            print(f"step {step}, {seen / len(rows):.1f} passes, answer loss {float(answer_loss):.3f}", flush=True)


def regression(training, test):
    method = Regression(WORDS, CHARACTERS).fit(training)
    shares = method.shares([text for text, _ in test])
    guesses = [method.labels[best] for best in shares.argmax(1)]
    return figures.of_guesses(guesses, shares.max(1), [label for _, label in test])


def begin_with(path):
    """The model of the file and its tokenizer; says what is wrong with a file that is not of this recipe."""
    try:
        tokenizer = load_tokenizer(path)
        model = Model(Shape(**warm_start.shape_of(path)), torch.bfloat16)
        warm_start.load_into(model, path)
    except (OSError, LookupError, ValueError, TypeError, struct.error) as error:
        raise SystemExit(f"{path} is not a model of this recipe ({type(error).__name__}: {error}); "
                         "begin with the bundled tern-log-i2_s.gguf or a file that `tern train` wrote")
    return model, tokenizer


def write_model(folder, model, tokenizer, name):
    entries = export.model_entries(model.shape, name) + export.tokenizer_entries(tokenizer)
    gguf.write(f"{folder}/{name}.gguf", entries, export.tensors(model))


def write_task(folder, name, question, labels):
    """The task file that asks the question, as `tern classify --task-file` and `[tasks] folder` take it."""
    with open(f"{folder}/{name}.toml", "w") as file:
        file.write(f'kind = "choice"\ninstructions = {json.dumps(question)}\nlabels = {json.dumps(labels)}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", required=True, help="with the columns text and label")
    parser.add_argument("--model", required=True, help="I2_S GGUF of this recipe to begin with")
    parser.add_argument("--question", required=True, help="what the model is asked about a text")
    parser.add_argument("--name", default="my-labels", help="of the model and the task")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", required=True, help="folder")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(0)
    training, validation, test = split(read(args.csv))
    labels = sorted({label for _, label in training})
    validation, test = ([row for row in part if row[1] in labels] for part in (validation, test))

    model, tokenizer = begin_with(args.model)
    tune(model, tokenizer, training, args.question, args.minutes)

    model.matmul = torch.float32
    with torch.no_grad():
        model.token_embd.copy_(model.token_embd.half().float())
        print(export.settle(model, export.heads_of(tokenizer, [args.question])))
        scorer = Scorer(model, tokenizer)
        temperature = best_temperature(scorer, [(args.question, as_set(validation, labels))])
        model.output_norm.div_(temperature)
        results = {"rows": {"training": len(training), "validation": len(validation), "evaluation": len(test)},
                   "temperature": round(temperature, 3),
                   "model": classification(scorer, args.question, as_set(test, labels)),
                   "logistic_regression": regression(training, test)}
        write_model(args.out, model, tokenizer, args.name)
    write_task(args.out, args.name, args.question, labels)
    with open(f"{args.out}/figures.json", "w") as file:
        json.dump(results, file, indent=1)
    with open(f"{args.out}/{args.name}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in as_set(test, labels))
    for method in ("model", "logistic_regression"):
        print(method, {key: value for key, value in results[method].items() if isinstance(value, (int, float))})


if __name__ == "__main__":
    main()
