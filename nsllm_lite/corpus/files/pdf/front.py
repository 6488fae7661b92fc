"""What the first pages of a paper say before its text: title, abstract, and what it states about itself."""

import re
from collections.abc import Iterator, Sequence

from nsllm_lite.corpus.files.citations import CLOSE, OPEN
from nsllm_lite.corpus.files.lines import ABSTRACT, KEYWORDS, NO_TITLE, is_first_heading, is_name, unspaced
from nsllm_lite.corpus.files.pdf.blocks import SAME_SIZE, Measures
from nsllm_lite.corpus.files.pdf.lines import Line, Style
from nsllm_lite.corpus.files.pdf.paragraphs import joined
from nsllm_lite.corpus.files.pdf.styles import Heading
from nsllm_lite.corpus.stated.names import split_names
from nsllm_lite.corpus.texts.scripts import weighted_chars
from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.headings import Mark, mark
from nsllm_lite.formats.scripts import EASTERN

MIN_TITLE_WORDS, MIN_TITLE_CHARS, MAX_TITLE_CHARS = 3, 20, 400
MIN_HEAD_WORDS = 6  # a longer running head is the title, a shorter one the journal
MIN_SHORT_TITLE = 5  # characters: of a Chinese one, or of two words
MIN_ABSTRACT_CHARS = 200  # of one without a label
MIN_LABELLED_CHARS = 60
MAX_LABEL_CHARS = 30
MAX_ABSTRACT_LINES = 120
MAX_NAME_WORDS = 4  # of a name that is certainly one
_NO_ABSTRACT = re.compile(PATTERNS["no_abstract"], re.IGNORECASE)
_DOI = re.compile(r"(?:doi(?:\.org)?\s?[:/]?\s?|https?://(?:dx\.)?doi\.org/)?(10\.\d{4,9}/[^\s\"<>\]]+)", re.IGNORECASE)
_CITED_AS = re.compile(r"doi:\s?(10\.\S+)\s+Cite this article as")
_PUBLISHED = re.compile(
    r"(?:published(?: online)?|available online|first published|publication date)(?: on)?\s*:?\s*"
    r"(\d{1,2} [A-Z][a-z]+,? \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4}|\d{4}-\d\d-\d\d|[A-Z][a-z]+ \d{4})",
    re.IGNORECASE,
)
_STAMP = re.compile(r"arXiv:\s?(\S+?)(?:v\d+)?\s+\[[\w.-]+\]\s+(\d{1,2} [A-Z][a-z]{2} \d{4})")
_AFFILIATED = re.compile(rf"\b(?:{PATTERNS['affiliation']})", re.IGNORECASE)
_MARKS = re.compile(rf"{OPEN}[^{CLOSE}]*{CLOSE}|[*†‡§¶#∗✉⁎⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+|\^[\w,]+|(?<=[a-z.])\d+(?:,\d+)*|\bORCID\b")


def title_of(lines: Sequence[Line], beside: Sequence[Line], stated: str, body_size: float) -> tuple[str, int]:
    """(the title, the place behind its last line among `lines`, those of the first page's text).

    It is what the file states of itself where that is printed, else the largest print, rather of three words or more.
    """
    groups = [(first, last, _text(lines[first:last])) for first, last in _groups(lines)]
    known = "" if NO_TITLE.match(stated) else _squeezed(stated)
    if known and len(stated.split()) > MIN_TITLE_WORDS:
        for _, last, text in groups:
            found = _squeezed(text)
            if known in found or (len(found) > MIN_TITLE_CHARS and found in known):
                return (text if known == found else " ".join(stated.split())), last
    heads = {_squeezed(line.text) for line in beside}
    best, chosen = (False, 0.0), ("", 0)
    for first, last, text in groups:
        size = lines[first].size + 0.5 * lines[first].style.bold
        letters = sum(c.isalpha() or c.isspace() for c in text)
        is_head = _squeezed(text) in heads and (len(text.split()) < MIN_HEAD_WORDS or "ournal" in text)
        is_none = is_head or NO_TITLE.match(text) or ABSTRACT.match(text) or len(text) > MAX_TITLE_CHARS
        if is_none or letters < 0.7 * len(text) or len(text) < MIN_SHORT_TITLE or size < body_size - 0.5:
            continue
        is_long = len(text.split()) >= MIN_TITLE_WORDS or bool(EASTERN.search(text))
        if (is_long, size) > (best[0], best[1] + 0.4 * (is_long == best[0])):
            best, chosen = (is_long, size), (text, last)
    return chosen


