"""Questions with the labels in the prompt, and questions answered by yes or no.

A small model answers a fixed question from habit. So that it reads the labels it is given, they are shuffled, renamed,
written in other cases and left out by halves, `other` takes the place of a right answer that is not offered, and some
questions are only about words that the text holds. The names in UNSEEN are kept for the evaluation.
"""

import re
from typing import NamedTuple


class Example(NamedTuple):
    """A question about a text and its answer.

    `shares` is, where a teacher was asked, the probability of each possible answer. `is_common`: others are asked the
    same, so that a batch can compute it once for all. `line_shares` is what is known of the text whatever is asked
    (`auxiliary.py`).
    """

    question: str
    text: str
    answer: str
    shares: dict | None = None
    is_common: bool = True
    line_shares: list | None = None


class Choice(NamedTuple):
    """A text of a known class, whose question is drawn together with that of others: one `Offer` for all of them."""

    text: str
    truth: str
    shares: dict | None
    names: dict
    forms: tuple
    line_shares: list | None = None


HEAD, END = "User: {instructions}\n", "<|eot_id|>Assistant: "
PROMPT = HEAD + "{text}" + END
CHOICE_FORM = "Which of these fits best: {labels}?"  # the documented one
CHOICE_FORMS = (CHOICE_FORM, CHOICE_FORM, "Choose one: {labels}.", "What is this about? {labels}", "Labels: {labels}.",
                "Where does this belong: {labels}?")
MENTION_FORMS = (CHOICE_FORM, "Choose one: {labels}.", "Which of these words is in the text: {labels}?")
SEVERITY_FORMS = (CHOICE_FORM, "Choose one: {labels}.", "How bad is this: {labels}?")
SECTION_WEIGHT = 0.2  # of the archive's own section, beside the teacher's opinion: many a package could be in others
NEEDS_A_PERSON = "Does this need a person?"
OTHER = ("other", "none of these", "something else")

NAMES = {
    "audio": ("audio", "sound", "speakers"), "bus": ("bus", "board", "pins and clocks"),
    "display": ("display", "graphics", "video", "screen"), "memory": ("memory", "RAM"),
    "network": ("network", "networking", "ethernet", "LAN"), "power": ("power", "power supply", "voltage"),
    "security": ("security", "crypto", "encryption"), "sensor": ("sensor", "sensors", "input"),
    "storage": ("storage", "disk", "file system"), "system": ("system", "kernel", "processor"),
    "thermal": ("thermal", "temperature", "cooling"), "usb": ("usb", "USB", "USB port"),
    "wireless": ("wireless", "wifi", "bluetooth", "radio"),
}
UNSEEN = {"audio": "sound card", "display": "GPU", "network": "net", "storage": "drive", "thermal": "heat",
          "wireless": "Wi-Fi", "sensor": "input device", "security": "cryptography"}
SEVERITY_NAMES = {
    "critical": ("critical", "fatal", "emergency"), "error": ("error", "failure", "fault", "broken"),
    "warning": ("warning", "caution"), "info": ("info", "normal", "fine", "notice"),
}


def cased(labels, rng):
    form = rng.random()
    if form < 0.7:
        return labels
    return [label.upper() if form > 0.95 else label[:1].upper() + label[1:] for label in labels]


