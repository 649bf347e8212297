"""Soft labels: what simpler models that never saw a driver's messages think of them.

Folder and macro are noisy labels: "failed to enable clock" is in every folder. Models fitted to the messages of other
drivers know how uncertain a message is; their probabilities beside the label teach a small model faster, and not to be
surer than the data allow.
"""

import numpy as np

from baselines import CHARACTERS, FAST_TEXT, WORDS, FastText, Regression, rows_of
from held_out import hash_of, package_family

FOLDS = 3
REGRESSION = dict(CHARACTERS, max_features=60_000, ngram_range=(3, 5))
LEAST_SHARE = 1e-3  # smaller ones are left out
LABEL_WEIGHT = 0.5  # of the source's own label, beside the teachers' opinion


def opinion(rows, texts, more_rows=()):
    """The labels, and the mean of the two teachers' probabilities [texts, labels]; `more_rows` are fastText's alone."""
    teachers = [Regression(WORDS, REGRESSION, iterations=25).fit(rows), FastText().fit([*rows, *more_rows])]
    shares = [teacher.shares(texts) for teacher in teachers]
    return sorted({label for _, label in rows}), sum(one / one.sum(1, keepdims=True) for one in shares) / len(shares)


def fast_opinion(rows, texts):
    """fastText's alone, for long texts and many labels."""
    method = FastText(dict(FAST_TEXT, epoch=20)).fit(rows)
    shares = method.shares(texts)
    return method.labels, shares / shares.sum(1, keepdims=True)


def by_folds(rows, groups, opinion=opinion, label_weight=LABEL_WEIGHT):
    """For each of the (text, label) rows the class probabilities that teach it: its label with that weight, the rest
    the opinion of teachers that saw no row of its fold. Rows of one group, numbers of any size, share a fold."""
    folds = np.array([group % FOLDS for group in groups])
    taught = [None] * len(rows)
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        names, shares = opinion([rows[index] for index in outside], [rows[index][0] for index in inside])
        right = (np.array(names)[shares.argmax(1)] == [rows[index][1] for index in inside]).mean()
        print(f"teachers, fold {fold}: {len(outside)} rows, right on {right:.3f} of the others", flush=True)
        for index, row in zip(inside, shares):
            mixed = {name: round(float(share) * (1 - label_weight), 4)
                     for name, share in zip(names, row) if share > LEAST_SHARE}
            mixed[rows[index][1]] = mixed.get(rows[index][1], 0.0) + label_weight
            taught[index] = mixed
    return taught


def add_shares(logs, label):
    """Gives each log that has the label `<label>_shares`: class to probability, by drivers' folds."""
    labelled = [log for log in logs if log[label]]
    groups = [hash_of(log["driver"]) // 7 for log in labelled]
    for log, shares in zip(labelled, by_folds(rows_of(labelled, label), groups)):
        log[f"{label}_shares"] = shares


def add_section_shares(pairs):
    """Gives each pair that has a section `section_shares`: the opinion alone, by folds of package families.

    The label counts once a question offers some sections (`choices.py`).
    """
    placed = [pair for pair in pairs if pair["section"]]
    groups = [hash_of(package_family(pair["package"])) // 7 for pair in placed]
    rows = [(pair["text"], pair["section"]) for pair in placed]
    for pair, shares in zip(placed, by_folds(rows, groups, fast_opinion, label_weight=0.0)):
        pair["section_shares"] = shares