def _groups(lines: Sequence[Line]) -> list[tuple[int, int]]:
    """Lines of one size that follow close on each other, as (first, behind the last)."""
    groups, first = [], 0
    for place in range(1, len(lines) + 1):
        if place < len(lines):
            above, below = lines[place - 1], lines[place]
            near = 0 <= above.base - below.base < 1.9 * max(above.size, below.size)
            same_look = above.style.bold == below.style.bold or above.size > 12
            if NO_TITLE.match(above.text):
                near = False
            if near and abs(above.size - below.size) < 0.5 and same_look:
                continue
        if lines[first:place]:
            groups.append((first, place))
        first = place
    return groups


def _text(lines: Sequence[Line]) -> str:
    return _MARKS_AT_END.sub("", joined(lines)).strip()


_MARKS_AT_END = re.compile(rf"(?:{OPEN}[^{CLOSE}]*{CLOSE}|[*†‡§¶#∗⋆¹²³\s])+$")


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def abstract_of(
    lines: Sequence[Line], headings: Sequence[Heading], start: int, measures: Measures
) -> tuple[str, int, list[Heading]]:
    """(the abstract, the place where the text after it begins, the headings of the text).

    `start` is the place behind the title. Without a label the abstract is the last piece of prose before the first
    heading, as at Hindawi.
    """
    for first, label in _labels(lines, headings):
        end = _end_of_abstract(lines, headings, first, measures, label)
        text = joined(lines[first:end])
        if lines[first] is label:
            text = ABSTRACT.sub("", unspaced(text[:MAX_LABEL_CHARS]), count=1) + text[MAX_LABEL_CHARS:]
        if weighted_chars(text) >= MIN_LABELLED_CHARS:
            return text, end, [h for h in headings if h.first >= end]
    later = [heading for heading in headings if heading.first >= start]
    top = next(filter(_opens_text, later), None) or next((h for h in later if lines[h.first].page > 0), None)
    if top is None or lines[top.first].page > 2:
        return "", start, later
    return _unlabelled(lines, start, top.first, measures), top.first, [h for h in later if h.first >= top.first]


def _labels(lines: Sequence[Line], headings: Sequence[Heading]) -> Iterator[tuple[int, Line]]:
    """(where an abstract may begin, the line with its label): a heading above the text, or words at its beginning."""
    for heading in headings:
        if ABSTRACT.fullmatch(heading.text) and heading.last + 1 < len(lines):
            yield heading.last + 1, lines[heading.first]
        elif _opens_text(heading):
            break
    for place, line in enumerate(lines):
        if line.page > 1:
            break
        text = unspaced(line.text)
        found = ABSTRACT.match(text)
        if found and found.end() == len(text) and place + 1 < len(lines):
            yield place + 1, line
        elif found and (found[0].rstrip()[-1] in ".:：—–-" or (line.lead and len(line.lead) <= found.end() + 2)):
            yield place, line


def _opens_text(heading: Heading) -> bool:
    """Whether its words are those of a section: authors and addresses may look like headings."""
    return is_first_heading(heading.text) or mark(heading.text) in (Mark.METHODS, Mark.RESULTS, Mark.OTHER)


def _end_of_abstract(
    lines: Sequence[Line], headings: Sequence[Heading], first: int, measures: Measures, label: Line
) -> int:
    """Where it ends: keywords, a heading of the text, another size of print, or a piece that is none of it."""
    heads = {heading.first: heading for heading in headings if heading.first >= first}
    own = label.lead_style or label.style
    main = _main_style(lines, headings)
    for place in range(first, min(len(lines), first + MAX_ABSTRACT_LINES)):
        line = lines[place]
        if KEYWORDS.match(line.text) or (place > first and ABSTRACT.fullmatch(line.text)):
            return place
        if place in heads:
            if line.style in (own, main) or line.size > own.size + SAME_SIZE or is_first_heading(heads[place].text):
                return place
            continue
        if place == first:
            continue
        above = lines[place - 1]
        if abs(line.size - lines[first].size) > 2 * SAME_SIZE and place - 1 not in heads and above.text[-1:] in ".)”":
            return place
        new_print = line.style.font != lines[first].style.font and line.size != lines[first].size
        if new_print and measures.is_apart(above, line) and above.text[-1:] in ".)”" and line.num_cells == 1:
            return place
        if measures.is_apart(above, line) and (_NO_ABSTRACT.search(line.text[:60]) or _is_note(line, lines[first])):
            return place
    return min(len(lines), first + MAX_ABSTRACT_LINES)


