"""Turns message templates and description pairs into prompts and answers, differently each time it is asked.

A template is filled in with fresh values and a fresh prefix on every rendering, so the model meets the messages,
not a fixed set of lines.
"""

import re

import choices

STOP = "<|eot_id|>"
SUBSYSTEM = "Which subsystem does this log line come from?"
SEVERITY = "How severe is this log line?"
SUMMARY = "Summarize in one line."
COPY = "Repeat the text."
QUESTIONS = {"log-subsystem": SUBSYSTEM, "log-severity": SEVERITY, "summary": SUMMARY,
             "needs-a-person": choices.NEEDS_A_PERSON}  # by evaluation set

# The letters behind the conversion belong to it only for pointers (`%pM`, `%pOF`).
CONVERSION = re.compile(r"%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|h|ll|l|z|j|t)?(?:([diouxXcsfeg])|p[a-zA-Z0-9]*)")
WORDS = (
    "eth0 wlan0 sda sdb1 mmcblk0 nvme0n1 usb1 main core clk vdd failed disabled tx rx reset dma irq bus port0 "
    "ttyS0 cpu0 host0 queue enabled read write").split()
INTEGERS = (-5, -19, -22, -110, -12, 0, 1, 2, 3, 4, 8, 16, 64, 128, 255, 512, 1024, 4096)
UNSIGNED = (0, 1, 2, 3, 4, 8, 16, 48, 100, 512, 4096)
DEVICES = "0000:00:1f.2 1-1.4 mmc0:0001 fe300000.mmc soc:codec 0000:01:00.0 3f980000.usb 2-0051 spi0.0".split()
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
HOSTS = "raspberrypi debian edge-01 gateway localhost node3".split()


def value_for(kind, rng):
    """A plausible value for the printf conversion letter `kind` (None for a pointer)."""
    if kind in ("d", "i"):
        return str(rng.choice(INTEGERS + (rng.randint(0, 99999),)))
    if kind == "u":
        return str(rng.choice(UNSIGNED + (rng.randint(0, 999999),)))
    if kind in ("x", "X", "o"):
        return f"{rng.randint(0, 1 << rng.choice([4, 8, 16, 32])):x}"
    if kind == "c":
        return rng.choice("abcdXY01")
    if kind == "s":
        return rng.choice(WORDS)
    if kind is None:
        return f"{rng.getrandbits(64):016x}" if rng.random() < 0.5 else f"{rng.getrandbits(32):08x}"
    return f"{rng.uniform(0, 100):.1f}"


def message(template, rng):
    filled = CONVERSION.sub(lambda found: value_for(found.group(1), rng), template.replace("%%", "\0"))
    return filled.replace("\0", "%")


def prefix(driver, rng):
    """What a log daemon or the kernel puts before a message: nothing, the driver, its device, a time."""
    kernel_time = f"[{rng.randint(0, 99999):5d}.{rng.randint(0, 999999):06d}]"
    form = rng.randrange(11)
    if form < 2:
        return ""
    if form < 4:
        return f"{driver}: "
    if form < 6:
        return f"{driver} {rng.choice(DEVICES)}: "
    if form < 8:
        return f"{kernel_time} {driver}: "
    if form < 10:
        return f"kernel: {driver}: "
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
    when = f"{rng.choice(MONTHS)} {rng.randint(1, 31):2d} {clock} {rng.choice(HOSTS)} kernel: {kernel_time}"
    return f"{when} {driver}{rng.choice(['', ' ' + rng.choice(DEVICES)])}: "


def line(log, rng):
    """The template as a log line, filled in and with a prefix."""
    return prefix(log["driver"], rng) + message(log["template"], rng)


def log_example(log, evaluation, names, rng):
    """The example of a question about the template, or None where the rendering happens to be an evaluation text.

    `names` are the names of each subsystem that a choice draws from.
    """
    text = line(log, rng)
    example = None if evaluation.has(text) else question_on(log, text, names, rng)
    return example and example._replace(line_shares=log["line_shares"])


def crossed_example(crossed, names, rng):
    """The example of a question about a line of crossed.py, which only its teachers have a label for."""
    text, shares = crossed["text"], crossed["shares"]
    best = max(shares, key=shares.get)
    if rng.random() < 0.75:
        example = choices.fixed(SUBSYSTEM, text, best, shares)
    else:
        example = choices.subsystem_choice(text, best, shares, rng.choice(names))
    return example._replace(line_shares=crossed["line_shares"])


def question_on(log, text, names, rng):
    by_subsystem, by_severity = log.get("subsystem_shares"), log.get("severity_shares")
    kind = rng.random()
    if log["severity"]:
        if kind < 0.28:
            return choices.fixed(SEVERITY, text, log["severity"], by_severity)
        if kind < 0.36:
            return choices.severity_choice(text, log["severity"], by_severity)
        if kind < 0.48:
            return choices.needs_a_person(text, log["severity"], by_severity)
    kind = rng.random()
    if kind < 0.55:
        return choices.fixed(SUBSYSTEM, text, log["subsystem"], by_subsystem)
    if kind < 0.9:
        return choices.subsystem_choice(text, log["subsystem"], by_subsystem, rng.choice(names))
    return choices.about(text, log["subsystem"], rng)


def shortened(text, rng):
    """Mostly the text; sometimes only its first sentences, so that length says nothing about the summary."""
    ends = [found.start() + 1 for found in re.finditer(r"[.!?] [A-Z]", text) if found.start() > 80]
    return text[:rng.choice(ends)] if ends and rng.random() < 0.3 else text


def lead(text):
    """What a text says its subject is, in at most twelve words ("Foo is a X that ..." gives "X"), or None."""
    found = re.match(r"(?:The )?[^ .,]+(?: [^ .,]+)? (?:is|provides|implements) (?:a|an|the) ([^.;:(]+)", text)
    if not found:
        return None
    phrase = re.split(r", | which | that | and is | It ", found.group(1))[0]
    words = phrase.split()
    return " ".join(words) if 2 <= len(words) <= 12 else None


def fragment(text, rng):
    words = text.split()
    start = rng.randrange(max(1, len(words) - 8))
    return " ".join(words[start : start + rng.randint(5, 20)])


def pair_example(pair, evaluation, known, rng):
    """The example of a question about a description, or None where it is to be left out this time.

    Mostly its summary: the given one where the text says what it says, else the part of the text that comes closest
    to it (`spans.py`), so that the model does not learn to make things up. Repeating a fragment teaches to copy, which
    summaries need most. `known` has the archive's sections and words of other texts.
    """
    text = shortened(pair["text"], rng)
    if evaluation.has(text):
        return None
    kind = rng.random()
    if kind < 0.17:
        part = fragment(text, rng)
        return choices.Example(COPY, part, part)
    if kind < 0.24 and pair["section"]:
        return choices.section_choice(text, pair["section"], known.sections, pair["section_shares"], rng)
    if kind < 0.33:
        return choices.mention(text, rng.sample(known.words, 12), rng)
    answer = pair["summary"]
    if rng.random() > pair["overlap"] or pair["span"] and rng.random() < 0.35:
        answer = pair["span"] if pair["span"] and pair["span"] in text else lead(text)
    return answer and choices.Example(SUMMARY, text, answer)


class Known:
    """What questions about one description need of all the others."""

    def __init__(self, pairs):
        self.sections = sorted({pair["section"] for pair in pairs if pair["section"]})
        self.words = [word for pair in pairs[::3] for word in choices.words_of(pair["text"][:200])]
