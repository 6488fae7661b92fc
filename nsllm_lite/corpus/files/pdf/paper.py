"""A PDF as a paper: title, abstract, sections, and what it states about itself.

Left out of the text as in the other sources: heads and feet, figures, tables and captions, displayed formulas,
footnotes, references, acknowledgements and the like. Behind the references only Methods or an appendix open again.
"""

import re
from collections.abc import Sequence
from typing import Any

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.linebreaks import BREAK
from nsllm_lite.corpus.files.linebreaks import Lines as Words
from nsllm_lite.corpus.files.outline import Outline
from nsllm_lite.corpus.files.pdf import columns, front, furniture
from nsllm_lite.corpus.files.pdf.blocks import TABLE, Block, Measures, blocks_of, text_sizes
from nsllm_lite.corpus.files.pdf.characters import Pdf, PdfError
from nsllm_lite.corpus.files.pdf.lines import Line, lines_of
from nsllm_lite.corpus.files.pdf.paragraphs import texts_of
from nsllm_lite.corpus.files.pdf.styles import Heading, Headings
from nsllm_lite.corpus.texts.headings import Mark, mark, plain

MIN_CHARS_A_PAGE = 80
MAX_UNREADABLE = 0.3  # of the lines
MAX_ROW_SHARE = 0.5  # of a piece of a table's lines
_ASIDE = re.compile(
    r"(?:(?:author |acm classification )?key\s?words.*|general terms|description of authors.*|disclosures?|conflicts? of interests?|competing interests?|disclaimer|author details|authors?['’]? contributions?"
    r"|author contributions|endnotes?|additional files?|supporting information|supplementary|data availability.*"
    r"|open access|how to cite.*|publisher['’]s note|peer review|abbreviations?|funding.*|ethics (?:statement|approval).*"
    r"|consent.*|credit.*|declarations?.*)\W*$",
    re.IGNORECASE,
)
_OF_THE_WORK = re.compile(r"related|relation|previous|proof|derivation|highlights|summary", re.IGNORECASE)
_NUMBERED_ENTRY = re.compile(r"(?:\[\d{1,3}\]|\(?\d{1,3}[.)]|\d{1,3}\s)\s*(?=\S)")
_CITED = re.compile(r"\[\d{1,3}(?:\s*[,;–—-]\s*\d{1,3}){0,30}\]")
_MAX_REFERENCE_CHARS = 1_000


def read(content: bytes) -> dict[str, Any]:
    """The paper in a PDF file, as values of JSON. Raises PdfError."""
    pdf = Pdf(content)
    try:
        pages = list(pdf.pages())
        info = pdf.info
    finally:
        pdf.close()
    read_pages = [page for page in pages if page is not None]
    if not read_pages:
        raise PdfError("broken", f"none of its {len(pages)} pages can be loaded")
    lines = [lines_of(number, page) for number, page in enumerate(read_pages)]
    num_chars = [sum(len(line.text) for line in own) for own in lines]
    without = sum(count < MIN_CHARS_A_PAGE / 4 for count in num_chars)
    if sum(num_chars) < MIN_CHARS_A_PAGE * len(read_pages):
        found = f"{without} of {len(read_pages)} pages hold no text"
        if any(page.has_pictures for page in read_pages):
            raise PdfError("scanned", f"{found}, only pictures of it: run OCR first, e.g. ocrmypdf")
        raise PdfError("not_a_paper", f"{found}, all together {sum(num_chars):,} characters")
    total = sum(map(len, lines))
    lines = [[line for line in own if furniture.is_readable(line.text)] for own in lines]
    unreadable = 1 - sum(map(len, lines)) / total
    if unreadable > MAX_UNREADABLE:
        raise PdfError(
            "no_unicode", f"{unreadable:.0%} of its lines are in fonts without a map to Unicode: run OCR on it"
        )
    sideways = [text for page in read_pages[:1] for text in ("".join(page.sideways), *page.sideways)]
    found = _paper(lines, [(page.width, page.height) for page in read_pages], info.title, sideways)
    return found | {"num_pages": len(pages), "unloaded": len(pages) - len(read_pages), "without_text": without}


def _paper(pages: list[list[Line]], sizes: list[tuple[float, float]], stated: str, sideways: Sequence[str]) -> dict:
    kept, beside = furniture.part(pages, sizes)
    ordered = columns.place(kept, [width for width, _ in sizes])
    lines = [line for own in ordered for line in own]
    if not lines:
        raise PdfError("not_a_paper", "no line of text but heads and feet")
    body = furniture.body_style(ordered)
    measures = Measures(lines, body.size)
    headings = Headings(lines, measures, body).find()
    first_page = next(own for own in ordered if own)
    title, behind = front.title_of(first_page, [line for own in beside for line in own], stated, body.size)
    abstract, start, headings = front.abstract_of(lines, headings, behind, measures)
    text, cited = _without_references(lines, headings, start)
    has_numbers = sum(bool(_NUMBERED_ENTRY.match(line.text)) for line in cited) >= 3
    outline = _outline(lines, text, measures, body.size, has_numbers)
    printed = [line for own in pages[:2] for line in own]
    keywords = front.keywords_of(printed, Measures(printed, body.size))
    words = Words(f"{BREAK} ".join(line.text for line in lines))

    def write(paragraphs: str) -> str:
        return "\n".join(map(words.join, paragraphs.split("\n")))

    return {
        "title": write(title),
        "abstract": write(_settled(abstract, has_numbers)),
        "sections": [(write(s.heading), write(s.text), list(map(write, s.parents))) for s in outline.sections()],
        "authors": front.authors_of(first_page, behind),
        "references": list(map(write, _entries(cited))),
        **front.stated_of(
            _outside(pages[0], [*cited, *(line for _, own in text for line in own)]), sideways, write(keywords)
        ),
    }


