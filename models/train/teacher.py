"""Soft labels: what a logistic regression that never saw a message thinks of it.

Folder and macro are noisy labels: "failed to enable clock" is in every folder. A model fitted to the messages of
other drivers knows how uncertain a message is; its probabilities beside the label teach a small model faster, and
not to be surer than the data allow.
"""

import numpy as np

from baselines import CHARACTERS, WORDS, Regression, rows_of
from held_out import hash_of

FOLDS = 3
REGRESSION = dict(CHARACTERS, max_features=60_000, ngram_range=(3, 5))
LABEL_WEIGHT = 0.5  # of the source's own label, beside the teacher's opinion


def add_shares(logs, label):
    """Gives each log that has the label `<label>_shares`: class to probability, by drivers' folds."""
    labelled = [log for log in logs if log[label]]
    rows = rows_of(labelled, label)
    folds = np.array([hash_of(log["driver"]) // 7 % FOLDS for log in labelled])
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        teacher = Regression(WORDS, REGRESSION, iterations=25).fit([rows[index] for index in outside])
        shares = teacher.shares([rows[index][0] for index in inside])
        right = (np.array(teacher.labels)[shares.argmax(1)] == [rows[index][1] for index in inside]).mean()
        print(f"{label}: fold {fold}, {len(outside)} rows, right on {right:.3f} of the others", flush=True)
        for index, row in zip(inside, shares):
            mixed = {name: round(float(share) * (1 - LABEL_WEIGHT), 4) for name, share in zip(teacher.labels, row)}
            mixed[rows[index][1]] += LABEL_WEIGHT
            labelled[index][f"{label}_shares"] = mixed
