"""Trains the tokenizer, and carries an earlier model's embedding over to it.

usage: tokenizer.py --data FOLDER --like tokenizer.json --out tokenizer.json

Byte-level BPE with the pre-tokenizer and the special tokens of `--like`. An answer begins without a space: the labels
are given once more in that form, so that each is one token or few.
"""

import argparse
import json
import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import choices
import render

LINES, PARAGRAPHS, LABEL_WEIGHT = 60_000, 12_000, 300
VOCABULARY = 8192


def answers():
    names = [name for names in (choices.NAMES, choices.SEVERITY_NAMES) for all_of in names.values() for name in all_of]
    names += [*choices.OTHER, "yes", "no"]
    return names + [name[:1].upper() + name[1:] for name in names]


def corpus(data, rng):
    with open(f"{data}/logs.json") as file:
        logs = json.load(file)
    with open(f"{data}/pairs.json") as file:
        pairs = json.load(file)
    yield from (render.line(log, rng) for log in rng.sample(logs, min(LINES, len(logs))))
    yield from (pair["text"] for pair in rng.sample(pairs, min(PARAGRAPHS, len(pairs))))
    yield from (pair["summary"] for pair in pairs)
    yield from answers() * LABEL_WEIGHT
    yield from (pair["section"] for pair in pairs if pair["section"])
    for question in (render.SUBSYSTEM, render.SEVERITY, render.SUMMARY, render.COPY, choices.NEEDS_A_PERSON):
        yield from choices.PROMPT.format(instructions=question, text="").split(render.STOP) * LABEL_WEIGHT


def trained(data, like):
    special = [token.content for _, token in sorted(like.get_added_tokens_decoder().items())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = like.pre_tokenizer, like.decoder
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(data, random.Random(5)), trainer)
    return tokenizer


def carried_over(embedding, old, new):
    """The embedding [old vocab, hidden] for the new vocabulary: a token that is new is the mean of its old parts."""
    old_vocabulary = old.get_vocab()
    parts_of = Tokenizer.from_str(old.to_str())
    parts_of.pre_tokenizer = None  # the new tokens are in the byte alphabet already
    rows = torch.empty(new.get_vocab_size(), embedding.shape[1])
    for token, index in new.get_vocab().items():
        parts = [old_vocabulary[token]] if token in old_vocabulary else parts_of.encode(
            token, add_special_tokens=False).ids
        rows[index] = embedding[parts].mean(0)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that prep.py wrote")
    parser.add_argument("--like", required=True, help="tokenizer.json whose form is taken")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    trained(args.data, Tokenizer.from_file(args.like)).save(args.out)


if __name__ == "__main__":
    main()
