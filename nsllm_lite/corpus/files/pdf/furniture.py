"""What stands on a page beside its text: running heads and feet, page numbers, side bars, unreadable lines."""

import re
from collections import Counter
from collections.abc import Sequence

from nsllm_lite.corpus.files.lines import names_references
from nsllm_lite.corpus.files.pdf.lines import Line, Style

HEAD_SHARE = 0.16  # of the page's height, at its top and at its foot
SAME_HEIGHT = 4.0  # points
MAX_BAR = 0.32  # of the page's width: what is wider beside the text is a column
MIN_LINES = 8
MIN_LINE_CHARS, MIN_EVEN = 25, 0.2
MIN_EDGE_SHARE = 0.12  # of a page's lines of text begin at the edge of a column
MIN_READABLE = 0.6  # of a line's characters
_PAGE_NUMBER = re.compile(
    r"\W*(?:p(?:age|\.)?\s*)?(?:[a-zA-Z]{0,3}\d{1,6}|[ivxlc]{1,6})(?:\s*(?:of|/)\s*\d{1,4})?\W*", re.I
)
_DIGITS = re.compile(r"\d+")
_UNREADABLE = re.compile("[\ufffd\ue010-\uf8ff\x80-\xbf×÷]|[À-ÿ](?=[À-ÿ\x80-\xbf])")


def body_style(pages: Sequence[list[Line]]) -> Style:
    """The style of most characters that stand in paragraphs: in lines of one left and right edge, above the references;
    where few do, of all characters."""
    lines = [line for own in pages for line in own]
    ends = [place for place, line in enumerate(lines) if names_references(line.text)]
    if ends and ends[-1] > len(lines) / 3:
        lines = lines[: ends[-1]]
    of_all: Counter[Style] = Counter()
    even: Counter[Style] = Counter()
    for above, line in zip([lines[0], *lines], lines, strict=False):
        of_all[line.style] += len(line.text)
        is_even = abs(above.left - line.left) < 2 and abs(above.right - line.right) < 2
        even[line.style] += len(line.text) * (is_even and len(line.text) >= MIN_LINE_CHARS)
    counts = even if even.total() > MIN_EVEN * of_all.total() else of_all
    return counts.most_common(1)[0][0]


def is_readable(text: str) -> bool:
    """Whether its signs can be words: a font without a map to Unicode gives others, such as "¿Äº¿Ä½"."""
    solid = "".join(text.split())
    return len(_UNREADABLE.findall(solid)) <= (1 - MIN_READABLE) * len(solid)


def part(
    pages: Sequence[list[Line]], sizes: Sequence[tuple[float, float]]
) -> tuple[list[list[Line]], list[list[Line]]]:
    """(the lines of text, those beside it) of each page; `sizes` are the pages' widths and heights."""
    repeated = _repeated(pages, [height for _, height in sizes])
    body = body_style(pages)
    kept, beside = [], []
    for lines, (width, height) in zip(pages, sizes, strict=True):
        out = {id(line) for line in lines if id(line) in repeated or _is_page_number(line, height)}
        left, right = _edges([line for line in lines if abs(line.size - body.size) < 0.3 and id(line) not in out])
        for bar in ([o for o in lines if o.right <= left - 2], [o for o in lines if o.left >= right + 2]):
            is_text = 2 * sum(o.style == body for o in bar) > len(bar)  # a short last column
            if bar and not is_text and max(o.right for o in bar) - min(o.left for o in bar) <= MAX_BAR * width:
                out.update(map(id, bar))
        kept.append([line for line in lines if id(line) not in out])
        beside.append([line for line in lines if id(line) in out])
    return kept, beside


def _is_page_number(line: Line, height: float) -> bool:
    return _is_at_edge(line, height) and bool(_PAGE_NUMBER.fullmatch(line.text))


def _is_at_edge(line: Line, height: float) -> bool:
    return line.base > (1 - HEAD_SHARE) * height or line.base < HEAD_SHARE * height


def _repeated(pages: Sequence[list[Line]], heights: Sequence[float]) -> set[int]:
    """Lines that stand at the same height of other pages too, but for their numbers."""
    places: dict[str, list[Line]] = {}
    for lines, height in zip(pages, heights, strict=True):
        for line in lines:
            if _is_at_edge(line, height):
                places.setdefault(_DIGITS.sub("#", line.text), []).append(line)
    found: set[int] = set()
    for same in places.values():
        by_height: dict[int, list[Line]] = {}
        for line in same:
            by_height.setdefault(round(line.base / SAME_HEIGHT), []).append(line)
        for place, lines in by_height.items():
            near = [*lines, *by_height.get(place + 1, ()), *by_height.get(place - 1, ())]
            if len({line.page for line in near}) >= max(2, min(4, 0.15 * len(pages))):
                found.update(map(id, near))
    return found


def _edges(lines: list[Line]) -> tuple[float, float]:
    """The left edge of the leftmost column and the right edge of the rightmost."""
    least = max(3, MIN_EDGE_SHARE * len(lines))
    lefts = Counter(round(line.left / 3) for line in lines)
    rights = Counter(round(line.right / 3) for line in lines)
    left = min((edge for edge in lefts if _near(lefts, edge) >= least), default=None)
    right = max((edge for edge in rights if _near(rights, edge) >= least), default=None)
    if left is None or right is None or len(lines) < MIN_LINES:
        return float("-inf"), float("inf")
    return 3 * left - 3, 3 * right + 3


def _near(counts: Counter[int], edge: int) -> int:
    return counts[edge - 1] + counts[edge] + counts[edge + 1]
