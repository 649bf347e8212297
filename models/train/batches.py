"""Batches of equal token count from the two kinds of example, each in batches of similar length.

An example stands alone in its row, with BOS at position 0 as at inference. Rows of one batch are padded to the
same length, one of LENGTHS, so little is wasted and the compiled code sees few shapes.
"""

import collections
import json

import numpy as np
import torch
from tokenizers import Tokenizer

import render
from held_out import EvaluationTexts

BATCH_TOKENS = 1920
LENGTHS = (32, 48, 64, 96, 128, 160, 192)  # each divides BATCH_TOKENS; longer examples are left out
TRAINED_POSITIONS = 512  # the LM head is the dearest layer: it sees the answers and a sample of the prompts
INSTRUCTION_TOKENS = 8  # the opening of a prompt, always alike: nothing to learn there
CHUNK = 2000  # examples tokenised at once


class Batch:
    """ids [rows, length], and for TRAINED_POSITIONS flat positions the next token and whether it is of an answer."""

    def __init__(self, examples, length, rng):
        ids = np.zeros((len(examples), length), np.int64)
        is_answer = np.zeros((len(examples), length), bool)
        is_text = np.zeros((len(examples), length), bool)
        for row, (tokens, answer_start) in enumerate(examples):
            ids[row, : len(tokens)] = tokens
            is_answer[row, answer_start - 1 : len(tokens) - 1] = True
            is_text[row, INSTRUCTION_TOKENS : answer_start - 1] = True
        answers, texts = np.flatnonzero(is_answer), np.flatnonzero(is_text)
        wanted = min(len(texts), max(0, TRAINED_POSITIONS - len(answers)))
        sampled = rng.sample(range(len(texts)), wanted)
        positions = np.concatenate([answers, texts[sampled]])[:TRAINED_POSITIONS]
        self.ids = torch.from_numpy(ids)
        self.positions = torch.from_numpy(positions)
        self.targets = torch.from_numpy(ids.reshape(-1)[positions + 1])
        self.is_answer = torch.from_numpy(is_answer.reshape(-1)[positions])
        self.tokens = sum(len(tokens) for tokens, _ in examples)


class Source:
    """An endless stream of batches from `rows`, each pass in a new order and rendered anew."""

    def __init__(self, rows, to_example, tokenizer, rng):
        self.rows, self.to_example, self.tokenizer, self.rng = rows, to_example, tokenizer, rng
        self.waiting = collections.defaultdict(list)
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
        prompts = self.tokenizer.encode_batch([prompt for prompt, _ in examples], add_special_tokens=False)
        answers = self.tokenizer.encode_batch([answer for _, answer in examples], add_special_tokens=False)
        bos, stop = (self.tokenizer.token_to_id(name) for name in ("<|begin_of_text|>", render.STOP))
        for prompt, answer in zip(prompts, answers):
            tokens = [bos] + prompt.ids + answer.ids + [stop]
            length = next((length for length in LENGTHS if len(tokens) <= length), None)
            if length is None:
                continue
            self.waiting[length].append((tokens, 1 + len(prompt.ids)))
            if len(self.waiting[length]) == BATCH_TOKENS // length:
                yield Batch(self.waiting.pop(length), length, self.rng)


def sources(data, evaluation_paths, tokenizer_path, rng):
    """The streams of log batches and of description batches from the folder `data`, as prep.py wrote it."""
    evaluation = EvaluationTexts(evaluation_paths)
    tokenizer = Tokenizer.from_file(tokenizer_path)
    with open(f"{data}/logs.json") as file:
        logs = json.load(file)
    with open(f"{data}/pairs.json") as file:
        pairs = json.load(file)

    return (Source(logs, lambda log: render.log_example(log, evaluation, rng), tokenizer, rng),
            Source(pairs, lambda pair: render.pair_example(pair, evaluation, rng), tokenizer, rng))
