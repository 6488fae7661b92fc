"""A PDF as a paper: title, abstract, sections, and what it states about itself.

Left out of the text as in the other sources: heads and feet, figures, tables and captions, displayed formulas,
footnotes, references, acknowledgements and the like. Behind the references only Methods or an appendix open again.
"""

import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.linebreaks import BREAK
from nsllm_lite.corpus.files.linebreaks import Lines as Words
from nsllm_lite.corpus.files.lines import is_first_heading, names_references
from nsllm_lite.corpus.files.opening import NOT_A_PAPER
from nsllm_lite.corpus.files.outline import Outline
from nsllm_lite.corpus.files.pdf import columns, front, furniture
from nsllm_lite.corpus.files.pdf.blocks import SAME_SIZE, TABLE, Block, Measures, blocks_of, text_sizes
from nsllm_lite.corpus.files.pdf.characters import Page, Pdf, PdfError
from nsllm_lite.corpus.files.pdf.lines import Line, lines_of
from nsllm_lite.corpus.files.pdf.paragraphs import texts_of
from nsllm_lite.corpus.files.pdf.styles import Heading, Headings
from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.headings import Mark, mark, plain

MIN_CHARS_A_PAGE = 80
MAX_UNREADABLE = 0.3  # of the lines
MAX_SILENT = 0.05  # of the lines are left out without a word
MAX_FIGURE_PAGES = 0.3  # of the pages: so many pictures behind the last text are the figures of a manuscript
MIN_NUMBERED = 3  # so many entries with a number make a numbered list of references
_MIN_ENTRIES = 5
_ASIDE = re.compile(rf"(?:{PATTERNS['back_matter']})\W*$", re.IGNORECASE)
_OF_THE_WORK = re.compile(PATTERNS["of_the_work"], re.IGNORECASE)
_BEHIND_REFERENCES = re.compile(r"doi:\s?10\.\S+$|cite this article|submit your ", re.IGNORECASE)
_NUMBERED_ENTRY = re.compile(r"(?:\[\d{1,3}\]|\(?\d{1,3}[.)]|\d{1,3}\s)\s*(?=\S)")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_MAX_REFERENCE_CHARS = 1_000


def read(content: bytes) -> dict[str, Any]:
    """The paper in a PDF file, as values of JSON. Raises PdfError."""
    pdf = Pdf(content)
    try:
        all_pages = list(pdf.pages())
        title = pdf.title
    finally:
        pdf.close()
    pages = [page for page in all_pages if page is not None]
    if not pages:
        raise PdfError("broken", f"none of its {len(all_pages)} pages can be loaded")
    lines = [lines_of(number, page) for number, page in enumerate(pages)]
    left_out = _faults(pages, lines)
    if len(pages) < len(all_pages):
        left_out.append(("broken", f"{len(all_pages) - len(pages)} of {len(all_pages)} pages cannot be loaded"))
    lines = [[line for line in own if furniture.is_readable(line.text)] for own in lines]
    sideways = [text for page in pages[:1] for text in ("".join(page.sideways), *page.sideways)]
    found = _paper(lines, [(page.width, page.height) for page in pages], title, sideways)
    return found | {"num_pages": len(all_pages), "left_out": left_out}


def _faults(pages: Sequence[Page], lines: Sequence[list[Line]]) -> list[tuple[str, str]]:
    """Reason and message of what is lost of a paper that is read; raises PdfError where it is most of it."""
    num_chars = [sum(len(line.text) for line in own) for own in lines]
    bare = sum(count < MIN_CHARS_A_PAGE / 4 for count in num_chars)
    pictures = [number for number, page in enumerate(pages) if page.has_pictures]
    found = f"{bare} of {len(pages)} pages hold no text"
    if sum(num_chars) < MIN_CHARS_A_PAGE * len(pages):
        what = "only pictures of it" if pictures else f"all together {sum(num_chars):,} characters"
        raise PdfError("scanned", f"{found}, {what}: run OCR first, e.g. ocrmypdf")
    strange = sum(not furniture.is_readable(line.text) for own in lines for line in own)
    total = sum(map(len, lines))
    if strange > MAX_UNREADABLE * total:
        found = f"{strange} of {total} lines are in fonts without a map to Unicode"
        raise PdfError("no_unicode", f"{found}: run OCR on it, e.g. ocrmypdf --force-ocr")
    left_out = []
    if pictures and not _are_figures(pictures, num_chars):
        left_out.append(("scanned", f"{len(pictures)} of {len(pages)} pages are pictures without text: left out"))
    if strange > MAX_SILENT * total:
        left_out.append(("no_unicode", f"{strange} of {total} lines are in fonts without a map to Unicode: left out"))
    return left_out


def _are_figures(pictures: Sequence[int], num_chars: Sequence[int]) -> bool:
    """Whether the pages that are pictures are few and stand behind the text; `num_chars` are those of each page."""
    behind = max((number for number, count in enumerate(num_chars) if count), default=0)
    return pictures[0] > behind and len(pictures) <= MAX_FIGURE_PAGES * len(num_chars)


