"""Lines in reading order -> blocks: what is set as one piece, and whether it is text, or a caption, a table, a formula
or a note.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from nsllm_lite.corpus.files.citations import CLOSE, OPEN
from nsllm_lite.corpus.files.pdf.lines import Line
from nsllm_lite.corpus.texts.words import PATTERNS

Kind = Literal["text", "caption", "table", "formula", "note"]
SAME_SIZE = 0.35  # points: fonts of one text differ by so much
WIDE_STEP = 1.3  # of the usual distance of two lines
SMALL = 0.6  # points below the size of the text
MIN_SHARE = 0.08  # of the characters are in the size of a second text, such as methods in smaller print
MIN_WORDS = 12  # of a piece in a font that the text has not, such as the labels in a picture
MIN_LETTERS = 0.55
MAX_MATHS = 0.5
MAX_CELL = 0.8  # of its column's width
_CAPTION = re.compile(
    rf"(?:(?:{PATTERNS['caption_before']})\s)?(?:{PATTERNS['caption']})\s*"
    r"(?:[A-Z]{0,2}\.?\s?\d{1,3}(?:[.-]\d{1,2})?|[IVX]{1,5}|[A-Z]\d{0,2})(?![\w%])\s*(?P<end>[.:|—–-]|$)?",
    re.IGNORECASE,
)
TABLE = re.compile(r"tab|表", re.IGNORECASE)
_MATHS = re.compile(r"cmmi|cmsy|cmex|msam|msbm|math|symbol|stix.*(?:var|siz)|mtmi|mtsy|euclid|eusm|rsfs", re.IGNORECASE)
_ENDED = re.compile(r"[.!?:。！？][\"'”’)\]]*$")
_MARKS = re.compile(f"{OPEN}[^{CLOSE}]*{CLOSE}")


@dataclass(slots=True)
class Block:
    lines: list[Line]
    kind: Kind = "text"
    edge: float = 0.0  # where the lines of its column begin
    right: float = 0.0  # and end

    @property
    def size(self) -> float:
        return self.lines[0].size

    @property
    def is_justified(self) -> bool:
        """Whether its lines fill their column, but for an indent and the last one."""
        inner = self.lines[:-1]
        even = sum(line.right > self.right - 3 and line.left < self.edge + 3 * line.size for line in inner)
        return bool(inner) and even >= 0.8 * len(inner)

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)


class Measures:
    """The usual distance of two lines, and the edges of columns, as they are in one paper."""

    def __init__(self, lines: Sequence[Line], size: float):
        self.size = size
        steps: dict[float, list[float]] = {}
        for above, below in pairwise(lines):
            if above.page == below.page and above.column == below.column and abs(above.size - below.size) < SAME_SIZE:
                step = above.base - below.base
                if 0.8 * above.size < step < 3 * above.size:
                    steps.setdefault(round(above.size, 0), []).append(step)
        self._steps = {size: median(found) for size, found in steps.items() if len(found) >= 3}
        self._edges: dict[tuple[int, int], tuple[float, float]] = {}
        columns: dict[tuple[int, int], list[Line]] = {}
        for line in lines:
            columns.setdefault((line.page, line.column), []).append(line)
        for key, own in columns.items():
            prose = [line for line in own if abs(line.size - size) < SAME_SIZE and line.num_cells == 1] or own
            lefts = Counter(round(line.left) for line in prose)
            rights = Counter(round(line.right) for line in prose)
            self._edges[key] = (_most(lefts, min), _most(rights, max))
        fonts: Counter[str] = Counter()
        for line in lines:
            fonts[line.style.font] += len(line.text)
        even = Counter(line.right > self._edges[line.page, line.column][1] - 3 for line in lines if len(line.text) > 30)
        self.are_justified = even[True] > 0.5 * even.total()
        self.fonts = {font for font, count in fonts.items() if count >= MIN_SHARE * fonts.total()}

    def step(self, size: float) -> float:
        return self._steps.get(round(size, 0), 1.25 * size)

    def edges(self, line: Line) -> tuple[float, float]:
        """Left and right edge of the column in which a line stands."""
        return self._edges[line.page, line.column]

    def is_cell(self, line: Line) -> bool:
        """Whether it is one of a table's row, and no line that fills its column beside others."""
        left, right = self.edges(line)
        return line.num_cells > 1 and line.right - line.left < MAX_CELL * (right - left)

    def is_apart(self, above: Line, below: Line) -> bool:
        """Whether more than the usual space is between two lines, or they stand in different columns."""
        if above.page != below.page or above.column != below.column:
            return True
        step = above.base - below.base
        return step < -2 or step > WIDE_STEP * max(self.step(above.size), self.step(below.size))


