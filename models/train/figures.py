"""The figures of an evaluation, the same for the model and for the baselines."""

import json
import re

import numpy as np

BINS = 10  # of the calibration error, by confidence


def read(path, rows=None):
    with open(path) as file:
        return [json.loads(line) for line in file][:rows]


def calibration_error(confidences, right):
    """The mean over BINS equal ranges of confidence, by rows, of |accuracy - mean confidence|."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    gaps = [abs(right[bins == b].sum() - confidences[bins == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(right))


def of_guesses(guesses, confidences, answers):
    """Figures of answers with their probabilities. F1 is of the labels that occur as answers."""
    guesses, confidences, answers = np.asarray(guesses), np.asarray(confidences), np.asarray(answers)
    right = guesses == answers
    by_confidence = right[np.argsort(-confidences, kind="stable")]
    f1 = {}
    for label in sorted(set(answers)):
        hits = ((guesses == label) & (answers == label)).sum()
        f1[str(label)] = round(float(2 * hits / ((guesses == label).sum() + (answers == label).sum())), 3)
    return {
        "rows": len(answers),
        "accuracy": round(float(right.mean()), 4),
        "confident_half_accuracy": round(float(by_confidence[: len(right) // 2].mean()), 4),
        "calibration_error": round(calibration_error(confidences, right), 4),
        "macro_f1": round(sum(f1.values()) / len(f1), 4),
        "majority_class": round(max(float((answers == label).mean()) for label in f1), 4),
        "f1": f1,
    }


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


def of_summaries(guesses, answers):
    return round(sum(map(rouge_l, guesses, answers)) / len(answers), 4)