def _paper(pages: list[list[Line]], sizes: list[tuple[float, float]], stated: str, sideways: Sequence[str]) -> dict:
    kept, beside = furniture.part(pages, sizes)
    ordered = columns.place(kept, [width for width, _ in sizes])
    lines = [line for own in ordered for line in own]
    if not lines:
        raise PdfError(NOT_A_PAPER, "no line of text but heads and feet")
    body = furniture.body_style(ordered)
    measures = Measures(lines, body.size)
    headings = Headings(lines, measures, body).find()
    first_page = next(own for own in ordered if own)
    title, behind = front.title_of(first_page, [line for own in beside for line in own], stated, body.size)
    abstract, start, headings = front.abstract_of(lines, headings, behind, measures)
    text, cited = _without_references(lines, headings, start)
    references, num_references = _entries(cited)
    printed = [line for own in pages[:2] for line in own]
    keywords = front.keywords_of(printed, Measures(printed, body.size))
    of_text = {id(line) for _, own in text for line in own if abs(line.size - body.size) < SAME_SIZE}
    outside = [line for line in pages[0] if id(line) not in of_text | set(map(id, cited))]
    words = Words(f"{BREAK} ".join(line.text for line in lines))

    def write(paragraphs: str) -> str:
        return "\n".join(map(words.join, paragraphs.split("\n")))

    def settle(paragraphs: str) -> str:
        return citations.settle(citations.mark_bracketed(write(paragraphs), num_references))

    outline = _outline(text, measures, body.size, settle)
    return {
        "title": citations.settle(write(title)),
        "abstract": settle(abstract),
        "sections": [(section.heading, section.text, list(section.parents)) for section in outline.sections()],
        "authors": front.authors_of(first_page, behind),
        "references": list(map(write, references)),
        **front.stated_of(outside, pages[-1], sideways, write(keywords)),
    }


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
            text.append((None, [] if headings and _opens(headings[0].text) else own))
            continue
        if heading.rest:
            text_line = lines[heading.first]
            rest = Line(text_line.page, heading.rest, text_line.left, text_line.right, text_line.base, text_line.style)
            rest.column = text_line.column
            own.insert(0, rest)
        said = mark(heading.text)
        if names_references(heading.text):
            ended, cited = True, cited or own
            continue
        if ended and not ((said is Mark.METHODS and heading.level == 1) or plain(heading.text).startswith("appendix")):
            continue
        if _ASIDE.match(heading.text) or (said is Mark.NEVER and not _OF_THE_WORK.search(heading.text)):
            aside = heading.level
            continue
        if aside and heading.level > aside:
            continue
        aside, ended = 0, False
        text.append((heading, own))
    if not cited and text:
        heading, own = text[-1]
        start = _start_of_references(own)
        text[-1], cited = (heading, own[:start]), own[start:]
    return text, cited


def _start_of_references(lines: Sequence[Line]) -> int:
    """Where a numbered list of references begins that ends the text, though no heading is above it; else the end."""
    numbers = [(place, number) for place, line in enumerate(lines) if (number := _number_of(line.text))]
    for n, (start, number) in enumerate(numbers):
        following = [value for _, value in numbers[n : n + _MIN_ENTRIES]]
        if number == 1 and following == list(range(1, _MIN_ENTRIES + 1)):
            years = sum(bool(_YEAR.search(line.text)) for line in lines[start:])
            return start if years >= len(lines[start:]) / 5 else len(lines)
    return len(lines)


def _opens(heading: str) -> bool:
    """Whether a text with this first heading has none above it: what stands there are keywords and notices."""
    return is_first_heading(heading) or mark(heading) is Mark.OTHER


def _outline(
    text: Sequence[tuple[Heading | None, list[Line]]],
    measures: Measures,
    size: float,
    settle: Callable[[str], str],
) -> Outline:
    sizes = text_sizes([own for _, own in text], size)
    outline = Outline()
    for heading, own in text:
        if heading is not None:
            outline.begin(settle(heading.text), level=heading.level)
        for paragraph in texts_of(_prose(own, measures, sizes), measures):
            outline.add(settle(paragraph))
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


def _number_of(entry: str) -> int:
    """The number that an entry of a list of references begins with; 0 where there is none."""
    found = _NUMBERED_ENTRY.match(entry)
    return int(re.search(r"\d+", found[0])[0]) if found else 0


def _entries(lines: Sequence[Line]) -> tuple[list[str], int]:
    """(the references as printed, parted by their numbers, or by the lines that begin at the column's edge; the highest
    number, 0 where they are not numbered)."""
    numbers = [number for line in lines if (number := _number_of(line.text))]
    is_numbered = len(numbers) >= MIN_NUMBERED
    highest = max((n for n in numbers if n <= 2 * len(numbers)), default=0)  # a line may begin with that of a page
    lines = list(takewhile(lambda line: not _BEHIND_REFERENCES.match(line.text), lines))
    entries: list[list[str]] = []
    edges: dict[tuple[int, int], float] = {}
    for line in lines:
        key = (line.page, line.column)
        edges[key] = min(edges.get(key, line.left), line.left)
    for line in lines:
        begins = _NUMBERED_ENTRY.match(line.text) if is_numbered else line.left < edges[line.page, line.column] + 3
        if begins or not entries:
            entries.append([])
        entries[-1].append(line.text)
    texts = (f"{BREAK} ".join(entry) for entry in entries)
    texts = (text[found.end() :] if (found := _NUMBERED_ENTRY.match(text)) else text for text in texts)
    return [text for text in texts if 20 < len(text) < _MAX_REFERENCE_CHARS], highest if is_numbered else 0