def _outside(page: Sequence[Line], text: Sequence[Line]) -> list[Line]:
    of_text = {id(line) for line in text}
    return [line for line in page if id(line) not in of_text]


def _without_references(
    lines: Sequence[Line], headings: Sequence[Heading], start: int
) -> tuple[list[tuple[Heading | None, list[Line]]], list[Line]]:
    """(each heading of the text with the lines below it, the lines of the references)."""
    text: list[tuple[Heading | None, list[Line]]] = []
    cited: list[Line] = []
    ended, aside = False, 0
    bounds = [(None, start), *((heading, heading.last + 1) for heading in headings)]
    ends = [heading.first for heading in headings] + [len(lines)]
    for (heading, first), end in zip(bounds, ends, strict=True):
        own = list(lines[first:end])
        if heading is None:
            text.append((None, [] if headings and _opens(headings[0]) else own))
            continue
        if heading.rest:
            text_line = lines[heading.first]
            rest = Line(text_line.page, heading.rest, text_line.left, text_line.right, text_line.base, text_line.style)
            rest.column = text_line.column
            own.insert(0, rest)
        said = mark(heading.text)
        if furniture.REFERENCES.fullmatch(heading.text):
            ended, cited = True, cited + own
            continue
        if ended and not ((said is Mark.METHODS and heading.level == 1) or plain(heading.text).startswith("appendix")):
            cited += own
            continue
        if _ASIDE.match(heading.text) or (said is Mark.NEVER and not _OF_THE_WORK.search(heading.text)):
            aside = heading.level
            continue
        if aside and heading.level > aside:
            continue
        aside, ended = 0, False
        text.append((heading, own))
    return text, cited


def _opens(heading: Heading) -> bool:
    """Whether nothing but keywords and notices stands between the abstract and this heading."""
    return mark(heading.text) is Mark.OTHER or heading.text[:2] in ("1 ", "1.")


def _outline(
    lines: Sequence[Line],
    text: Sequence[tuple[Heading | None, list[Line]]],
    measures: Measures,
    size: float,
    has_numbers: bool,
) -> Outline:
    sizes = text_sizes([own for _, own in text], size)
    outline = Outline()
    for heading, own in text:
        if heading is not None:
            outline.begin(_settled(heading.text, has_numbers), level=heading.level)
        for paragraph in texts_of(list(_prose(own, measures, sizes)), measures):
            outline.add(_settled(paragraph, has_numbers))
    return outline


def _prose(lines: Sequence[Line], measures: Measures, sizes: set[float]) -> list[Block]:
    """The blocks of text; behind the caption of a table, not those of its page that are set unlike paragraphs."""
    kept, table_on = [], -1
    for block in blocks_of(lines, measures, sizes):
        page = block.lines[0].page
        if block.kind == "caption" and TABLE.match(block.lines[0].text):
            table_on = page
        if block.kind != "text":
            continue
        if table_on == page and measures.are_justified and not block.is_justified:
            continue
        table_on = -1
        kept.append(block)
    return kept


def _settled(text: str, has_numbers: bool) -> str:
    if has_numbers:
        text = _CITED.sub(lambda found: f"[{citations.mark(found[0][1:-1])}]" if found[0][1] != "0" else found[0], text)
    return citations.settle(text)


def _entries(lines: Sequence[Line]) -> list[str]:
    """The references as printed, parted by their numbers, or by the lines that begin at the column's edge."""
    numbered = sum(bool(_NUMBERED_ENTRY.match(line.text)) for line in lines) >= 3
    lefts = sorted(line.left for line in lines)
    entries: list[list[str]] = []
    edges: dict[tuple[int, int], float] = {}
    for line in lines:
        key = (line.page, line.column)
        edges[key] = min(edges.get(key, line.left), line.left)
    for line in lines:
        if numbered:
            begins = bool(_NUMBERED_ENTRY.match(line.text))
        else:
            begins = line.left < edges[line.page, line.column] + 3
        if begins or not entries:
            entries.append([])
        entries[-1].append(line.text)
    texts = (f"{BREAK} ".join(entry) for entry in entries)
    texts = (text[found.end() :] if (found := _NUMBERED_ENTRY.match(text)) else text for text in texts)
    return [text for text in texts if 20 < len(text) < _MAX_REFERENCE_CHARS and lefts]
