"""Questions with the labels in the prompt, and questions answered by yes or no.

A small model answers a fixed question from habit. So that it reads the labels it is given, they are shuffled, renamed,
written in other cases and left out by halves, `other` takes the place of a right answer that is not offered, and some
questions are only about words that the text holds. The names in UNSEEN are kept for the evaluation.
"""

import re
from typing import NamedTuple


class Example(NamedTuple):
    """A prompt and its answer; `shares` is, where a teacher was asked, the probability of each possible answer."""

    prompt: str
    answer: str
    shares: dict | None = None


PROMPT = "User: {instructions}\n{text}<|eot_id|>Assistant: "
CHOICE_FORM = "Which of these fits best: {labels}?"  # the documented one
CHOICE_FORMS = (CHOICE_FORM, CHOICE_FORM, "Choose one: {labels}.", "What is this about? {labels}", "Labels: {labels}.",
                "Where does this belong: {labels}?")
MENTION_FORMS = (CHOICE_FORM, "Choose one: {labels}.", "Which of these words is in the text: {labels}?")
SEVERITY_FORMS = (CHOICE_FORM, "Choose one: {labels}.", "How bad is this: {labels}?")
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


def choice(form, text, labels, answer, weights=None):
    """The example for labels as they are written in the prompt; `weights` are the teacher's, beside the labels."""
    shares = None
    if weights is not None and sum(weights) > 0:
        shares = {label: weight / sum(weights) for label, weight in zip(labels, weights)}
    instructions = form.format(labels=", ".join(labels))
    return Example(PROMPT.format(instructions=instructions, text=text), answer, shares)


def fixed(question, text, answer, shares=None):
    """A question whose labels the model knows."""
    return Example(PROMPT.format(instructions=question, text=text), answer, shares)


def offered(truth, names, rng, shares=None, renamed=0.6):
    """Some of the classes of `names` (class to possible names), shuffled and renamed: (labels, answer, weights)."""
    classes = rng.sample(sorted(names), rng.randint(2, len(names)))
    has_other = rng.random() < 0.15
    if truth not in classes and not (has_other and rng.random() < 0.6):
        classes[rng.randrange(len(classes))] = truth
    labels = [rng.choice(names[c]) if rng.random() < renamed else names[c][0] for c in classes]
    weights = [shares[c] for c in classes] if shares else None
    answer_at = classes.index(truth) if truth in classes else len(classes)
    if has_other:
        labels.append(rng.choice(OTHER))
        weights = weights and weights + [max(0.0, 1.0 - sum(weights))]
        if rng.random() < 0.5 and answer_at < len(classes):  # not always last
            labels.insert(0, labels.pop())
            weights = weights and [weights[-1]] + weights[:-1]
            answer_at += 1
    labels = cased(labels, rng)
    return labels, labels[answer_at], weights


def subsystem_choice(text, truth, rng, shares=None):
    labels, answer, weights = offered(truth, NAMES, rng, shares)
    return choice(rng.choice(CHOICE_FORMS), text, labels, answer, weights)


def severity_choice(text, truth, rng, shares=None):
    labels, answer, weights = offered(truth, SEVERITY_NAMES, rng, shares)
    return choice(rng.choice(SEVERITY_FORMS), text, labels, answer, weights)


def yes_no(question, text, truth, yes_share=None):
    shares = None if yes_share is None else {"yes": yes_share, "no": 1.0 - yes_share}
    return Example(PROMPT.format(instructions=question, text=text), "yes" if truth else "no", shares)


def needs_a_person(text, severity, shares=None):
    """Yes where the source calls the message an error or worse, no where it is information; warnings are not asked."""
    if severity not in ("critical", "error", "info"):
        return None
    share = None
    if shares:
        bad = shares["critical"] + shares["error"]
        share = bad / max(1e-6, bad + shares["info"])
    return yes_no(NEEDS_A_PERSON, text, severity != "info", share)


def about(text, truth, rng):
    """Whether a log line is about a subsystem, by one of its names; half of the answers are yes."""
    asked = truth if rng.random() < 0.5 else rng.choice([name for name in NAMES if name != truth])
    form = rng.choice(("Is this about {}?", "Does this concern {}?"))
    return yes_no(form.format(rng.choice(NAMES[asked])), text, asked == truth)


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
    return choice(rng.choice(MENTION_FORMS), text, labels, labels[place])


def section_choice(text, truth, sections, rng):
    """Which section of the archive a description is from, among some of them."""
    labels = rng.sample([section for section in sections if section != truth], rng.randint(1, 6)) + [truth]
    rng.shuffle(labels)
    place = labels.index(truth)
    labels = cased(labels, rng)
    return choice(rng.choice(CHOICE_FORMS), text, labels, labels[place])
