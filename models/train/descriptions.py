"""Pairs of a paragraph and its one-line summary: Debian package descriptions and kernel configuration help."""

import glob
import os
import re

from held_out import is_held_out_file, is_held_out_package

TRANSITIONAL_OPENINGS = ("this package", "this is a transition", "this metapackage", "transitional")
# "libfoo - development files" says nothing of foo: cut what names only the kind of package.
PACKAGE_KIND = re.compile(
    r"\s*(-|--|\u2013)\s*(development|shared|documentation|common|runtime|debug|header|static|feature|Rust source).*$")
KCONFIG_ENTRY = re.compile(r'^(?:config|menuconfig) \w+\n((?:[ \t].*\n|\n)+)', re.M)
KCONFIG_PROMPT = re.compile(r'^\s*(?:bool|tristate|prompt)\s+"([^"]+)"', re.M)
KCONFIG_HELP = re.compile(r"^[ \t]*(?:---)?help(?:---)?[ \t]*\n((?:.*\n?)+)", re.M)


def one_line(text):
    return re.sub(r"\s+", " ", text).strip()


def cut_at_word(text, length):
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0]


def overlap(text, summary):
    """The share of the summary's longer words (by their first five letters) that the text holds too."""
    words = {word[:5] for word in re.findall(r"[a-z0-9+]{4,}", summary.lower())}
    present = {word[:5] for word in re.findall(r"[a-z0-9+]{4,}", text.lower())}
    return len(words & present) / len(words) if words else 0.0


def debian_sections(lists):
    """Package name to archive section, from the Packages lists in the folder `lists`."""
    sections = {}
    for path in sorted(glob.glob(f"{lists}/*_Packages")):
        with open(path) as file:
            for block in file.read().split("\n\n"):
                name = re.search(r"^Package: (\S+)", block, re.M)
                section = re.search(r"^Section: (\S+)", block, re.M)
                if name and section:
                    sections[name.group(1)] = section.group(1).split("/")[-1]
    return sections


def debian(lists, held_out=False):
    """Yields pairs from the Translation-en lists in the folder `lists`, outside the held-out families or within."""
    sections = debian_sections(lists)
    for path in sorted(glob.glob(f"{lists}/*main_i18n_Translation-en")):
        with open(path) as file:
            blocks = file.read().split("\n\n")
        for block in blocks:
            name = re.search(r"^Package: (\S+)", block, re.M)
            synopsis = re.search(r"^Description-en: (.*)$", block, re.M)
            if not name or not synopsis or is_held_out_package(name.group(1)) != held_out:
                continue
            paragraphs = [one_line(p) for p in re.split(r"\n \.\n", block[synopsis.end():])]
            body = paragraphs[0]
            if body.lower().startswith(TRANSITIONAL_OPENINGS) and len(paragraphs) > 1:
                body = paragraphs[1]
            summary = re.sub(r"\s*\((?:[^()]*)\)\s*$", "", synopsis.group(1)).strip()
            summary = PACKAGE_KIND.sub("", summary)
            if len(body) < 60 or len(summary) < 10 or "dummy" in body.lower() or "transitional" in body.lower():
                continue
            section = sections.get(name.group(1), "misc")
            yield {"text": cut_at_word(body, 500), "summary": summary, "section": section, "source": "debian",
                   "package": name.group(1)}


def kconfig(root):
    """Yields (help text, prompt) pairs of the kernel's configuration options, outside the held-out files."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not name.startswith("Kconfig") or is_held_out_file(os.path.relpath(path, root)):
                continue
            with open(path, errors="ignore") as file:
                source = file.read()
            for entry in KCONFIG_ENTRY.finditer(source):
                prompt, help_text = KCONFIG_PROMPT.search(entry.group(1)), KCONFIG_HELP.search(entry.group(1))
                if not prompt or not help_text:
                    continue
                body = one_line(re.split(r"\n\s*\n", help_text.group(1))[0])
                summary = re.sub(r"\s*\((?:EXPERIMENTAL|DEPRECATED|OBSOLETE|NEW)\)", "", prompt.group(1)).strip()
                if len(body) >= 60 and len(summary) >= 10:
                    yield {"text": cut_at_word(body, 500), "summary": summary, "section": None, "source": "kconfig",
                           "package": None}


def collect(lists_folders, kernel_root):
    """All pairs, the first of those that open alike."""
    seen, pairs = set(), []
    for pair in [p for lists in lists_folders for p in debian(lists)] + list(kconfig(kernel_root)):
        opening = pair["text"][:80].lower()
        if opening not in seen:
            seen.add(opening)
            pair["overlap"] = round(overlap(pair["text"], pair["summary"]), 2)
            pairs.append(pair)
    return pairs
