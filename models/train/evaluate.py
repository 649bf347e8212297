"""Measures a checkpoint: accuracy and calibration on the sets with labels, ROUGE-L and samples on those without.

usage: evaluate.py --model FILE [--tokenizer FILE] --eval FILE [FILE ...] --out FIGURES.json [--rows N]

A set is JSON lines of text, labels and answer, as `tern eval` takes them; the question is the row's `instructions`,
else that of the built-in task called like the file. Summaries are greedy. All in float32, the arithmetic of inference.
"""

import argparse
import collections
import json
import os
import random

import torch

import choices
import figures
import render
from export import load
from model import causal
from tokenizer import load as load_tokenizer

SUMMARY_TOKENS = 32  # at most; the stop token comes first in nearly all answers
ONE = torch.ones(1)
EXAMPLES = 10


class Scorer:
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.bos, self.stop = (tokenizer.token_to_id(name) for name in ("<|begin_of_text|>", render.STOP))

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def label_shares(self, prompt, labels, temperatures=ONE):
        """Probabilities [temperatures, labels], from one pass over the prompt with all labels behind it.

        Each label continues the prompt at the prompt's next position and sees the prompt and itself alone. At each
        token the probability is shared among the tokens with which some label goes on, as the runtime does it.
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
        logits = self.model.logits(hidden) / temperatures.view(-1, 1, 1)
        possible = collections.defaultdict(set)
        for tail in tails:
            for at, token in enumerate(tail + [self.stop]):
                possible[tuple(tail[:at])].add(token)
        scores = []
        for (start, _), tail in zip(spans, tails):
            score = torch.zeros(len(temperatures))
            for at, token in enumerate(tail + [self.stop]):
                row = logits[:, 0 if at == 0 else start - len(head) + at]
                score += row[:, token] - row[:, sorted(possible[tuple(tail[:at])])].logsumexp(-1)
            scores.append(score)
        return torch.stack(scores, -1).exp()

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


def prompt_of(row, question):
    return choices.PROMPT.format(instructions=row.get("instructions", question), text=row["text"])


def classification(scorer, question, rows):
    """The figures of a set, its ten surest wrong answers, and ten right and ten wrong ones drawn from all."""
    outcomes = []
    for row in rows:
        (shares,) = scorer.label_shares(prompt_of(row, question), row["labels"])
        best = int(shares.argmax())
        outcomes.append((float(shares[best]), row["labels"][best], row["answer"], row["text"]))
    right, wrong = ([outcome for outcome in outcomes if (outcome[1] == outcome[2]) == truth] for truth in (True, False))
    drawn = {f"{name}_examples": random.Random(0).sample(of, min(EXAMPLES, len(of)))
             for name, of in (("right", right), ("wrong", wrong))}
    confidences, guesses, answers, _ = zip(*outcomes)
    return (figures.of_guesses(guesses, confidences, answers) | {"surest_wrong": sorted(wrong, reverse=True)[:EXAMPLES]}
            | drawn)


def summaries(scorer, rows):
    guesses = [scorer.greedy(prompt_of(row, render.SUMMARY)) for row in rows]
    samples = [{"text": row["text"], "summary": guess, "answer": row["answer"]} for guess, row in zip(guesses, rows)]
    return {"rows": len(rows), "rouge_l": figures.of_summaries(guesses, [row["answer"] for row in rows]),
            "samples": samples[:50]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a checkpoint of train.py, or a GGUF of export.py")
    parser.add_argument("--tokenizer", help="tokenizer.json, for a checkpoint; a GGUF has its own")
    parser.add_argument("--eval", required=True, nargs="+", help="evaluation files")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rows", type=int, help="only the first rows of each file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with torch.no_grad():
        scorer = Scorer(load(args.model), load_tokenizer(args.tokenizer or args.model))
        for path in args.eval:
            rows = figures.read(path, args.rows)
            name = os.path.basename(path).removesuffix(".jsonl")
            question = render.QUESTIONS.get(name.removeprefix("val-"), "")
            is_choice = "labels" in rows[0]
            results[name] = classification(scorer, question, rows) if is_choice else summaries(scorer, rows)
            shown = {key: value for key, value in results[name].items() if isinstance(value, (int, float))}
            print(name, shown, flush=True)
            with open(args.out, "w") as file:
                json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
