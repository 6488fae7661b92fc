"""A paper from a flat list of headings and paragraphs in reading order, as Markdown and Word documents have them.

The title is the first heading before the abstract that names no journal, kind or part of the page, or the first block.
The abstract stands under its heading, or behind its name, or it is the first paragraph of sentences. Left out: the
references and what follows them (but for Methods behind them), acknowledgements and other back matter; citations by
number where the references are numbered so far.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.lines import is_heading, is_name, is_notice, names_references
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.outline import Outline, printed_number
from nsllm_lite.corpus.stated.names import split_names
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, different
from nsllm_lite.corpus.texts.headings import Mark, mark
from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.documents import Document, Section

LOWEST = 6  # the level of a heading that is only known by its words
MIN_ABSTRACT_WORDS = 30
MAX_FRONT_BLOCKS = 60
MAX_NAME_CHARS = 60  # of the heading of a usual section
MAX_FRONT_CHARS = 1_000  # of a line that states an identifier
MAIN = re.compile(
    rf"(?:{PATTERNS['main_headings'].strip()}|related works?|preliminaries|case report)[.:]?", re.IGNORECASE
)
ABSTRACT = re.compile(r"(?:abstract|summary|摘要)[.:]?", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:\d{1,2}(?:\.\d{1,3}){0,4}|[IVX]{1,5}|[A-Z])\s*[.)]?\s+(?=\S)")
_RUN_IN = re.compile(r"(?:Abstract|ABSTRACT|Summary|SUMMARY|摘要)(?:\s*[.:：—–-]+\s*|\s+(?=[A-Z]))(?=\S)")
_KEYWORDS = re.compile(r"(?:key ?words?(?: and phrases)?|index terms|关键词)\s*[.:：—–-]*\s*", re.IGNORECASE)
_NO_TITLE = re.compile(
    r"(?:[\w-]+ ){0,3}(?:articles?|reports?|papers?|reviews?|communications?|letters?|open|open access)|article info.*|"
    r"highlights?|graphical abstract|"
    r"(?:[\w-]+ )?(?:journal|transactions|proceedings|annals|archives) (?:of|on) .{1,60}",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"(?:[-*•]\s+)?(?:\[?\(?(\d{1,4})[\].)]+\s*)?(.+)", re.DOTALL)
_SPACED = re.compile(r"(?:\w ){3,}\w")  # "A B S T R A C T"
_MARKS = re.compile(r"\$[^$]*\$|\^[\w*†‡§]+(?:,[\w*†‡§]+)*|[\d*†‡§¶⁰¹²³⁴⁵⁶⁷⁸⁹⋆∗]+")  # of addresses, behind names
_LETTER = re.compile(r"(?:\s+[a-z],?)+$")


class Block(NamedTuple):
    """A heading of this level (1 is the top), or of level 0 a paragraph (of a list, a line an item)."""

    level: int
    text: str


class _Front(NamedTuple):
    """What stands before the first section, and the number of the block that begins it."""

    title: str
    abstract: list[str]
    keywords: tuple[str, ...]
    authors: tuple[str, ...]
    ids: dict[str, str]
    end: int


def paper_of(blocks: Sequence[Block], place: Place, trusts_levels: bool = False) -> Document:
    """`trusts_levels` where headings of one level are known to be of one rank; else their words decide."""
    blocks = [_with_heading(block) for block in blocks]
    front = _front(blocks)
    body, entries = _parted(blocks[front.end :])
    printed = [_ENTRY.fullmatch(entry) for entry in entries]
    highest = max((int(one[1]) for one in printed if one[1]), default=len(entries))
    return place.paper(
        arxiv=front.ids.get("arxiv", ""),
        doi=front.ids.get("doi", ""),
        title=citations.settle(front.title),
        abstract="\n\n".join(citations.settle(citations.mark_bracketed(part, highest)) for part in front.abstract),
        sections=_sections(body, highest, trusts_levels),
        authors=front.authors,
        keywords=front.keywords,
        references=different(as_reference(citations.settle(one[2])) for one in printed),
    )


def bare(heading: str) -> str:
    """The words of a heading without emphasis, anchors and number."""
    heading = re.sub(r"<[^<>]*>|[*_#]", "", heading).strip()
    heading = heading.replace(" ", "") if _SPACED.fullmatch(heading) else heading
    return _NUMBERED.sub("", heading, count=1)


def _with_heading(block: Block) -> Block:
    """A heading with its letters together; a known one that only stands on its line is a heading too."""
    if block.level:
        return Block(block.level, block.text.replace(" ", "") if _SPACED.fullmatch(block.text) else block.text)
    words = bare(block.text) if len(block.text) < MAX_NAME_CHARS else ""
    is_known = (MAIN.fullmatch(words) or ABSTRACT.fullmatch(words)) and is_heading(block.text.rstrip(".:"))
    return Block(LOWEST, block.text) if is_known else block


def _front(blocks: list[Block]) -> _Front:
    heads = blocks[:MAX_FRONT_BLOCKS]
    names = [bare(block.text) if block.level else "" for block in heads]
    body = next((n for n, name in enumerate(names) if MAIN.fullmatch(name)), len(heads))
    labels = [n for n, name in enumerate(names[:body]) if ABSTRACT.fullmatch(name)]  # behind it "Summary" ends a paper
    told = [n for n, name in enumerate(names[:body]) if name and _KEYWORDS.fullmatch(name)]
    first = min((*labels, *told), default=body)
    titles = (n for n in range(first) if heads[n].level and not _NO_TITLE.fullmatch(heads[n].text))
    title = next(titles, 0 if first else -1)
    end, abstract = _abstract(blocks, title, (first, body), labels)
    before = [block.text for block in blocks[max(title, 0) : end]]
    keywords = next((_terms(line) for line in before if _KEYWORDS.match(line)), ())
    while end < len(blocks) and blocks[end].level and _KEYWORDS.match(blocks[end].text):
        behind = _next_heading(blocks, end + 1)
        keywords = _terms(*(block.text for block in blocks[end:behind]))
        end = behind
    cut = next((n for n, part in enumerate(abstract) if n and _KEYWORDS.match(part)), len(abstract))
    own = blocks[title].text if title >= 0 else ""
    return _Front(own, abstract[:cut], keywords, _authors(blocks, title, first), _ids(before), max(end, title + 1))


def _abstract(blocks: list[Block], title: int, ends: tuple[int, int], labels: list[int]) -> tuple[int, list[str]]:
    """(the block behind the abstract, its paragraphs); `ends` are those of the front, without and with its labels."""
    first, body = ends
    run_in = next((n for n, b in enumerate(blocks[:body]) if not b.level and _RUN_IN.match(b.text)), None)
    if labels:
        end = _next_heading(blocks, labels[0] + 1)
        return end, [block.text for block in blocks[labels[0] + 1 : end]]
    if run_in is not None:
        end = _next_heading(blocks, run_in + 1)
        own = _RUN_IN.sub("", blocks[run_in].text, count=1)
        return end, [own, *(block.text for block in blocks[run_in + 1 : end])]
    told = (n for n in range(title + 1, first) if not blocks[n].level and _is_written(blocks[n].text))
    place = next(told, None)
    return (first, []) if place is None else (place + 1, [blocks[place].text])


def _next_heading(blocks: list[Block], start: int) -> int:
    return next((n for n in range(start, len(blocks)) if blocks[n].level), len(blocks))


def _is_written(paragraph: str) -> bool:
    return len(paragraph.split()) >= MIN_ABSTRACT_WORDS and not is_notice(paragraph)


def _terms(*lines: str) -> tuple[str, ...]:
    return as_terms(*(_KEYWORDS.sub("", line, count=1) for line in lines), parted=";,·•")


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
            outline.add(citations.settle(citations.mark_bracketed(block.text, num_references)))
    return outline.sections()
