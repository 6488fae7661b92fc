"""Which sections of a paper are experimental, by their headings, the headings above them and the source's label.

Experimental: methods, materials, set-up, data, procedures, results (and results with discussion), evaluation, case
reports. Not: introduction, background, theory and proofs, discussion, conclusions, declarations, supplements. The
rules are the tables of words in headings.toml; `mark` reads one heading, `experimental` a whole paper.
"""

import enum
import itertools
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from importlib import resources

from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.formats.scripts import EASTERN

_FILE = tomllib.loads(resources.files(__package__).joinpath("headings.toml").read_text(encoding="utf-8"))
PATTERNS = {table: lines.strip("\n").replace("\n", "|") for table, lines in _FILE.pop("patterns").items()}
_TABLES = {table: frozenset(words.split()) for table, words in _FILE.items()}
METHODS, RESULTS, BESIDE, JOINING = (_TABLES[name] for name in ("methods", "results", "beside", "joining"))
TELLING, TELLING_PAIRS = (METHODS - _TABLES["not_telling"]) | _TABLES["telling"], _TABLES["telling_pairs"]
HINTING, HINTING_PAIRS, HINTING_ALONE = (_TABLES[name] for name in ("hinting", "hinting_pairs", "hinting_alone"))
OTHER, FOREIGN, APPENDIX = (_TABLES[name] for name in ("other", "foreign", "appendix"))
UNLESS_BELOW = _TABLES["unless_below"]
PROOFS, CLOSING = _TABLES["proofs"], _TABLES["closing"]
OPENING = OTHER - _TABLES["not_opening"]
_NAMES = METHODS | RESULTS | BESIDE
_HINTING_BESIDE = HINTING_ALONE | BESIDE | JOINING
_OTHER_JOINED = OTHER | UNLESS_BELOW | JOINING
_UNLESS_BELOW_JOINED = UNLESS_BELOW | JOINING | {"the", "our", "of"}
NEVER = re.compile(rf"^({PATTERNS['never_first']})\b|\b({PATTERNS['never']})")
KINDS, OTHER_KINDS = re.compile(PATTERNS["kinds"]), re.compile(PATTERNS["other_kinds"])

_TAKEN_OUT = re.compile(r"\{\{[^{}]*\}\}|\$[^$]*\$")  # formulas, and where a source took something out
_ROMAN = re.compile(r"\s*[IVX]{1,6}[.):]?\s+(?=\S)")
_NUMBERING = re.compile(PATTERNS["numbering"])
_SIGNS = str.maketrans(dict.fromkeys("&/,;+", " and "))
_WORD = re.compile(r"[^\W_]+")
SURE_TOPS = 3  # so many top sections experimental by a word, and those with names of their own are believed
MAX_HEADING_CHARS = 400  # a longer one is a paragraph that some converter took for a heading


class Mark(enum.Enum):
    """What a heading says of its section by itself."""

    METHODS = "it names Methods, or an experiment"
    RESULTS = "it names Results"
    TELLING = "a word shows it to be experimental"
    HINTING = "a word shows it to be experimental if the paper is"
    NEUTRAL = "a name of its own"
    FOREIGN = "of another kind, unless below an experimental one"
    OTHER = "of another kind"
    NEVER = "no part of the work"


# Asked in this order.
_EASTERN_MARKS = (
    (Mark.RESULTS, "eastern_results_with"), (Mark.OTHER, "eastern_other"), (Mark.METHODS, "eastern_methods"),
    (Mark.RESULTS, "eastern_results"),
)  # fmt: skip
_EASTERN_WORDS = [(found, re.compile(PATTERNS[name])) for found, name in _EASTERN_MARKS]


def plain(heading: str) -> str:
    """The heading without numbering, accents and capitals; its words between single spaces."""
    text = _TAKEN_OUT.sub(" ", heading[:MAX_HEADING_CHARS])
    text = text[found.end() :] if (found := _ROMAN.match(text)) else text
    if EASTERN.search(text):  # where what NFKD takes for an accent is a part of the letter
        text = unicodedata.normalize("NFKC", text)
    elif not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = text.casefold()
    text = text[found.end() :] if (found := _NUMBERING.match(text)) else text
    words = _WORD.findall(text.translate(_SIGNS))
    return "".join(words) if EASTERN.search(text) else " ".join(words)


