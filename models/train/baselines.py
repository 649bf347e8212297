"""What simpler methods reach with the same training data: the bar for the model.

usage: baselines.py --data FOLDER --eval FOLDER --out BASELINES.json

Classification: logistic regression on words, and on words and character n-grams together (scikit-learn), and fastText
with its own settings and with the best we found, each fitted to one rendering of every training template with the
model's own labels; the last also to three. Summaries: the text's first ten words, its first sentence, and retrieval: the
summary of the training paragraph that is most alike (TF-IDF).
"""

import argparse
import json
import random
import tempfile

import fasttext
import numpy as np
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import figures
import render

SEED = 1
CHARACTERS = dict(analyzer="char_wb", ngram_range=(2, 5), min_df=5, max_features=200_000, sublinear_tf=True)
WORDS = dict(token_pattern=r"\w+", ngram_range=(1, 2), min_df=2, sublinear_tf=True)
REPEATABLE = dict(thread=1, verbose=0)
# The best of a few on the validation rows.
FAST_TEXT = dict(lr=0.5, epoch=5, wordNgrams=2, minn=2, maxn=5, dim=32, bucket=500_000)


def rows_of(logs, label, seed=SEED):
    """(text, label) of one rendering of each template that has the label."""
    rng = random.Random(seed)
    return [(render.line(log, rng), log[label]) for log in logs if log[label]]


class Regression:
    """Logistic regression on the n-grams that the vectorizers count."""

    def __init__(self, *vectorizers, weight=4.0, iterations=60):
        self.vectorizers = [TfidfVectorizer(**settings) for settings in vectorizers]
        self.weight, self.iterations = weight, iterations

    def features(self, texts, fit=False):
        return hstack([v.fit_transform(texts) if fit else v.transform(texts) for v in self.vectorizers]).tocsr()

    def fit(self, rows):
        texts, labels = zip(*rows)
        self.model = LogisticRegression(C=self.weight, max_iter=self.iterations, tol=1e-3)
        self.model.fit(self.features(texts, fit=True), labels)
        self.labels = list(self.model.classes_)
        return self

    def shares(self, texts):
        return self.model.predict_proba(self.features(texts))


class FastText:
    """Labels go by number and texts by words: a file of fastText has a row a line and no label with a space."""

    def __init__(self, settings=FAST_TEXT):
        self.settings = settings

    def fit(self, rows):
        self.labels = sorted({label for _, label in rows})
        numbers = {label: number for number, label in enumerate(self.labels)}
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            # It learns in the order of the file, which must not be that of the labels.
            shuffled = random.Random(SEED).sample(rows, len(rows))
            file.writelines(f"__label__{numbers[label]} {self.line(text)}" for text, label in shuffled)
            file.flush()
            self.model = fasttext.train_supervised(file.name, **self.settings, **REPEATABLE)
        return self

    @staticmethod
    def line(text):
        return " ".join(text.lower().split()) + "\n"

    def shares(self, texts):
        shares = np.zeros((len(texts), len(self.labels)))
        for row, text in enumerate(texts):
            # The wrapper's own `predict` does not run with numpy 2.
            for share, label in self.model.f.predict(self.line(text), len(self.labels), 0.0, "strict"):
                shares[row, int(label.removeprefix("__label__"))] = share
        return shares


def classifiers():
    """Each method with the number of renderings that it is fitted to."""
    return {"words": (Regression(WORDS), 1), "words_and_characters": (Regression(WORDS, CHARACTERS), 1),
            "fasttext_own_settings": (FastText({}), 1), "fasttext": (FastText(), 1), "fasttext_thrice": (FastText(), 3)}


def classification(logs, label, rows):
    outcomes = {}
    for name, (method, renderings) in classifiers().items():
        method.fit([row for number in range(renderings) for row in rows_of(logs, label, SEED + number)])
        shares = method.shares([row["text"] for row in rows])
        guesses = [method.labels[best] for best in shares.argmax(1)]
        outcomes[name] = figures.of_guesses(guesses, shares.max(1), [row["answer"] for row in rows])
        print(name, outcomes[name]["accuracy"], outcomes[name]["macro_f1"], flush=True)
    return outcomes


def retrieved(pairs, texts):
    """For each text the summary of the most similar training paragraph."""
    vectorizer = TfidfVectorizer(**WORDS)
    known = vectorizer.fit_transform(pair["text"] for pair in pairs)
    nearest = np.asarray((vectorizer.transform(texts) @ known.T).argmax(1)).reshape(-1)
    return [pairs[index]["summary"] for index in nearest]


def summaries(pairs, rows):
    texts = [row["text"] for row in rows]
    methods = {
        "first_ten_words": [" ".join(text.split()[:10]) for text in texts],
        "first_sentence": [text.split(". ")[0] for text in texts],
        "lead": [render.lead(text) or " ".join(text.split()[:10]) for text in texts],
        "retrieval": retrieved(pairs, texts),
    }
    return {name: figures.of_summaries(guesses, [row["answer"] for row in rows]) for name, guesses in methods.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that prep.py wrote")
    parser.add_argument("--eval", required=True, help="folder of the evaluation files")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    with open(f"{args.data}/logs.json") as file:
        logs = json.load(file)
    with open(f"{args.data}/pairs.json") as file:
        pairs = json.load(file)
    results = {"summary": summaries(pairs, figures.read(f"{args.eval}/summary.jsonl"))}
    print(results["summary"], flush=True)
    for label in ("subsystem", "severity"):
        results[label] = classification(logs, label, figures.read(f"{args.eval}/log-{label}.jsonl"))
        with open(args.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
