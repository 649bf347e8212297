"""Finds the temperature with which a checkpoint's probabilities fit the validation sets best.

usage: calibrate.py --model FILE [--tokenizer FILE] --data FOLDER [--rows N]

Prints one number for `export.py --temperature`, which divides the output norm's weights by it: the file stays an
ordinary one, and every logit of it is divided. The sets are prep.py's own, never the evaluation files.
"""

import argparse

import torch

import figures
import render
from evaluate import Scorer, prompt_of
from export import load
from tokenizer import load as load_tokenizer

TEMPERATURES = torch.linspace(0.5, 2.5, 41)
SETS = ("log-subsystem", "log-severity")


def losses(scorer, question, rows):
    """The mean negative log-likelihood [temperatures] of the rows' answers."""
    total = torch.zeros(len(TEMPERATURES))
    for row in rows:
        shares = scorer.label_shares(prompt_of(row, question), row["labels"], TEMPERATURES)
        total -= shares[:, row["labels"].index(row["answer"])].clamp(min=1e-9).log()
    return total / len(rows)


def best_temperature(scorer, sets):
    """The temperature for sets given as (question, rows), each of the same weight."""
    return float(TEMPERATURES[sum(losses(scorer, question, rows) for question, rows in sets).argmin()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer", help="tokenizer.json, for a checkpoint; a GGUF has its own")
    parser.add_argument("--data", required=True, help="folder that prep.py wrote")
    parser.add_argument("--rows", type=int, help="only the first rows of each set")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        scorer = Scorer(load(args.model), load_tokenizer(args.tokenizer or args.model))
        sets = [(render.QUESTIONS[name], figures.read(f"{args.data}/val-{name}.jsonl", args.rows)) for name in SETS]
        print(round(best_temperature(scorer, sets), 3))


if __name__ == "__main__":
    main()