class Offer:
    """Some of the classes of `names` (class to possible names), shuffled and renamed, and at times `other`."""

    def __init__(self, truth, names, rng, renamed=0.6):
        self.classes = rng.sample(sorted(names), rng.randint(2, len(names)))
        has_other = rng.random() < 0.15
        if truth not in self.classes and not (has_other and rng.random() < 0.6):
            self.classes[rng.randrange(len(self.classes))] = truth
        labels = [rng.choice(names[c]) if rng.random() < renamed else names[c][0] for c in self.classes]
        if has_other:
            labels.append(rng.choice(OTHER))
            self.classes.append(None)
            if rng.random() < 0.5 and truth in self.classes:  # not always last
                labels.insert(0, labels.pop())
                self.classes.insert(0, self.classes.pop())
        self.labels = cased(labels, rng)

    def answer(self, truth):
        """The label of a class, that of `other` where the class is not offered, or None where neither is."""
        wanted = truth if truth in self.classes else None
        return self.labels[self.classes.index(wanted)] if wanted in self.classes else None

    def shares(self, of_classes):
        """The teacher's probabilities of the classes as those of the labels, or None."""
        if of_classes is None:
            return None
        weights = [of_classes.get(c, 0.0) for c in self.classes if c]
        total = 1.0 if None in self.classes else sum(weights)
        rest = max(0.0, 1.0 - sum(weights))
        return total > 0 and {label: (of_classes.get(c, 0.0) if c else rest) / total
                              for label, c in zip(self.labels, self.classes)} or None

    def question(self, form):
        return form.format(labels=", ".join(self.labels))


def fixed(question, text, answer, shares=None):
    """A question whose labels the model knows."""
    return Example(question, text, answer, shares)


def subsystem_choice(text, truth, shares=None, names=NAMES):
    return Choice(text, truth, shares, names, CHOICE_FORMS)


def severity_choice(text, truth, shares=None):
    return Choice(text, truth, shares, SEVERITY_NAMES, SEVERITY_FORMS)


def yes_no(question, text, truth, yes_share=None, is_common=False):
    shares = None if yes_share is None else {"yes": yes_share, "no": 1.0 - yes_share}
    return Example(question, text, "yes" if truth else "no", shares, is_common)


def needs_a_person(text, severity, shares=None):
    """Yes where the source calls the message an error or worse, no where it is information; warnings are not asked."""
    if severity not in ("critical", "error", "info"):
        return None
    share = None
    if shares:
        bad = shares["critical"] + shares["error"]
        share = bad / max(1e-6, bad + shares["info"])
    return yes_no(NEEDS_A_PERSON, text, severity != "info", share, is_common=True)


def about(text, truth, rng):
    """Whether a log line is about a subsystem, by one of its names; half of the answers are yes."""
    asked = truth if rng.random() < 0.5 else rng.choice([name for name in NAMES if name != truth])
    form = rng.choice(("Is this about {}?", "Does this concern {}?"))
    return yes_no(form.format(rng.choice(NAMES[asked])), text, asked == truth)


def of_its_own(form, text, labels, answer, shares=None):
    """A question with labels that were chosen for this text alone."""
    return Example(form.format(labels=", ".join(labels)), text, answer, shares, is_common=False)


def words_of(text):
    return [word.lower() for word in re.findall(r"[A-Za-z]{4,12}", text)]


def mention(text, other_words, rng):
    """Which of some words the text holds, or whether it holds one."""
    present = set(words_of(text))
    absent = [word for word in other_words if word not in present]
    if not present or len(absent) < 6:
        return None
    word = rng.choice(sorted(present))
    if rng.random() < 0.35:
        asked, truth = (word, True) if rng.random() < 0.5 else (rng.choice(absent), False)
        return yes_no(f"Does the text mention {asked}?", text, truth)
    labels = rng.sample(sorted(set(absent)), rng.randint(1, 5)) + [word]
    rng.shuffle(labels)
    place = labels.index(word)
    labels = cased(labels, rng)
    return of_its_own(rng.choice(MENTION_FORMS), text, labels, labels[place])


def section_choice(text, truth, sections, of_sections, rng):
    """Which section of the archive a description is from, among some of them; `of_sections` are a teacher's shares."""
    offered = rng.sample([section for section in sections if section != truth], rng.randint(1, 6)) + [truth]
    rng.shuffle(offered)
    labels = cased(offered, rng)
    weights = [of_sections.get(section, 0.0) + 1e-3 for section in offered]
    shares = {label: (1 - SECTION_WEIGHT) * weight / sum(weights) + SECTION_WEIGHT * (section == truth)
              for section, label, weight in zip(offered, labels, weights)}
    return of_its_own(rng.choice(CHOICE_FORMS), text, labels, labels[offered.index(truth)], shares)
