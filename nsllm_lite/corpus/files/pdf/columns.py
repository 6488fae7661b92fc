"""Which column each line stands in, and the order in which the lines are read.

The order of drawing is that of reading in what publishers and TeX make. Where it is not (columns line by line, a page
put together of frames), lines are sorted by their place: bands between lines over all columns, in each the columns from
left to right. A column is known by the lines' edges; a page with too few lines takes the gutter of the other pages.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from nsllm_lite.corpus.files.pdf.lines import Line

MIN_LINES = 4  # on each side of a gutter, each as wide as MIN_WIDTH of the page: cells of tables are not
MIN_WIDTH = 0.25
MAX_CROSSING = 0.3  # of the lines beside those of the second column: titles, tables and pictures over both
MAX_BACKWARD = 0.12  # of the steps from line to line go up the page, in an order of reading
MAX_PLACES = 400  # of a gutter that are tried
GUTTERS = (0.3, 0.7)  # of the page's width


def place(pages: Sequence[list[Line]], widths: Sequence[float]) -> list[list[Line]]:
    """The lines of each page in reading order, with `column` and `num_cells` set."""
    gutters = [_gutter(lines, width) for lines, width in zip(pages, widths, strict=True)]
    known = [gutter for gutter in gutters if gutter]
    num_full = sum(len(lines) >= 2 * MIN_LINES for lines in pages)
    usual = median(known) if known and 2 * len(known) >= num_full else 0
    ordered = []
    for lines, gutter in zip(pages, gutters, strict=True):
        _set_columns(lines, gutter or (usual if usual and _may_have(lines, usual) else 0))
        _count_cells(lines)
        ordered.append(lines if _is_in_order(lines) else _sorted(lines))
    return ordered


def _gutter(lines: list[Line], width: float) -> float:
    """The middle of the widest white strip near the page's middle, or 0."""
    best, found = 0.0, 0.0
    prose = [line for line in lines if line.right - line.left > MIN_WIDTH * width]
    crossed = Counter()
    step = max(2, int(width / MAX_PLACES))
    for x in range(int(GUTTERS[0] * width), int(GUTTERS[1] * width), step):
        before, behind, crossing = _sides(prose, x)
        if min(before, behind) >= MIN_LINES and crossing <= MAX_CROSSING * (before + behind):
            crossed[x] = crossing
    if not crossed:
        return 0
    least = min(crossed.values())
    clear = sorted(x for x, count in crossed.items() if count <= least)
    start = clear[0]
    for x, following in pairwise([*clear, 10**9]):
        if following - x > step:
            if x - start >= best:
                best, found = x - start, (x + start) / 2
            start = following
    return found


def _sides(lines: list[Line], x: float) -> tuple[int, int, int]:
    """How many lines end before `x`, begin behind it, or cross it, from the highest to the lowest of those behind."""
    behind = [line.base for line in lines if line.left >= x - 2]
    top, foot = max(behind, default=0), min(behind, default=0)
    beside = [line for line in lines if foot - 2 <= line.base <= top + 2 and line.left < x - 2]
    before = sum(line.right <= x + 2 for line in beside)
    return before, len(behind), len(beside) - before


def _may_have(lines: list[Line], gutter: float) -> bool:
    before, behind, crossing = _sides(lines, gutter)
    return behind > 0 and crossing <= MAX_CROSSING * (before + behind)


def _set_columns(lines: list[Line], gutter: float) -> None:
    for line in lines:
        crosses = line.left < gutter - 4 and line.right > gutter + 4
        line.column = 0 if not gutter or crosses else 1 if (line.left + line.right) / 2 < gutter else 2


def _count_cells(lines: list[Line]) -> None:
    """How many lines of its column stand on a line's baseline: the cells of a table's row."""
    row: list[Line] = []
    for line in [*sorted(lines, key=lambda line: (line.column, line.base)), None]:
        if row and (line is None or line.column != row[0].column or line.base - row[0].base > 2):
            for cell in row:
                cell.num_cells = len(row)
            row = []
        row.append(line)


def _is_in_order(lines: list[Line]) -> bool:
    """Whether few steps go up within a column, or from a column back to the one before it."""
    steps = backward = 0
    for above, below in pairwise(lines):
        steps += 1
        up = below.base - above.base > 2
        if up and (above.column == below.column or (below.column == 1 and above.column == 2)):
            backward += 1
        elif not up and above.column == 2 and below.column == 1:
            backward += 1  # line by line over both columns
    return backward <= max(4, MAX_BACKWARD * steps)


def _sorted(lines: list[Line]) -> list[Line]:
    ordered: list[Line] = []
    band: list[Line] = []
    for line in sorted(lines, key=lambda line: (-round(line.base, 1), line.left)):
        if line.column == 0:
            ordered += sorted(band, key=lambda line: line.column)
            ordered.append(line)
            band = []
        else:
            band.append(line)
    return ordered + sorted(band, key=lambda line: line.column)
