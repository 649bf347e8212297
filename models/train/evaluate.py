"""Measures a checkpoint: label accuracy on the classification files, ROUGE-L and samples on the summary file.

usage: evaluate.py --checkpoint FILE --tokenizer FILE --eval FOLDER --out FIGURES.json [--rows N]

A label's score is the sum of the log-probabilities of its tokens and the stop token; the answer is the best label.
Summaries are greedy. All in float32, the arithmetic of inference.
"""

import argparse
import collections
import json
import re

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import render
from export import load
from model import causal

SUMMARY_TOKENS = 32  # at most; the stop token comes first in nearly all answers


def read(path, rows):
    with open(path) as file:
        return [json.loads(line) for line in file][:rows]


class Scorer:
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.bos, self.stop = (tokenizer.token_to_id(name) for name in ("<|begin_of_text|>", render.STOP))

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def label_shares(self, prompt, labels):
        """One probability a label, summing to 1, from one pass over the prompt with all labels behind it.

        Each label continues the prompt at the prompt's next position and sees the prompt and itself alone.
        """
        head = [self.bos] + self.ids(prompt)
        tails = [self.ids(label) for label in labels]
        ids, positions = list(head), list(range(len(head)))
        spans = []
        for tail in tails:
            spans.append((len(ids), len(ids) + len(tail)))
            ids += tail
            positions += range(len(head), len(head) + len(tail))
        mask = causal(len(ids))
        for start, end in spans:
            mask[start:end, len(head) : start] = float("-inf")
        hidden = self.model.hidden(torch.tensor([ids]), torch.tensor(positions), mask)[len(head) - 1 :]
        log_shares = self.model.logits(hidden).log_softmax(-1)
        scores = []
        for (start, end), tail in zip(spans, tails):
            rows = [0] + list(range(start - len(head) + 1, end - len(head) + 1))
            scores.append(log_shares[rows, tail + [self.stop]].sum())
        return F.softmax(torch.stack(scores), 0)

    def greedy(self, prompt):
        ids = [self.bos] + self.ids(prompt)
        answer = []
        while len(answer) < SUMMARY_TOKENS:
            token = int(self.model.logits(self.model.hidden(torch.tensor([ids]))[-1:]).argmax())
            if token == self.stop:
                break
            answer.append(token)
            ids.append(token)
        return self.tokenizer.decode(answer)


def classification(scorer, prompt, rows):
    """Accuracy, that of the more confident half, and the mean F1 over the labels that occur as answers."""
    outcomes = []
    for row in rows:
        shares = scorer.label_shares(prompt.format(text=row["text"]), row["labels"])
        best = int(shares.argmax())
        outcomes.append((float(shares[best]), row["labels"][best], row["answer"]))
    outcomes.sort(reverse=True)
    half = outcomes[: len(outcomes) // 2]
    scores = {}
    for label in sorted({answer for _, _, answer in outcomes}):
        hits = sum(guess == answer == label for _, guess, answer in outcomes)
        named = sum(guess == label for _, guess, _ in outcomes) + sum(answer == label for _, _, answer in outcomes)
        scores[label] = round(2 * hits / named, 3)
    answers = collections.Counter(answer for _, _, answer in outcomes)
    return {
        "rows": len(outcomes),
        "accuracy": share_right(outcomes),
        "confident_half_accuracy": share_right(half),
        "macro_f1": round(sum(scores.values()) / len(scores), 4),
        "majority_class": round(answers.most_common(1)[0][1] / len(outcomes), 4),
        "f1": scores,
    }


def share_right(outcomes):
    return round(sum(guess == answer for _, guess, answer in outcomes) / len(outcomes), 4)


def rouge_l(guess, answer):
    """The F-measure of the longest common subsequence of lower-case words."""
    a, b = (re.findall(r"[a-z0-9]+", text.lower()) for text in (guess, answer))
    if not a or not b:
        return 0.0
    row = [0] * (len(b) + 1)
    for word in a:
        above = row
        row = [0]
        for column, other in enumerate(b):
            row.append(above[column] + 1 if word == other else max(row[-1], above[column + 1]))
    return 2 * row[-1] / (len(a) + len(b))


def opening(text):
    """The trivial summary to compare with: the first ten words."""
    return " ".join(text.split()[:10])


def summaries(scorer, rows):
    guesses = [scorer.greedy(render.SUMMARY_PROMPT.format(text=row["text"])) for row in rows]
    scores = [rouge_l(guess, row["answer"]) for guess, row in zip(guesses, rows)]
    openings = [rouge_l(opening(row["text"]), row["answer"]) for row in rows]
    samples = [{"text": row["text"], "summary": guess, "answer": row["answer"]} for guess, row in zip(guesses, rows)]
    return {
        "rows": len(rows),
        "rouge_l": round(sum(scores) / len(scores), 4),
        "rouge_l_of_first_ten_words": round(sum(openings) / len(openings), 4),
        "samples": samples[:20],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="of train.py, or a GGUF of export.py")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--eval", required=True, help="folder of the evaluation files")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rows", type=int, help="only the first rows of each file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        scorer = Scorer(load(args.checkpoint), Tokenizer.from_file(args.tokenizer))
        subsystem, severity, summary = (
            read(f"{args.eval}/{name}.jsonl", args.rows) for name in ("log-subsystem", "log-severity", "summary"))
        figures = {
            "subsystem": classification(scorer, render.SUBSYSTEM_PROMPT, subsystem),
            "severity": classification(scorer, render.SEVERITY_PROMPT, severity),
            "summary": summaries(scorer, summary),
        }
    with open(args.out, "w") as file:
        json.dump(figures, file, indent=1)
    for name, values in figures.items():
        print(name, {key: value for key, value in values.items() if key != "samples"})
    for sample in figures["summary"]["samples"]:
        print("-", sample["summary"], "|", sample["answer"])


if __name__ == "__main__":
    main()
