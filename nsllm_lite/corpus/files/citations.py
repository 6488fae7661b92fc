"""Numbered citations: removed with their brackets, unless the sentence needs them ("as in [3]").

A reader marks each citation; `settle` keeps or removes it when the whole paragraph is known, by the words before it and
the brackets around it. Citations by name ("Ito, 1998") are words and stay.
"""

import re

from nsllm_lite.corpus.texts.words import PATTERNS

# Stand around a numbered citation between `mark` and `settle`; private characters that no text should hold.
OPEN, CLOSE = "\ue000", "\ue001"
_ONE = f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}"
_CITATIONS = re.compile(rf"{_ONE}(?:[\s,;–—\[\]()-]*{_ONE})*[\])]*")
_MARKS = re.compile(f"[{OPEN}{CLOSE}]")
_NUMBERS = re.compile(r"[\s\d,;–—[\]()-]*")
_NEEDS_CITATION = re.compile(rf"\b({PATTERNS['before_citation']})\.?,?$", re.IGNORECASE)
_BRACKETED = re.compile(rf"(?<!{OPEN})\[\d{{1,3}}(?:\s?[,;–-]\s?\d{{1,3}}){{0,40}}\](?![\w-])")
_SEPARATORS = re.compile(r"[\s,;]*")


def needs_citation(before: str) -> bool:
    """Whether a sentence that ends like this is incomplete without the citation that follows."""
    return bool(_NEEDS_CITATION.search(before[-16:]))


def is_numbered(citation: str) -> bool:
    return bool(_NUMBERS.fullmatch(citation))


def mark(citation: str) -> str:
    """A citation as its source prints it, marked for `settle` where it is one of numbers alone."""
    return f"{OPEN}{citation}{CLOSE}" if is_numbered(citation) else citation


def mark_bracketed(text: str, num_references: int) -> str:
    """A text that only prints its citations: "[3]" and "[1, 4–6]" are marked where the paper has so many references.

    What a sign or letter follows is part of a name ("benzo[1,2]furan").
    """
    return _BRACKETED.sub(lambda found: _marked(found[0], num_references), text) if "[" in text else text


def _marked(bracketed: str, num_references: int) -> str:
    numbers = [int(number) for number in re.findall(r"\d+", bracketed)]
    return mark(bracketed) if min(numbers) > 0 and max(numbers) <= num_references else bracketed


def settle(text: str) -> str:
    """The text with each run of marked citations kept or removed, the brackets and the space before it included."""
    if OPEN not in text:
        return text
    parts, place = [], 0
    for run in _CITATIONS.finditer(text):
        before = text[place : run.start()]
        closed = len(run[0]) - len(run[0].rstrip("])"))
        pairs = min(closed, len(before) - len(before.rstrip("[(")))  # of brackets that held it alone: they go with it
        sentence, place = before[: len(before) - pairs].rstrip(), run.end() - closed + pairs
        if needs_citation(sentence):
            place = run.end()
            parts.append(before + _MARKS.sub("", run[0]))
            continue
        parts.append(sentence.rstrip(",; ") if text.startswith((")", "]"), place) else sentence)
        if sentence.endswith(".") and text.startswith(".", place):  # "Ito et al. [3]." has one point too many now
            place += 1
        elif sentence.endswith(("(", "[")):  # "([3]; Ito, 1998)"
            place = _SEPARATORS.match(text, place).end()
    return "".join(parts) + text[place:]