def _is_note(line: Line, first: Line) -> bool:
    return line.size < first.size - 2 * SAME_SIZE or line.text[:1] in "*†‡©"


def _main_style(lines: Sequence[Line], headings: Sequence[Heading]) -> Style | None:
    """The style of the heading that opens the text: those within an abstract are others."""
    named = [h for h in headings if is_first_heading(h.text)]
    later = [h for h in headings if h.level == 1 and mark(h.text) in (Mark.METHODS, Mark.RESULTS, Mark.OTHER)]
    return next((lines[heading.first].style for heading in (*named[:1], *later[-1:])), None)


def _unlabelled(lines: Sequence[Line], start: int, end: int, measures: Measures) -> str:
    """The last piece of prose before the text that is long enough and no notice, with what it goes on from: in another
    column, or on the page before."""
    pieces: list[list[Line]] = []
    for line in lines[start:end]:
        last = pieces[-1][-1] if pieces else None
        if last is not None and abs(last.size - line.size) < SAME_SIZE and not measures.is_apart(last, line):
            pieces[-1].append(line)
        else:
            pieces.append([line])
    found: list[Line] = []
    for piece in reversed(pieces):
        text = joined(piece)
        is_prose = weighted_chars(text) >= MIN_ABSTRACT_CHARS and not _NO_ABSTRACT.search(text[:120])
        if is_prose and (not found or (piece[0].style == found[0].style and text[-1] not in ".!?")):
            found = piece + found
    return joined(found)


def stated_of(page: Sequence[Line], last: Sequence[Line], sideways: Sequence[str], keywords: str) -> dict:
    """Ids, dates and keywords, as far as the first page prints them; `page` holds its lines but the text, which
    names other papers."""
    whole = "\n".join(line.text for line in page)
    stamp = next(filter(None, map(_STAMP.search, (*sideways, whole))), None)
    published = _PUBLISHED.search(whole)
    dois = [found[1] for found in _DOI.finditer(whole)]
    if not dois:  # BMC prints it on the last page
        dois = _CITED_AS.findall("\n".join(line.text for line in last))
    longest = max((doi for doi in dois if doi.startswith(dois[0])), key=len, default="")  # a line's end may cut one
    return {
        "arxiv": stamp[1] if stamp else "",
        "dois": [longest],
        "dates": [published[1] if published else "", stamp[2] if stamp else ""],
        "keywords": re.sub(r"\s\.\s", "; ", keywords),
    }


def keywords_of(lines: Sequence[Line], measures: Measures) -> str:
    for place, line in enumerate(lines):
        found = KEYWORDS.match(line.text)
        if found and line.page <= 1:
            taken = [line]
            for below in lines[place + 1 : place + 6]:
                if measures.is_apart(taken[-1], below) and found.end() < len(line.text):
                    break
                if abs(below.size - line.size) > SAME_SIZE or (len(taken) > 1 and measures.is_apart(taken[-1], below)):
                    break
                taken.append(below)
            return joined(taken)[found.end() :]
    return ""


def authors_of(lines: Sequence[Line], first: int) -> list[str]:
    """The names in the style of the line behind the title, above the abstract; none where they are not certain."""
    if first >= len(lines):
        return []
    taken: list[str] = []
    for line in lines[first : first + 40]:
        if ABSTRACT.match(line.text) or line.size > lines[first].size + 1:
            break
        if line.style[:2] != lines[first].style[:2]:
            continue
        text = _MARKS.sub(" ", line.text)
        if _AFFILIATED.search(text) or "@" in text or len(line.text) > MAX_TITLE_CHARS:
            continue
        names = [name for part in text.split(" & ") for name in split_names(part.strip(" ,;"))]
        good = list(filter(is_name, names))
        if not names or len(good) < 0.7 * len(names):
            if len(taken) and (line.text[-1:] in ".:" or len(text.split()) > 8):
                break
            return []
        taken.append(text.strip(" ,;"))
    names = split_names(re.sub(r"\s*,(\s*,)+", ",", ", ".join(taken).replace(" & ", ", ")).strip(" ,;"))
    names = [name.strip(" ,.&") for name in names if len(name.split()) > 1]
    return names if all(len(name.split()) <= MAX_NAME_WORDS for name in names) else []
