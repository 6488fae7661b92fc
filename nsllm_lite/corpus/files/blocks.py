"""A paper from a flat list of headings and paragraphs in reading order, as Markdown and Word documents have them.

The title is the first heading before the abstract that names no journal, kind or part of the page, or the first block.
The abstract stands under its heading, or behind its name, or it is the first paragraph of sentences; of several the one
in a wanted language, else the first. Where it has headings of its own, they are the labels of moves. Left out: the
references and what follows them (but for Methods behind them), acknowledgements and other back matter; citations by
number where the references are numbered so far.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.lines import (
    ABSTRACT,
    KEYWORDS,
    NO_TITLE,
    RUN_IN,
    is_abstract_label,
    is_first_heading,
    is_heading,
    is_name,
    is_notice,
    names_references,
    unspaced,
)
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.outline import Outline, printed_number
from nsllm_lite.corpus.stated.moves import labelled
from nsllm_lite.corpus.stated.names import split_names
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, different
from nsllm_lite.corpus.texts.language import sure_language
from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.formats.headings import Mark, mark

LOWEST = 6  # the level of a heading that is only known by its words
MIN_ABSTRACT_WORDS = 30
MAX_FRONT_BLOCKS = 60
MAX_NAME_CHARS = 60  # of the heading of a usual section
MAX_FRONT_CHARS = 1_000  # of a line that states an identifier
MAIN = re.compile(
    rf"(?:{PATTERNS['main_headings'].strip()}|related works?|preliminaries|case report)[.:]?", re.IGNORECASE
)
_NUMBERED = re.compile(r"(?:\d{1,2}(?:\.\d{1,3}){0,4}|[IVX]{1,5}|[A-Z])\s*[.)]?\s+(?=\S)")
_ENTRY = re.compile(r"(?:[-*•]\s+)?(?:\[?\(?(\d{1,4})[\].)]+\s*)?(.+)", re.DOTALL)
_OF_A_PART = re.compile(r"summary|synopsis", re.IGNORECASE)  # these may label the last part of an abstract
_MARKS = re.compile(r"\$[^$]*\$|\^[\w*†‡§]+(?:,[\w*†‡§]+)*|[\d*†‡§¶⁰¹²³⁴⁵⁶⁷⁸⁹⋆∗]+")  # of addresses, behind names
_LETTER = re.compile(r"(?:\s+[a-z],?)+$")


class Block(NamedTuple):
    """A heading of this level (1 is the top), or of level 0 a paragraph (of a list, a line an item)."""

    level: int
    text: str


class _Abstract(NamedTuple):
    """Where an abstract begins, with its label if it has one, where it ends, and its parts: (label, paragraphs)."""

    first: int
    end: int
    parts: list[tuple[str, list[str]]]


class _Front(NamedTuple):
    """What stands before the first section, and the number of the block that begins it."""

    title: str
    abstract: list[tuple[str, list[str]]]  # as in _Abstract
    keywords: tuple[str, ...]
    authors: tuple[str, ...]
    ids: dict[str, str]
    end: int


def paper_of(blocks: Sequence[Block], place: Place, trusts_levels: bool = False) -> Document:
    """`trusts_levels` where headings of one level are known to be of one rank; else their words decide."""
    blocks = [_with_heading(block) for block in blocks]
    front = _front(blocks, place.languages)
    body, entries = _parted(blocks[front.end :])
    printed = [_ENTRY.fullmatch(entry) for entry in entries]
    highest = max((int(one[1]) for one in printed if one[1]), default=len(entries))
    parts = ((label, [_settled(text, highest) for text in texts]) for label, texts in front.abstract)
    moves, abstract = labelled(parts)
    return place.paper(
        arxiv=front.ids.get("arxiv", ""),
        doi=front.ids.get("doi", ""),
        title=citations.settle(front.title),
        abstract=abstract,
        moves=moves,
        sections=_sections(body, highest, trusts_levels),
        authors=front.authors,
        keywords=front.keywords,
        references=different(as_reference(citations.settle(one[2])) for one in printed),
    )


def bare(heading: str) -> str:
    """The words of a heading without emphasis, anchors and number."""
    return _NUMBERED.sub("", unspaced(re.sub(r"<[^<>]*>|[*_#]", "", heading).strip()), count=1)


def _with_heading(block: Block) -> Block:
    """A heading with its letters together; a known one that only stands on its line is a heading too."""
    if block.level:
        return Block(block.level, unspaced(block.text))
    words = bare(block.text) if len(block.text) < MAX_NAME_CHARS else ""
    is_known = (MAIN.fullmatch(words) or ABSTRACT.fullmatch(words)) and is_heading(block.text.rstrip(".:"))
    return Block(LOWEST, block.text) if is_known else block


def _front(blocks: list[Block], languages: Sequence[str]) -> _Front:
    labelled, body = _labelled(blocks)
    places = [one.first for one in labelled]
    places += [n for n in range(body) if blocks[n].level and _are_keywords(blocks[n])]
    first = min(places, default=body)
    title = _place_of_title(blocks, first)
    unlabelled = _unlabelled(blocks, title, first)
    abstract = _chosen(labelled, languages) or unlabelled
    end = _behind_keywords(blocks, (labelled or [unlabelled])[-1].end)
    behind = min((one.first for one in labelled if one.first > abstract.first), default=end)
    before = blocks[title + 1 : end]
    keywords = _keywords_of(blocks[abstract.first : behind]) or _keywords_of(before)
    return _Front(
        title=blocks[title].text if title >= 0 else "",
        abstract=abstract.parts,
        keywords=keywords,
        authors=_authors(blocks, title, first),
        ids=_ids([block.text for block in before]),
        end=max(end, title + 1),
    )


def _place_of_title(blocks: list[Block], first: int) -> int:
    """The heading before `first` that is the title, else the first block; -1 where none is before it."""
    titles = (n for n in range(first) if blocks[n].level and not NO_TITLE.match(blocks[n].text))
    return next(titles, 0 if first else -1)


def _labelled(blocks: list[Block]) -> tuple[list[_Abstract], int]:
    """(the abstracts with a label, the place of the first heading or paragraph behind them that is of the text)."""
    found: list[_Abstract] = []
    place, last = 0, min(len(blocks), MAX_FRONT_BLOCKS)
    while place < last:
        block = blocks[place]
        if _is_label(blocks, place, not found):
            found.append(_abstract_of(blocks, place))
            place = found[-1].end
            continue
        if block.level and (MAIN.fullmatch(bare(block.text)) or (found and _opens(block))):
            break  # behind it "Summary" ends a paper
        if found and not block.level and _is_written(block.text):
            break
        place += 1
    return found, place


def _is_label(blocks: list[Block], place: int, is_first: bool) -> bool:
    """Whether the block is the heading of an abstract, or a paragraph that begins with such a label."""
    level, text = blocks[place]
    if not is_first and _OF_A_PART.match(bare(text)):
        return False
    if level:
        return bool(ABSTRACT.fullmatch(bare(text))) and not NO_TITLE.match(text)
    return place > 0 and bool(RUN_IN.match(text))


def _opens(heading: Block) -> bool:
    """Whether a heading behind an abstract is that of a section."""
    if _are_keywords(heading):
        return False
    is_known = mark(heading.text) in (Mark.METHODS, Mark.RESULTS, Mark.OTHER)
    return is_known or is_first_heading(heading.text) or bool(printed_number(heading.text))


def _are_keywords(block: Block) -> bool:
    """Whether it begins with the label of keywords; a heading may name them otherwise: "Keyword spotting"."""
    text = bare(block.text) if block.level else block.text
    found = KEYWORDS.match(text)
    return bool(found) and (not block.level or found.end() == len(text) or found[0].rstrip()[-1] in ".:：—–-")


def _abstract_of(blocks: list[Block], label: int) -> _Abstract:
    """The abstract whose label stands in this block, up to its keywords or another label."""
    end = _end_of_abstract(blocks, label)
    end = next((n for n in range(label + 1, end) if _is_label(blocks, n, is_first=False)), end)
    own = RUN_IN.sub("", blocks[label].text, count=1)
    parts = [("", [] if blocks[label].level else [own])]
    for block in blocks[label + 1 : end]:
        if block.level:
            parts.append((bare(block.text).rstrip(".:："), []))
        elif _are_keywords(block) and any(texts for _, texts in parts):
            break
        else:
            parts[-1][1].append(block.text)
    return _Abstract(label, end, [(name, texts) for name, texts in parts if texts])


def _end_of_abstract(blocks: list[Block], label: int) -> int:
    """The first heading behind a label that is none of a structured abstract.

    Its parts have headings below the label's level, or of the same. They are parts where the text's first heading,
    keywords or another label follow; and where one directly follows the label, also before a heading of the label's
    level, or one with the words of an earlier part.
    """
    first = _next_heading(blocks, label + 1)
    is_direct = first == label + 1
    is_below = first < len(blocks) and blocks[first].level > blocks[label].level > 0
    may_open = is_direct and is_below and is_first_heading(blocks[first].text)  # "Introduction" may be a part too
    known: set[str] = set()
    for place in range(first, len(blocks)):
        level, text = blocks[place]
        if not level:
            continue
        name = bare(text)
        is_label = bool(ABSTRACT.fullmatch(name)) and not _OF_A_PART.match(name)
        if is_label or _are_keywords(blocks[place]) or (is_first_heading(text) and not (may_open and place == first)):
            return place
        is_above = is_below and level <= blocks[label].level
        if is_direct and not may_open and (is_above or name.lower() in known) and mark(text) is not Mark.NEVER:
            return place
        if is_above or printed_number(text) or not is_abstract_label(name):
            return first
        known.add(name.lower())
    return first


def _unlabelled(blocks: list[Block], title: int, first: int) -> _Abstract:
    """The first paragraph of sentences behind the title and before the block `first`."""
    told = (n for n in range(title + 1, first) if not blocks[n].level and _is_written(blocks[n].text))
    place = next(told, None)
    if place is None:
        return _Abstract(first, first, [])
    return _Abstract(place, place + 1, [("", [blocks[place].text])])


def _chosen(abstracts: list[_Abstract], languages: Sequence[str]) -> _Abstract | None:
    """The first in one of the languages, else the first that has a text."""
    found = [one for one in abstracts if one.parts] or abstracts
    if languages and len(found) > 1:
        for one in found:
            if sure_language(" ".join(text for _, texts in one.parts for text in texts)) in languages:
                return one
    return found[0] if found else None


def _behind_keywords(blocks: list[Block], place: int) -> int:
    """The next heading that is not one of keywords."""
    while place < len(blocks) and blocks[place].level and _are_keywords(blocks[place]):
        place = _next_heading(blocks, place + 1)
    return place


def _keywords_of(blocks: list[Block]) -> tuple[str, ...]:
    """Those in the first line that begins with their label, or under it where it is a heading."""
    place = next((n for n, block in enumerate(blocks) if _are_keywords(block)), None)
    if place is None:
        return ()
    end = _next_heading(blocks, place + 1) if blocks[place].level else place + 1
    return _terms(*(block.text for block in blocks[place:end]))


def _next_heading(blocks: list[Block], start: int) -> int:
    return next((n for n in range(start, len(blocks)) if blocks[n].level), len(blocks))


def _is_written(paragraph: str) -> bool:
    return len(paragraph.split()) >= MIN_ABSTRACT_WORDS and not is_notice(paragraph)


def _terms(*lines: str) -> tuple[str, ...]:
    label = KEYWORDS.match(lines[0])
    return as_terms(lines[0][label.end() :] if label else lines[0], *lines[1:], parted=";,·•")


def _authors(blocks: list[Block], title: int, first: int) -> tuple[str, ...]:
    """The names in the block behind the title, where it holds nothing else."""
    if not 0 <= title < first - 1 or len(blocks[title + 1].text) > MAX_FRONT_CHARS:
        return ()
    line = _MARKS.sub(" ", citations.settle(blocks[title + 1].text))
    names = (
        _LETTER.sub("", " ".join(name.strip(" ,.").split())) for name in split_names(re.sub(r"(?:\s*,)+", ",", line))
    )
    found = tuple(filter(None, names))
    return found if all(map(is_name, found)) else ()


def _ids(lines: list[str]) -> dict[str, str]:
    """The DOI and arXiv's number that the paper prints of itself, before its first section."""
    short = (line for line in lines if len(line) < MAX_FRONT_CHARS and re.search(r"doi|arxiv", line, re.IGNORECASE))
    told = (as_reference(line).partition(":") for line in short)
    return {kind: value for kind, _, value in told if kind in ("doi", "arxiv") and value}