def mark(heading: str) -> Mark:
    """What the words of the heading alone say of its section."""
    text = plain(heading)
    if EASTERN.search(text):
        return next((found for found, words in _EASTERN_WORDS if words.search(text)), Mark.NEUTRAL)
    words = text.split()
    if not words:
        return Mark.NEUTRAL
    if NEVER.search(text):
        return Mark.NEVER
    known = set(words)
    if known <= _OTHER_JOINED:
        return Mark.FOREIGN if known & UNLESS_BELOW and known <= _UNLESS_BELOW_JOINED else Mark.OTHER
    about = words[0] in OPENING and known & {"of", "to", "on"}  # "Introduction to the methods"
    if not about and (named := _named(words)):
        return named
    if "?" in heading or "？" in heading:  # "What data do we need?"
        return Mark.NEUTRAL
    pairs = {f"{one}_{two}" for one, two in itertools.pairwise(words)}
    if words[0] not in OPENING and pairs & TELLING_PAIRS:
        return Mark.TELLING
    if words[0] in OPENING or (known & FOREIGN and words[0] not in APPENDIX):
        return Mark.FOREIGN
    if known & TELLING:
        return Mark.TELLING
    if known & HINTING or pairs & HINTING_PAIRS or (known & HINTING_ALONE and known <= _HINTING_BESIDE):
        return Mark.HINTING
    return Mark.FOREIGN if words[0] in APPENDIX else Mark.NEUTRAL


def _named(words: list[str]) -> Mark | None:
    """METHODS or RESULTS where the whole heading is made of such names: "Patients and methods"."""
    parts = [set(part) for joins, part in itertools.groupby(words, JOINING.__contains__) if not joins]
    if not all(part <= _NAMES or part <= OTHER for part in parts):
        return None
    known = set().union(*(part for part in parts if part <= _NAMES))
    if known & METHODS:
        return Mark.METHODS
    return Mark.RESULTS if known & RESULTS and "theoretical" not in known else None


def experimental(sections: Sequence[Section]) -> list[bool]:
    """For each section of one paper, in reading order, whether it is experimental.

    A section is, where its heading or one above says so, or the source's label. In a paper with a section named
    Methods or Experiments, or with SURE_TOPS such sections by their words, or with Results and no introduction, top
    sections with names of their own ("Our approach") are taken too, until the discussion. What stands below
    Discussion, Introduction and the like is not, nor are such sections below Methods.
    """
    if not sections:
        return []
    marks = {heading: mark(heading) for s in sections for heading in (*s.parents, s.heading)}
    chosen, own_names = _judge_paper(sections, marks)
    return [
        _is_experimental(section, [marks[h] for h in (*section.parents, section.heading)], top, chosen)
        for section, top in zip(sections, _tops(sections, marks, chosen, own_names), strict=True)
    ]


def _judge_paper(sections: Sequence[Section], marks: dict[str, Mark]) -> tuple[set[Mark], bool]:
    """(the marks that make a section experimental, whether sections with names of their own are taken too)"""
    found = set(marks.values())
    named = any(KINDS.search(s.kind.lower()) for s in sections) or Mark.METHODS in found
    others = [heading for heading, said in marks.items() if said in (Mark.FOREIGN, Mark.NEVER)]
    if not named and any(PROOFS & set(plain(heading).split()) for heading in others):
        return set(), False  # "Results" are theorems
    chosen = {Mark.METHODS, Mark.RESULTS, Mark.TELLING}
    if named or found & chosen:
        chosen.add(Mark.HINTING)
    telling = {s.heading for s in sections if not s.parents and marks[s.heading] in chosen - {Mark.RESULTS}}
    tops = {marks[(*s.parents, s.heading)[0]] for s in sections}
    report = Mark.RESULTS in tops and not tops & {Mark.OTHER, Mark.FOREIGN}  # what was done, then what was found
    return chosen, named or report or len(telling) >= SURE_TOPS


def _tops(sections: Sequence[Section], marks: dict[str, Mark], chosen: set[Mark], own_names: bool) -> Iterator[bool]:
    """For each section, whether the top section it belongs to is experimental."""
    taken = closed = False
    last = None
    for section in sections:
        heading = (*section.parents, section.heading)[0]
        if not section.parents or heading != last:
            last, found = heading, marks[heading]
            if found in chosen:
                taken, closed = True, False
            elif found is Mark.NEUTRAL:
                taken = own_names and not closed and bool(heading)
            else:
                taken, closed = False, closed or bool(CLOSING & set(plain(heading).split()))
        yield taken


def _is_experimental(section: Section, path: list[Mark], top: bool, chosen: set[Mark]) -> bool:
    if Mark.OTHER in path or Mark.NEVER in path:
        return False
    if KINDS.search(section.kind.lower()):
        return True
    if OTHER_KINDS.search(section.kind.lower()) and not chosen & set(path):
        return False
    return top or bool(chosen & set(path[1:]))


def experimental_sections(document: Document) -> list[Section]:
    """Methods, materials, set-up, results and their like, with their subsections, in reading order.

    A heading without text stays only above one with text.
    """
    kept = experimental(document.sections)
    chosen = [s for s, keep in zip(document.sections, kept, strict=True) if keep]
    return [s for n, s in enumerate(chosen) if s.text or any(_lies_under(t, s) and t.text for t in chosen[n + 1 :])]


def _lies_under(section: Section, above: Section) -> bool:
    path = (*above.parents, above.heading)
    return section.parents[: len(path)] == path
