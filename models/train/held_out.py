"""What the model must not see in training: held-out source files, package families and evaluation texts."""

import hashlib
import json
import re

# A printf conversion and the letters behind it, which may or may not be part of it (`%pM`, `%dms`).
CONVERSION_AND_SUFFIX = re.compile(
    r"%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|h|ll|l|z|j|t)?[diouxXpcsfeg][a-zA-Z0-9]*")
# The prefixes that `render.py` and the evaluation files put before a message.
PREFIX = r"(?:(?:\[ *\d+\.\d+\] |kernel: )?\S+(?: \S+)?: )?"


def hash_of(text):
    return int(hashlib.md5(text.encode()).hexdigest(), 16)


def is_held_out_file(path):
    """One source file in twenty, by the hash of its path inside the source tree."""
    return hash_of(path) % 20 == 0


def package_family(name):
    """The first letters of a package's name without its language prefix."""
    return re.sub(r"^(lib|python3-|golang-|ruby-|node-|r-cran-|haskell-)", "", name)[:5]


def is_held_out_package(name):
    """One package family in twenty-five."""
    return hash_of(package_family(name)) % 25 == 0


def normal(text):
    """A text without digits and brackets: what two renderings of one message have in common."""
    return re.sub(r"[\d\[\]]", "", text)


class EvaluationTexts:
    """The texts of the evaluation files, to be asked whether something for training is among them."""

    def __init__(self, paths):
        texts = []
        for path in paths:
            with open(path) as file:
                texts += [json.loads(line)["text"] for line in file]
        self.normal_texts = {normal(text) for text in texts}
        self.openings = {normal(text)[:80].lower() for text in texts}
        self.lines = sorted(set(texts))
        self.joined = "\n".join(self.lines)

    def has(self, text):
        """Whether the text itself, but for digits and brackets, is an evaluation text, or opens like one."""
        plain = normal(text)
        return plain in self.normal_texts or (len(plain) >= 80 and plain[:80].lower() in self.openings)

    def can_render(self, template):
        """Whether some filling of a message template, with or without a prefix, is an evaluation text."""
        literals = CONVERSION_AND_SUFFIX.split(template)
        longest = max(literals, key=len).replace("%%", "%").strip()
        if longest not in self.joined:
            return False
        body = ".*?".join(re.escape(literal.replace("%%", "%")) for literal in literals)
        pattern = re.compile(PREFIX + body)
        return any(longest in line and pattern.fullmatch(line) for line in self.lines)
