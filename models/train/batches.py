"""Batches of equal token count from the two kinds of text, each in batches of similar length.

An example stands alone in its row, with BOS at position 0 as at inference. The rows of a batch are asked the same
question where there is one for many, so its tokens are computed once; behind it the rows are padded to the same length,
one of LENGTHS, so little is wasted and the compiled code sees few shapes.
"""

import collections
import itertools
import json
from typing import NamedTuple

import numpy as np
import torch

import choices
import label_words
import render
from held_out import EvaluationTexts
from tokenizer import load as load_tokenizer

BATCH_TOKENS = 1920  # beside the question's
LENGTHS = (16, 24, 30, 40, 48, 64, 80, 96, 128, 160, 192)  # each divides BATCH_TOKENS; longer examples are left out
QUESTION_LENGTHS = (16, 64)  # to which questions are padded; longer ones are code of their own
TRAINED_POSITIONS = 384  # the LM head is dear: it sees the answers and a sample of the prompts
CHUNK = 2000  # examples tokenised at once
KINDS = {"subsystem": sorted(choices.NAMES), "severity": sorted(choices.SEVERITY_NAMES)}  # of `line_shares`
LONGEST_LABEL = 6  # tokens for which a row is left room before its label is known
POOL = 5  # batches of texts to choose from, once the labels of a batch are drawn
CROSSED = 0.4  # of the log examples are lines of crossed.py
MERGES_SKIPPED = 0.1  # of half of the log lines' (BPE-dropout, Provilkov 2020): names never seen fall to pieces


class Row(NamedTuple):
    """An example in tokens, without its batch's question: the answer begins at `answer_start`.

    `shares` are (token, share) of the answer's first token, `line_shares` what is known of the text whatever is asked.
    """

    ids: list
    answer_start: int
    shares: list
    line_shares: list | None


class Batch:
    """One question and the rows behind it.

    head [padded] with `head_length` tokens, ids [rows, length], and for some flat positions the next token and whether
    it is of an answer. Where a teacher gave shares, the place among the positions, the token and its share are in the
    three soft lists. `line_shares` [rows, classes] is None where nothing is known of the texts.
    """

    def __init__(self, head, rows, length, rng):
        ids = np.zeros((len(rows), length), np.int64)
        is_answer = np.zeros((len(rows), length), bool)
        is_text = np.zeros((len(rows), length), bool)
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = row.ids
            is_answer[place, row.answer_start - 1 : len(row.ids) - 1] = True
            is_text[place, : row.answer_start - 1] = True
        answers, texts = np.flatnonzero(is_answer), np.flatnonzero(is_text)
        wanted = min(len(texts), max(0, TRAINED_POSITIONS - len(answers)))
        sampled = rng.sample(range(len(texts)), wanted)
        positions = np.concatenate([answers, texts[sampled]])
        soft = [(int(np.searchsorted(answers, place * length + row.answer_start - 1)), token, share)
                for place, row in enumerate(rows) for token, share in row.shares]
        self.head_length = len(head)
        padded = next((longest for longest in QUESTION_LENGTHS if len(head) <= longest), len(head))
        self.head = torch.tensor(head + [0] * (padded - len(head)))
        self.ids = torch.from_numpy(ids)
        self.positions = torch.from_numpy(positions)
        self.targets = torch.from_numpy(ids.reshape(-1)[positions + 1])
        self.is_answer = torch.from_numpy(is_answer.reshape(-1)[positions])
        self.soft_places = torch.tensor([place for place, _, _ in soft], dtype=torch.int64)
        self.soft_tokens = torch.tensor([token for _, token, _ in soft], dtype=torch.int64)
        self.soft_shares = torch.tensor([share for _, _, share in soft], dtype=torch.float32)
        self.answer_starts = torch.tensor([row.answer_start for row in rows])
        known = [row.line_shares for row in rows]
        self.line_shares = None if None in known else torch.tensor(known)
        self.tokens = len(head) + sum(len(row.ids) for row in rows)


class Words:
    """A tokenizer, with what of its work is always the same kept."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.vocab = tokenizer.get_vocab_size()
        self.bos, self.stop = (tokenizer.token_to_id(name) for name in ("<|begin_of_text|>", render.STOP))
        self.known = {}
        self.end = self.ids(choices.END)
        # What all questions begin with.
        heads = [self.head(question) for question in ("A", "what", "-")]
        self.opening = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*heads))]

    def ids(self, text):
        """The tokens of a question, label or the like; those that come again are kept."""
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.known[text]

    def head(self, question):
        """The tokens before a text. A line break is a piece's end, so they do not depend on the text."""
        return [self.bos] + self.ids(choices.HEAD.format(instructions=question))

    def texts(self, texts, merges_skipped):
        self.tokenizer.model.dropout = merges_skipped or None
        found = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        self.tokenizer.model.dropout = None
        return [encoding.ids for encoding in found]

    def row(self, before, text, answer, shares, line_shares):
        """The row of an answer to a text; answers that begin alike count together."""
        ids = before + text + self.end
        sums = collections.defaultdict(float)
        for other, share in (shares or {}).items():
            sums[self.ids(other)[0]] += share
        answer = self.tokenizer.encode(answer, add_special_tokens=False).ids
        return Row(ids + answer + [self.stop], len(ids), list(sums.items()), line_shares)


