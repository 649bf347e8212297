"""Writes what the model answers, right and wrong, as a page to read.

usage: samples.py --figures FIGURES.json --out SAMPLES.md

FIGURES.json is evaluate.py's. The decisions are drawn from all right and all wrong ones of a set, the summaries are the
first of theirs: nothing is chosen by hand.
"""

import argparse
import json

SHOWN = 200  # characters of a text
HEAD = """# What the bundled model answers

Made by `models/train/samples.py` from the held-out sets in `eval/`: decisions drawn at random from the right and from the
wrong ones, and the first fifty summaries. Texts are cut after {shown} characters.
"""


def cell(text):
    """Text as it stands in a cell of a Markdown table."""
    text = " ".join(text.split())
    text = text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0] + " ..."
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def table(titles, rows):
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def decisions(name, figures):
    page = ""
    for kind in ("right", "wrong"):
        rows = [[cell(text), cell(guess), f"{share:.2f}", cell(answer)]
                for share, guess, answer, text in figures[f"{kind}_examples"]]
        page += f"\n## `{name}`: {len(rows)} that are {kind}\n\n"
        page += table(["text", "the model", "probability", "the label"], rows)
    return page


def summaries(name, figures):
    rows = [[cell(sample["text"]), cell(sample["summary"]), cell(sample["answer"])] for sample in figures["samples"]]
    return f"\n## `{name}`: the first {len(rows)}\n\n" + table(["text", "the model", "the package's own line"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    with open(args.figures) as file:
        sets = json.load(file)
    page = HEAD.format(shown=SHOWN)
    for name, figures in sets.items():
        page += (summaries if "samples" in figures else decisions)(name, figures)
    with open(args.out, "w") as file:
        file.write(page)


if __name__ == "__main__":
    main()
