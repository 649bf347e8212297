"""Learns token vectors for the model to begin with: what each token, with its neighbours, says of a log line.

usage: words.py --data FOLDER --tokenizer FILE --out VECTORS.pt [--minutes N]

A small convolution over three tokens, gated and summed over the line (as in TextCNN, Kim 2014), learns both labels from
the teachers' shares some hundred times faster than the model, and most of what it knows is in its token vectors. The
model begins with them in some directions of its embedding; attention and layers are still its own to learn.
"""

import argparse
import json
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import figures
import render
from batches import KINDS, MERGES_SKIPPED, Words, line_shares
from tokenizer import load as load_tokenizer

WIDTH, FEATURES, TOKENS = 64, 128, 3  # of a vector, of the convolution's output, under the convolution
LONGEST_LINE = 48  # tokens; what is longer is cut
ROWS = 256  # of a batch
VECTOR_RATE, OTHER_RATE = 4e-3, 2e-3
SHARE_OF_EMBEDDING = 1.0  # root mean square beside that of the random embedding
SEVERITY_WEIGHT = 0.5


class LineClassifier(nn.Module):
    """Logits [lines, labels] of ids [lines, tokens]; the id `vocab` is padding."""

    def __init__(self, vocab, labels):
        super().__init__()
        self.vocab = vocab
        self.vectors = nn.Parameter(torch.randn(vocab + 1, WIDTH) * 0.1)
        self.taps = nn.ModuleList(nn.Linear(WIDTH, 2 * FEATURES) for _ in range(TOKENS))
        self.output = nn.Linear(FEATURES + WIDTH, labels)

    def forward(self, ids):
        is_token = (ids < self.vocab).float().unsqueeze(-1)
        x = F.embedding(ids, self.vectors) * is_token
        mixed = sum(F.pad(tap(x), (0, 0, back, 0))[:, : ids.shape[1]] for back, tap in enumerate(self.taps))
        gate, up = mixed.chunk(2, -1)
        both = torch.cat([F.relu(gate) * up, x], -1) * is_token
        return self.output(F.dropout(both.sum(1) / is_token.sum(1).sqrt(), 0.1, self.training))


def padded(lines, vocab):
    ids = np.full((len(lines), min(LONGEST_LINE, max(map(len, lines))) + TOKENS - 1), vocab, np.int64)
    for place, line in enumerate(lines):
        ids[place, : min(LONGEST_LINE, len(line))] = line[:LONGEST_LINE]
    return torch.from_numpy(ids)


class Lines:
    """The templates' shares [logs, labels], and their lines, rendered anew for each pass."""

    def __init__(self, logs, tokenizer, rng):
        self.logs, self.words, self.rng = logs, Words(tokenizer), rng
        self.classes = list(KINDS.values())
        self.shares = torch.tensor([line_shares(log) for log in logs]).split([len(names) for names in self.classes], -1)

    def batches(self, number):
        """(ids, shares of each label) of the batches of a pass, in lines of similar length."""
        lines = self.words.texts([render.line(log, self.rng) for log in self.logs], number % 2 * MERGES_SKIPPED)
        order = sorted(range(len(lines)), key=lambda index: len(lines[index]) + self.rng.random() * TOKENS)
        groups = [order[start : start + ROWS] for start in range(0, len(order), ROWS)]
        self.rng.shuffle(groups)
        for group in groups:
            yield padded([lines[index] for index in group], self.words.vocab), [of[group] for of in self.shares]


def accuracy(model, lines, path, which):
    rows = figures.read(path)
    ids = padded(lines.words.texts([row["text"] for row in rows], 0), lines.words.vocab)
    with torch.no_grad():
        best = model(ids).split([len(names) for names in lines.classes], -1)[which].argmax(-1)
    return sum(lines.classes[which][int(guess)] == row["answer"] for guess, row in zip(best, rows)) / len(rows)


def learn(lines, minutes):
    model = LineClassifier(lines.words.vocab, sum(map(len, lines.classes)))
    others = [*model.taps.parameters(), *model.output.parameters()]
    optimizer = torch.optim.AdamW([dict(params=[model.vectors], rate=VECTOR_RATE), dict(params=others, rate=OTHER_RATE)],
                                  betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    start, passes = time.monotonic(), 0
    while True:
        for ids, shares in lines.batches(passes):
            progress = (time.monotonic() - start) / (60 * minutes)
            if progress >= 1:
                return model.eval(), passes
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * (1 - progress)
            parts = model(ids).split([of.shape[1] for of in shares], -1)
            losses = [-(of * part.log_softmax(-1)).sum(-1).mean() for of, part in zip(shares, parts)]
            (losses[0] + SEVERITY_WEIGHT * losses[1]).backward()
            optimizer.step()
            optimizer.zero_grad()
        passes += 1


def add_to(embedding, path):
    """Lays the vectors of the file, in random directions, into an embedding [vocab, hidden] of random numbers."""
    vectors = torch.load(path)
    vectors = vectors - vectors.mean(0)
    directions = torch.linalg.qr(torch.randn(embedding.shape[1], vectors.shape[1]))[0].T
    added = vectors @ directions
    with torch.no_grad():
        size = embedding.pow(2).mean().sqrt() / added.pow(2).mean().sqrt()
        embedding.mul_(0.7).add_(added * size * SHARE_OF_EMBEDDING)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that prep.py wrote")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    with open(f"{args.data}/logs.json") as file:
        lines = Lines(json.load(file), load_tokenizer(args.tokenizer), random.Random(0))
    model, passes = learn(lines, args.minutes)
    torch.save(model.vectors.detach()[:-1].clone(), args.out)
    right = [accuracy(model, lines, f"{args.data}/val-log-{label}.jsonl", which)
             for which, label in enumerate(KINDS)]
    print(f"{passes} passes; right on the validation rows: subsystem {right[0]:.3f}, severity {right[1]:.3f}")


if __name__ == "__main__":
    main()