def fitting(length):
    return next((longest for longest in LENGTHS if length <= longest), None)


class Source:
    """An endless stream of batches from `rows`, each pass in a new order and rendered anew."""

    def __init__(self, rows, to_example, tokenizer, rng, merges_skipped=0.0):
        self.rows, self.to_example, self.rng, self.merges_skipped = rows, to_example, rng, merges_skipped
        self.words = Words(tokenizer)
        self.waiting = collections.defaultdict(list)
        self.batches = self.stream()

    def next_batch(self):
        return next(self.batches)

    def stream(self):
        while True:
            order = self.rng.sample(self.rows, len(self.rows))
            for number, start in enumerate(range(0, len(order), CHUNK)):
                examples = [example for example in map(self.to_example, order[start : start + CHUNK]) if example]
                texts = self.words.texts([example.text for example in examples], number % 2 * self.merges_skipped)
                for example, text in zip(examples, texts):
                    is_choice = isinstance(example, choices.Choice)
                    yield from (self.with_choice if is_choice else self.with_example)(example, text)

    def with_example(self, example, text):
        """A batch, once so many examples of about this length wait for the same question."""
        head = self.words.head(example.question)
        common = head if example.is_common else self.words.opening
        row = self.words.row(head[len(common) :], text, example.answer, example.shares, example.line_shares)
        length = fitting(len(row.ids))
        if length:
            waiting = self.waiting[tuple(common), length]
            waiting.append(row)
            if len(waiting) == BATCH_TOKENS // length:
                yield Batch(common, self.waiting.pop((tuple(common), length)), length, self.rng)

    def with_choice(self, choice, text):
        """A batch, once enough texts of about this length wait that labels can be drawn which many of them fit."""
        length = fitting(len(text) + len(self.words.end) + LONGEST_LABEL + 1)
        if not length:
            return
        waiting = self.waiting[choice.forms, length]
        waiting.append((choice, text))
        size = BATCH_TOKENS // length
        if len(waiting) < POOL * size:
            return
        offer = choices.Offer(self.rng.choice(waiting)[0].truth, choice.names, self.rng)
        fit = [entry for entry in waiting if offer.answer(entry[0].truth)]
        # Where most would be answered by `other`, the rest wait for another question.
        others = [entry for entry in fit if entry[0].truth not in offer.classes][size // 4 :]
        fit = [entry for entry in fit if not any(entry is other for other in others)][:size]
        head = self.words.head(offer.question(self.rng.choice(choice.forms)))
        rows = [self.words.row([], text, offer.answer(choice.truth), offer.shares(choice.shares), choice.line_shares)
                for choice, text in fit]
        if len(fit) < size or len(head) > QUESTION_LENGTHS[-1] or any(len(row.ids) > length for row in rows):
            waiting.pop(self.rng.randrange(len(waiting)))
            return
        taken = {id(entry) for entry in fit}
        self.waiting[choice.forms, length] = [entry for entry in waiting if id(entry) not in taken]
        yield Batch(head, rows, length, self.rng)


def line_shares(log):
    """The teachers' shares of all classes of KINDS, or zeros where none is known."""
    by_kind = [(log.get(f"{kind}_shares") or {}, names) for kind, names in KINDS.items()]
    return [shares.get(name, 0.0) for shares, names in by_kind for name in names]


def sources(data, evaluation_paths, tokenizer_path, rng):
    """The streams of log batches and of description batches from the folder `data`, as prep.py wrote it."""
    evaluation = EvaluationTexts(evaluation_paths)
    tokenizer = load_tokenizer(tokenizer_path)
    with open(f"{data}/logs.json") as file:
        logs = [{**log, "line_shares": line_shares(log)} for log in json.load(file)]
    with open(f"{data}/crossed.json") as file:
        crossed = [{**line, "line_shares": line_shares({"subsystem_shares": line["shares"]})}
                   for line in json.load(file)]
    with open(f"{data}/pairs.json") as file:
        pairs = json.load(file)
    known = render.Known(pairs)
    words = label_words.of_classes(logs)
    names = (choices.NAMES, {name: (*choices.NAMES[name], *words[name]) for name in choices.NAMES})

    def log_example(log):
        if rng.random() < CROSSED:
            return render.crossed_example(rng.choice(crossed), names, rng)
        return render.log_example(log, evaluation, names, rng)

    return (Source(logs, log_example, tokenizer, rng, MERGES_SKIPPED),
            Source(pairs, lambda pair: render.pair_example(pair, evaluation, known, rng), tokenizer, rng))
