"""Words by which the training messages themselves name a subsystem, as labels for questions.

Labels that a user writes are words like these. To answer with one, the model must know which subsystem the word goes
with; a dozen fixed names can be learned by heart, hundreds cannot. The words of choices.UNSEEN are kept for the
evaluation.
"""

import collections
import re

import choices
from held_out import CONVERSION_AND_SUFFIX as CONVERSION

WORD = re.compile(r"\b[a-z]{3,12}\b")
LEAST_TEMPLATES, LEAST_DRIVERS = 20, 6  # that a word is in
LEAST_SHARE = 0.7  # of a word's use, each class counting as if all were of one size
NAMES = (*choices.UNSEEN.values(), *sum(choices.NAMES.values(), ()))
TAKEN = {word for name in NAMES for word in WORD.findall(name.lower())}


def of_classes(logs):
    """Class to the words that go with it, most used first; the logs have `template`, `driver` and `subsystem`."""
    templates, drivers = collections.defaultdict(collections.Counter), collections.defaultdict(set)
    sizes = collections.Counter(log["subsystem"] for log in logs)
    for log in logs:
        for word in set(WORD.findall(CONVERSION.sub(" ", log["template"]).lower())):
            templates[word][log["subsystem"]] += 1
            drivers[word].add(log["driver"])
    found = {name: [] for name in sizes}
    for word, counts in sorted(templates.items(), key=lambda item: -item[1].total()):
        if word in TAKEN or counts.total() < LEAST_TEMPLATES or len(drivers[word]) < LEAST_DRIVERS:
            continue
        shares = {name: count / sizes[name] for name, count in counts.items()}
        best = max(shares, key=shares.get)
        if shares[best] >= LEAST_SHARE * sum(shares.values()):
            found[best].append(word)
    return found