def _parted(blocks: list[Block]) -> tuple[list[Block], list[str]]:
    """(the body without back matter, the entries of the references)"""
    body: list[Block] = []
    entries: list[str] = []
    state, ended = "body", False
    for block in blocks:
        if block.level:
            found = mark(block.text)
            if names_references(block.text):
                state, ended = "references", True
            elif found is Mark.NEVER and "related" not in block.text.lower():
                state = "out"
            elif not ended or found is Mark.METHODS:
                state = "body"
            elif state == "references":
                state = "out"
        if state == "body":
            body.append(block)
        elif state == "references" and not block.level:
            entries += [line for line in block.text.split("\n") if line.strip()]
    return body, entries


def _sections(blocks: list[Block], num_references: int, trusts_levels: bool) -> tuple[Section, ...]:
    headings = [block for block in blocks if block.level]
    numbered = sum(bool(printed_number(block.text)) for block in headings)
    several = len({block.level for block in headings}) > 1
    by_level = 2 * numbered <= len(headings) and (trusts_levels or several)
    outline = Outline()
    for block in blocks:
        if block.level:
            heading = citations.settle(block.text)
            outline.begin(heading, printed_number(heading), block.level if by_level else 0)
        else:
            outline.add(_settled(block.text, num_references))
    return outline.sections()


def _settled(text: str, num_references: int) -> str:
    return citations.settle(citations.mark_bracketed(text, num_references))