def _most(edges: Counter[int], choose: type(min)) -> float:
    """The outermost edge at which a good part of the lines begins or ends."""
    least = max(1, 0.2 * edges.total())
    often = [edge for edge in edges if edges[edge - 1] + edges[edge] + edges[edge + 1] >= least]
    return float(choose(often or edges))


def text_sizes(sections: Sequence[Sequence[Line]], size: float) -> set[float]:
    """The size of most of the text, and a smaller one in which a good part of the sections is, such as methods."""
    counts: Counter[float] = Counter()
    for lines in sections:
        first = lines[0].size if lines else size
        counts[size if first > size - SMALL else first] += sum(len(line.text) for line in lines)
    return {size} | {s for s, count in counts.items() if count >= MIN_SHARE * counts.total()}


def blocks_of(lines: Sequence[Line], measures: Measures, sizes: set[float]) -> Iterator[Block]:
    """The blocks of lines between two headings."""
    for block in _cut(lines, measures):
        block.kind = _kind(block, measures, sizes)
        yield block


def _cut(lines: Sequence[Line], measures: Measures) -> Iterator[Block]:
    block: list[Line] = []
    for line in lines:
        if block:
            last = block[-1]
            same = abs(last.size - line.size) < SAME_SIZE and measures.is_cell(last) == measures.is_cell(line)
            if measures.is_apart(last, line) or not same or is_caption(line, measures.size, last):
                yield Block(block, "text", *measures.edges(block[0]))
                block = []
        block.append(line)
    if block:
        yield Block(block, "text", *measures.edges(block[0]))


def is_caption(line: Line, size: float, above: Line | None = None) -> bool:
    """Whether the line begins the caption of a figure or a table, and no sentence about it."""
    found = _CAPTION.match(line.text)
    if not found:
        return False
    is_told_apart = bool(found["end"]) or line.size < size - SAME_SIZE
    if line.lead and line.lead_style and _CAPTION.match(line.lead) and len(line.lead) < found.end() + 12:
        is_told_apart = is_told_apart or line.lead_style.bold or line.lead_style.font != line.style.font
    if above is None or not is_told_apart:
        return is_told_apart
    return bool(_ENDED.search(above.text)) or above.size - line.size > SAME_SIZE or line.left - above.left > 2


def _kind(block: Block, measures: Measures, sizes: set[float]) -> Kind:
    lines = block.lines
    if is_caption(lines[0], measures.size):
        return "caption"
    if sum(map(measures.is_cell, lines)) > len(lines) / 2:
        return "table"
    if _is_formula(block):
        return "formula"
    is_label = len(block.text.split()) < MIN_WORDS and all(line.style.font not in measures.fonts for line in lines)
    near = any(abs(block.size - size) < SAME_SIZE for size in sizes)
    return "text" if (near or block.size > measures.size) and not is_label else "note"


def _is_formula(block: Block) -> bool:
    solid = "".join(_MARKS.sub("", block.text).split())
    letters = sum(c.isalpha() for c in solid)
    maths = sum(len(line.text) for line in block.lines if _MATHS.search(line.style.font))
    is_short = len(block.lines) <= 3 or maths > MAX_MATHS * len(solid)
    words = re.findall(r"[^\W\d_]{3,}", block.text)
    if len(words) > 6 * len(block.lines):
        return False
    return is_short and (letters < MIN_LETTERS * len(solid) or maths > MAX_MATHS * len(solid))
