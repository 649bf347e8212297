"""The part of a text that says most of what its summary says: a summary that only copies."""

import re

SHORTEST, LONGEST = 3, 14  # words of a span
SEARCHED = 60  # words of the text
LEAST_SHARE = 0.4  # of common words: below, the text does not say it
# Where a span may not begin or end: it would hang in the air.
LOOSE_ENDS = frozenset("a an the of to for and or in on with by as is that which from at it its into your be".split())


def plain(word):
    """The beginning of the word, which its other forms have too."""
    return re.sub(r"[^a-z0-9]+", "", word.lower())[:6]


def best_span(text, summary):
    """The words of the text with the largest F-measure of words common with the summary, or None."""
    raw = text.split()[:SEARCHED]
    words = [plain(word) for word in raw]
    wanted = [plain(word) for word in summary.split()]
    total = len(wanted)
    best, best_score = None, LEAST_SHARE
    for start, first in enumerate(words):
        if first not in wanted or first in LOOSE_ENDS:
            continue
        left, hits = list(wanted), 0
        for end in range(start, min(len(words), start + LONGEST)):
            if words[end] in left:
                left.remove(words[end])
                hits += 1
                score = 2 * hits / (end - start + 1 + total)
                if score > best_score and end - start + 1 >= SHORTEST and words[end] not in LOOSE_ENDS:
                    best, best_score = (start, end + 1), score
            if raw[end][-1] in ".;:" and end > start:
                break  # not across sentences
    return " ".join(raw[best[0] : best[1]]).strip(" ,.;:") if best else None
