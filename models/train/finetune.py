"""Your labels, your model: a CSV of text and label in, a ternary model, its task file and its evaluation out.

usage: finetune.py --csv FILE --model FILE.gguf --question TEXT --out FOLDER [--minutes N]

The CSV has the columns `text` and `label`. One text in five is kept for the evaluation and one in ten to choose the
temperature by; texts alike but for their digits stay together. The answer is measured beside a logistic regression on
the same rows: with few of them that may be the better choice, and the figures say so. Two processes train, as in
train.py.
"""

import argparse
import collections
import csv
import itertools
import json
import os
import random
import shutil
import struct
import sysconfig
import time
from typing import NamedTuple

import torch

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
from parallel import Helper, step
from tokenizer import load as load_tokenizer
from train import loss_of, optimizers

LEAST_OF_A_LABEL = 5
LONGEST_TEXT = 400  # characters; what is longer is cut
PROMPT_WEIGHT = 0.1
MATRIX_RATE, OTHER_RATE = 4e-3, 5e-3  # of few steps, so above those of train.py
WARM_UP_STEPS = 20
FIGURES = 2  # rows, answer loss
LINES_OF_A_ROW, MOST_LINES = 8, 60_000  # made of parts of two texts
PASSES = 40  # at most, through the rows: beyond, small sets are learned by heart


class Lesson(NamedTuple):
    """What is asked, the labels, ((text, label), what teaches it) for each row, and the lines made of the rows."""

    question: str
    labels: list
    taught: list
    lines: list


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


class Gradients:
    """Leaves the gradient of one batch in a model: of rows with what teaches them, and of lines made of them."""

    def __init__(self, lesson, tokenizer, seed):
        self.question, self.labels, taught, self.lines = lesson
        self.rng = random.Random(seed)
        self.source = Source(taught, self.example, tokenizer, self.rng, MERGES_SKIPPED)

    def example(self, row):
        (text, label), shares = row
        if self.rng.random() < CROSSED:
            text, shares = self.rng.choice(self.lines).values()
            label = max(shares, key=shares.get)
        asked = choices.fixed(self.question, text, label, shares)
        return asked._replace(line_shares=[shares.get(name, 0.0) for name in self.labels])

    def compute(self, model):
        batch = self.source.next_batch()
        loss, answer_loss = loss_of(model, batch, PROMPT_WEIGHT)
        loss.backward()
        return torch.tensor([len(batch.ids), float(answer_loss)])


def can_compile():
    """Whether what `torch.compile` needs is here: a compiler for C++ and Python's headers."""
    return bool(shutil.which("g++")) and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))


def prepare(path, lesson, seed):
    """The file's model and what computes its gradients, in a process of one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tokenizer = begin_with(path)
    model.auxiliary = Auxiliary(model.shape.hidden, [len(lesson.labels)], [1.0])
    if can_compile():
        model.compile()
    return model, Gradients(lesson, tokenizer, seed).compute


def lesson_of(rows, question):
    """The lesson of the (text, label) rows."""
    labels = sorted({label for _, label in rows})
    taught = teacher.by_folds(rows, [hash_of(normal(text)) for text, _ in rows])
    return Lesson(question, labels, list(zip(rows, taught)), crossings(rows, random.Random(0)))


def tune(path, lesson, minutes):
    """The weights of the file's model, trained until the time or PASSES passes are over, at falling rates."""
    model, compute = prepare(path, lesson, 1)
    pairs = optimizers(model, MATRIX_RATE, OTHER_RATE)
    helper = Helper(list(model.parameters()), FIGURES, prepare, (path, lesson, 2))
    start, steps, seen = time.monotonic(), 0, 0
    most = PASSES * len(lesson.taught)
    while (progress := max((time.monotonic() - start) / (60 * minutes), seen / most)) < 1:
        for optimizer, rate in pairs:
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (steps + 1) / WARM_UP_STEPS) * (1 - progress)
        here, there = step(model, compute, helper, pairs)
        seen += int(here[0]) + (int(there[0]) if there is not None else 0)
        steps += 1
        if steps % 20 == 0:
            passes = seen / len(lesson.taught)
            print(f"step {steps}, {passes:.1f} passes, answer loss {float(here[1]):.3f}", flush=True)
    helper.stop()
    del model.auxiliary
    return model.state_dict()


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
    print(len(training), "rows for training:", dict(collections.Counter(label for _, label in training)), flush=True)
    if not can_compile():
        print("without g++ and python3-dev a step takes longer", flush=True)
    threads = torch.get_num_threads()
    model.load_state_dict(tune(args.model, lesson_of(training, args.question), args.minutes))
    torch.set_num_threads(threads)

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
