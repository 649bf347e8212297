"""Batches of equal token count from the two kinds of text, each in batches of similar length.

An example stands alone in its row, with BOS at position 0 as at inference. Rows of one batch are padded to the
same length, one of LENGTHS, so little is wasted and the compiled code sees few shapes.
"""

import collections
import json
from typing import NamedTuple

import numpy as np
import torch

import render
from held_out import EvaluationTexts
from tokenizer import load as load_tokenizer

BATCH_TOKENS = 1920
LENGTHS = (32, 48, 64, 96, 128, 160, 192)  # each divides BATCH_TOKENS; longer examples are left out
TRAINED_POSITIONS = 512  # the LM head is the dearest layer: it sees the answers and a sample of the prompts
INSTRUCTION_TOKENS = 8  # the opening of a prompt, always alike: nothing to learn there
CHUNK = 2000  # examples tokenised at once


class Tokens(NamedTuple):
    """An example in tokens: the answer begins at `answer_start`; `shares` are (token, share) of its first token."""

    ids: list
    answer_start: int
    shares: list


class Batch:
    """ids [rows, length], and for TRAINED_POSITIONS flat positions the next token and whether it is of an answer.

    Where a teacher gave shares, the place among the positions, the token and its share are in the three soft lists.
    """

    def __init__(self, examples, length, rng):
        ids = np.zeros((len(examples), length), np.int64)
        is_answer = np.zeros((len(examples), length), bool)
        is_text = np.zeros((len(examples), length), bool)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
            is_answer[row, example.answer_start - 1 : len(example.ids) - 1] = True
            is_text[row, INSTRUCTION_TOKENS : example.answer_start - 1] = True
        answers, texts = np.flatnonzero(is_answer), np.flatnonzero(is_text)
        wanted = min(len(texts), max(0, TRAINED_POSITIONS - len(answers)))
        sampled = rng.sample(range(len(texts)), wanted)
        positions = np.concatenate([answers, texts[sampled]])[:TRAINED_POSITIONS]
        soft = [(int(np.searchsorted(answers, row * length + example.answer_start - 1)), token, share)
                for row, example in enumerate(examples) for token, share in example.shares]
        soft = [entry for entry in soft if entry[0] < TRAINED_POSITIONS]
        self.ids = torch.from_numpy(ids)
        self.positions = torch.from_numpy(positions)
        self.targets = torch.from_numpy(ids.reshape(-1)[positions + 1])
        self.is_answer = torch.from_numpy(is_answer.reshape(-1)[positions])
        self.soft_places = torch.tensor([place for place, _, _ in soft], dtype=torch.int64)
        self.soft_tokens = torch.tensor([token for _, token, _ in soft], dtype=torch.int64)
        self.soft_shares = torch.tensor([share for _, _, share in soft], dtype=torch.float32)
        self.tokens = sum(len(example.ids) for example in examples)


class Source:
    """An endless stream of batches from `rows`, each pass in a new order and rendered anew."""

    def __init__(self, rows, to_example, tokenizer, rng):
        self.rows, self.to_example, self.tokenizer, self.rng = rows, to_example, tokenizer, rng
        self.waiting = collections.defaultdict(list)
        self.first_token_of = {}
        self.batches = self.stream()

    def next_batch(self):
        return next(self.batches)

    def stream(self):
        while True:
            order = self.rng.sample(self.rows, len(self.rows))
            for start in range(0, len(order), CHUNK):
                yield from self.full_batches(order[start : start + CHUNK])

    def full_batches(self, rows):
        examples = [example for example in map(self.to_example, rows) if example]
        prompts = self.tokenizer.encode_batch([example.prompt for example in examples], add_special_tokens=False)
        answers = self.tokenizer.encode_batch([example.answer for example in examples], add_special_tokens=False)
        bos, stop = (self.tokenizer.token_to_id(name) for name in ("<|begin_of_text|>", render.STOP))
        for example, prompt, answer in zip(examples, prompts, answers):
            ids = [bos] + prompt.ids + answer.ids + [stop]
            length = next((length for length in LENGTHS if len(ids) <= length), None)
            if length is None:
                continue
            self.waiting[length].append(Tokens(ids, 1 + len(prompt.ids), self.first_tokens(example.shares)))
            if len(self.waiting[length]) == BATCH_TOKENS // length:
                yield Batch(self.waiting.pop(length), length, self.rng)

    def first_tokens(self, shares):
        """(token, share) of what an answer may begin with; answers that begin alike count together."""
        sums = collections.defaultdict(float)
        for answer, share in (shares or {}).items():
            if answer not in self.first_token_of:
                self.first_token_of[answer] = self.tokenizer.encode(answer, add_special_tokens=False).ids[0]
            sums[self.first_token_of[answer]] += share
        return list(sums.items())


def sources(data, evaluation_paths, tokenizer_path, rng):
    """The streams of log batches and of description batches from the folder `data`, as prep.py wrote it."""
    evaluation = EvaluationTexts(evaluation_paths)
    tokenizer = load_tokenizer(tokenizer_path)
    with open(f"{data}/logs.json") as file:
        logs = json.load(file)
    with open(f"{data}/pairs.json") as file:
        pairs = json.load(file)
    known = render.Known(pairs)

    return (Source(logs, lambda log: render.log_example(log, evaluation, rng), tokenizer, rng),
            Source(pairs, lambda pair: render.pair_example(pair, evaluation, known, rng), tokenizer, rng))
