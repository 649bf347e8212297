"""Writes crossed.json: lines that no source prints, made of two messages' parts, and what the teachers think of each.

usage: crossed.py --data FOLDER --eval FILE [FILE ...] [--lines N]

A message teaches what its file is about; it does not show which of its words say so. A line of parts that do not belong
together has no label but the teachers', and to agree with them on very many such lines is to learn how they weigh each
part (function matching: Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent").
"""

import argparse
import collections
import itertools
import json
import random

import render
import teacher
from baselines import SEED, rows_of
from held_out import EvaluationTexts

LINES = 400_000
SAME_CLASS = 0.5  # of the pairs of messages, so that not all lines are ambiguous
RENDERINGS = 3  # of each message, for fastText, which gains by them
LEAST_SHARE = 0.002  # smaller ones are left out of the file


def joined(first, second, rng):
    """The beginning of one text and the end of another, each at least a word."""
    words, others = first.split(), second.split()
    return " ".join(words[: rng.randint(1, len(words))] + others[rng.randrange(len(others)) :])


def thinned(text, rng):
    """The text without some of its words."""
    kept = rng.uniform(0.4, 1.0)
    words = text.split()
    return " ".join(word for word in words if rng.random() < kept) or rng.choice(words)


def mixed(text, other, rng):
    """Half of the time the beginning of the text and the end of another, else the text or some of its words."""
    form = rng.random()
    if form < 0.5:
        return joined(text, other, rng)
    return thinned(text, rng) if form < 0.75 else text


def pairs_of(rows, label_of, rng):
    """Pairs of rows without end, SAME_CLASS of them with the same label."""
    by_label = collections.defaultdict(list)
    for row in rows:
        by_label[label_of(row)].append(row)
    while True:
        one = rng.choice(rows)
        yield one, rng.choice(by_label[label_of(one)] if rng.random() < SAME_CLASS else rows)


def crossing(one, other, rng):
    """A line of parts of two messages, with the driver of either."""
    text = mixed(render.message(one["template"], rng), render.message(other["template"], rng), rng)
    return render.prefix(rng.choice((one, other))["driver"], rng) + text


def crossings(logs, count, evaluation, rng):
    lines = (crossing(*pair, rng) for pair in pairs_of(logs, lambda log: log["subsystem"], rng))
    return list(itertools.islice((line for line in lines if not evaluation.has(line)), count))


def judged(lines, names, shares):
    """Each line with the shares that the teachers give it, most of them left out as too small to count."""
    return [{"text": line, "shares": {
                name: round(float(share), 3) for name, share in zip(names, of_line) if share >= LEAST_SHARE}}
            for line, of_line in zip(lines, shares)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that prep.py wrote")
    parser.add_argument("--eval", required=True, nargs="+", help="evaluation files, whose texts are left out")
    parser.add_argument("--lines", type=int, default=LINES)
    args = parser.parse_args()
    with open(f"{args.data}/logs.json") as file:
        logs = json.load(file)
    lines = crossings(logs, args.lines, EvaluationTexts(args.eval), random.Random(11))
    renderings = [rows_of(logs, "subsystem", SEED + number) for number in range(RENDERINGS)]
    names, shares = teacher.opinion(renderings[0], lines, sum(renderings[1:], []))
    with open(f"{args.data}/crossed.json", "w") as file:
        json.dump(judged(lines, names, shares), file)
    print(f"{len(lines)} lines, the teachers' best share {shares.max(1).mean():.3f} in the mean")


if __name__ == "__main__":
    main()
