"""Trains the tokenizer, and carries an earlier model's embedding over to it.

usage: tokenizer.py --data FOLDER --like MODEL.gguf --out tokenizer.json

Byte-level BPE with the special tokens of `--like`, a GGUF of export.py or a tokenizer.json. An answer begins without a space: the labels
are given once more in that form, so that each is one token or few.
"""

import argparse
import json
import random

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import choices
import render
from export import TOKEN_CONTROL
from warm_start import Reader

LINES, PARAGRAPHS, LABEL_WEIGHT = 60_000, 12_000, 300
VOCABULARY = 7936  # with an int8 head and two bits a weight, as `tern pack` writes them, just under 8 MB

# How `llama-bpe`, which the files name, splits text into the pieces that become tokens.
PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def with_pieces(model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def load(path):
    """The tokenizer of a tokenizer.json or of a GGUF of export.py."""
    if not path.endswith(".gguf"):
        return Tokenizer.from_file(path)
    entries = Reader(path).entries
    tokens = entries["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in entries["tokenizer.ggml.merges"]]
    tokenizer = with_pieces(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    kinds = zip(tokens, entries["tokenizer.ggml.token_type"])
    tokenizer.add_special_tokens([
        AddedToken(token, special=True, normalized=False) for token, kind in kinds if kind == TOKEN_CONTROL])
    return tokenizer


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
    tokenizer = with_pieces(models.BPE())
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
    parser.add_argument("--like", required=True, help="GGUF or tokenizer.json with the special tokens")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    trained(args.data, load(args.like)).save(args.out)


if __name__ == "__main__":
    main()
