"""Makes the evaluation sets of the questions with labels in the prompt from the sets that are there.

usage: eval_sets.py --eval FOLDER --lists FOLDER [FOLDER ...]

Every text is one of the held-out texts already; only the questions are new. A row has its own `instructions`.
Written once and kept in the repository, so that figures stay comparable.
"""

import argparse
import json
import random

import choices
import descriptions
import figures

ROWS = 1000
SECTIONS = 6  # labels of a question about a description, at most


def row(text, labels, answer):
    return {"text": text, "instructions": choices.CHOICE_FORM.format(labels=", ".join(labels)), "labels": labels,
            "answer": answer}


def needs_a_person(severities):
    """Yes for messages that the source calls an error or worse, no for information; warnings are left out."""
    for known in severities:
        if known["answer"] != "warning":
            yield {"text": known["text"], "instructions": choices.NEEDS_A_PERSON, "labels": ["yes", "no"],
                   "answer": "no" if known["answer"] == "info" else "yes"}


def renamed(subsystems, rng):
    """Some classes, under names that training knows, in sets that it hardly met."""
    for known in subsystems[:ROWS]:
        offer = choices.Offer(known["answer"], choices.NAMES, rng)
        yield row(known["text"], offer.labels, offer.answer(known["answer"]))


def unseen(subsystems, rng):
    """Two to six classes under names that training never used."""
    for known in subsystems:
        if known["answer"] in choices.UNSEEN:
            others = [name for name in choices.UNSEEN if name != known["answer"]]
            classes = rng.sample(others, rng.randint(1, 5)) + [known["answer"]]
            rng.shuffle(classes)
            yield row(known["text"], [choices.UNSEEN[c] for c in classes], choices.UNSEEN[known["answer"]])


def sections(summaries, lists, rng):
    """Which section of the archive a held-out description is from, among two to six."""
    held = {pair["text"]: pair["section"] for folder in lists for pair in descriptions.debian(folder, held_out=True)}
    names = sorted(set(held.values()))
    for known in summaries:
        truth = held.get(known["text"])
        if truth:
            labels = rng.sample([name for name in names if name != truth], rng.randint(1, SECTIONS - 1)) + [truth]
            rng.shuffle(labels)
            yield row(known["text"], labels, truth)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eval", required=True, help="folder of the evaluation files")
    parser.add_argument("--lists", required=True, nargs="+", help="folders with Packages and Translation-en lists")
    args = parser.parse_args()
    rng = random.Random(7)
    subsystems, severities, summaries = (
        figures.read(f"{args.eval}/{name}.jsonl") for name in ("log-subsystem", "log-severity", "summary"))
    sets = {
        "needs-a-person": needs_a_person(severities),
        "choice-renamed": renamed(subsystems, rng),
        "choice-unseen": unseen(subsystems, rng),
        "choice-section": sections(summaries, args.lists, rng),
    }
    for name, rows in sets.items():
        with open(f"{args.eval}/{name}.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(name, len(figures.read(f"{args.eval}/{name}.jsonl")))


if __name__ == "__main__":
    main()
