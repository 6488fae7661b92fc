"""Runs of a page -> its lines of print, in the order in which the page draws them.

A line ends where PDFium's next run stands on another baseline, or after a gap as wide as between two columns: the cells
of a row are lines of their own. What is raised or lowered is written as elsewhere (10⁻⁵, CO₂); raised numbers behind a
word are citations, marked as `citations.settle` takes them. Numbers of lines, and what is printed twice, are left out.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.elements import script
from nsllm_lite.corpus.files.pdf.characters import Page, Run

SAME_BASE = 0.2  # of the size: within that two runs stand on one baseline
SCRIPT_SHIFT, SCRIPT_SIZE = 0.75, 0.87  # what is raised by less, and smaller than this, is a script
MIN_SHIFT = 0.04
MIN_BLANK = 0.17  # of the size: a gap that is one without a blank in it
MAX_NUMBER_CHARS = 16
WIDE_GAP = 1.9  # of the size: between two cells, or columns
OVERPRINT_POINTS = 13
MIN_NUMBERED_LINES = 8
_BULLET = re.compile(r"[•●▪■◦‣·∙–\uf0b7\uf0a7*-]\s*")
_LOST_BULLET = re.compile("^\ufffd (?=\\w)")  # of a font of symbols without a map to Unicode
_RAISED_CITATION = re.compile(r"\d{1,3}(?:\s*[,–—‐e-]\s*\d{1,3})*,?")
# Behind these a raised number is a power or a mark, behind any other word a citation.
_NUMBER = re.compile(r"(?:\d{1,2}(?:\.\d{1,2}){0,4}|[IVX]{1,5}|[A-Z])[.)]?")  # of a heading
_UNIT = re.compile(
    r"(?:^|[\s(/·×\d])(?:[munkcdµμ]?m|[kmµμn]?g|[mµμn]?s|[mµμ]?[lL]|min|hr?|days?|yr|km|ha|Å|K|J|W|V|A|T|Pa|mol|M|rad|sr|[a-zA-Z])$"
)
_ACCENTS = {"´": "\u0301", "`": "\u0300", "¨": "\u0308", "ˆ": "\u0302", "˜": "\u0303", "¸": "\u0327", "ˇ": "\u030c"}
_ACCENTED = re.compile(r"([´¨ˆ˜¸ˇ])([^\W\d_])")


class Style(NamedTuple):
    font: str
    size: float
    bold: bool
    italic: bool


@dataclass(slots=True)
class Line:
    page: int
    text: str
    left: float
    right: float
    base: float
    style: Style  # of most of its characters
    lead: str = ""  # its beginning, as far as that is in `lead_style`; empty where all of it is
    lead_style: Style | None = None
    num_cells: int = 1  # of lines on its baseline, side by side without a gutter between
    column: int = 0  # 0: over all columns, or the only one; else from 1 on

    @property
    def size(self) -> float:
        return self.style.size


def lines_of(number: int, page: Page) -> list[Line]:
    runs = _without_line_numbers(page.runs)
    found = [line for group in _grouped(runs) if (line := _line(number, group)).text]
    return list(_printed_once(found))


def _grouped(runs: Iterable[Run]) -> Iterator[list[Run]]:
    group: list[Run] = []
    for run in runs:
        if group and not _goes_on(group, run):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def _goes_on(group: list[Run], run: Run) -> bool:
    last = group[-1]
    main = max(group[-8:], key=lambda r: r.size)
    size = max(main.size, run.size, 1)
    shift = abs(run.base - main.base)
    is_script = shift <= SCRIPT_SHIFT * size and min(run.size, main.size) <= SCRIPT_SIZE * size
    if shift > SAME_BASE * size and not is_script:
        return False
    gap = run.left - last.right
    if len(group) < 3 and _BULLET.fullmatch("".join(r.text for r in group)):
        return -size < gap < 4 * size
    return -(2.5 if is_script or last.size < SCRIPT_SIZE * main.size else 0.6) * size <= gap <= WIDE_GAP * size


def _line(number: int, runs: list[Run]) -> Line:
    base, style = _main(runs)
    parts: list[str] = []
    lead, lead_parts, lead_style = "", 0, _style(next(run for run in runs if run.size >= SCRIPT_SIZE * style.size))
    is_led = True  # up to here
    for before, run in zip([None, *runs], runs, strict=False):
        text, shift = run.text, (run.base - base) / style.size
        is_script = run.size < SCRIPT_SIZE * style.size and abs(shift) > MIN_SHIFT
        if is_script:
            text = _script(text, shift > 0, "".join(parts[-3:]))
        elif is_led and _style(run) != lead_style and text.strip():
            lead = "".join(parts)
            is_led = len(lead) < MAX_NUMBER_CHARS and bool(_NUMBER.fullmatch(lead.strip()))  # its words come next
            lead_style = _style(run) if is_led else lead_style
        if before and run.left - before.right > MIN_BLANK * min(run.size, before.size):
            is_open = parts[-1][-1:] not in ("", " ") and text[:1] != " "
            text = f" {text}" if is_open and not (is_script and text.startswith(citations.OPEN)) else text
        parts.append(text)
        lead_parts += is_led
    text = _LOST_BULLET.sub("• ", " ".join(_with_accents("".join(parts)).split()))
    lead = "" if is_led else " ".join("".join(parts[:lead_parts]).split())
    right = max(run.right for run in runs)
    return Line(number, text, runs[0].left, right, base, style, lead, None if is_led else lead_style)


def _main(runs: list[Run]) -> tuple[float, Style]:
    """The baseline and the style of most characters, scripts apart."""
    sizes: Counter[float] = Counter()
    for run in runs:
        sizes[run.size] += len(run.text.strip())
    often = [size for size, count in sizes.items() if count >= 0.1 * sizes.total()]
    largest = max(often or sizes)
    bases: Counter[float] = Counter()
    styles: Counter[Style] = Counter()
    for run in runs:
        if run.size >= SCRIPT_SIZE * largest:
            bases[run.base] += len(run.text)
            styles[_style(run)] += len(run.text.strip())
    return bases.most_common(1)[0][0], styles.most_common(1)[0][0]


def _style(run: Run) -> Style:
    return Style(run.font, run.size, run.bold, run.italic)


def _script(text: str, raised: bool, before: str) -> str:
    inner = text.strip()
    is_number = raised and _RAISED_CITATION.fullmatch(inner)
    behind_word = before[-1:].isalpha() or before[-1:] in tuple(".,;:)]”’\"'?!")
    if is_number and behind_word and not _UNIT.search(before[-8:]):
        return citations.mark(inner) + text[len(text.rstrip()) :]
    if raised and inner in ("◦", "o", "º", "∘") and before[-1:].isdigit():
        inner, raised = "°", False
    return (inner if inner == "°" else script(inner, raised)) + (" " if text.endswith(" ") else "")


def _with_accents(text: str) -> str:
    """TeX's fonts without a map to Unicode set an accent as a sign of its own, before its letter."""
    if not any(sign in text for sign in _ACCENTS):
        return text
    return _ACCENTED.sub(lambda found: unicodedata.normalize("NFC", found[2] + _ACCENTS[found[1]]), text)


def _without_line_numbers(runs: list[Run]) -> list[Run]:
    """Manuscripts number their lines in the margin: a column of numbers that count on."""
    columns: dict[int, list[Run]] = {}
    for run in runs:
        if run.text.strip().isdecimal() and len(run.text.strip()) <= 5:
            columns.setdefault(round(run.right / 4), []).append(run)
    numbers: set[int] = set()
    left = min((run.left for run in runs), default=0)
    for found in columns.values():
        values = [int(run.text) for run in found]
        steps = Counter(b - a for a, b in pairwise(values))
        step, count = steps.most_common(1)[0] if steps else (0, 0)
        aside = min(run.left for run in found) < left + 20
        if step in (1, 5) and count >= MIN_NUMBERED_LINES and count >= 0.8 * len(values) and aside:
            numbers.update(map(id, found))
    return [run for run in runs if id(run) not in numbers] if numbers else runs


def _printed_once(lines: list[Line]) -> Iterator[Line]:
    """Without a line that stands on the same words again: pages printed two or three times over each other."""
    seen: dict[str, list[Line]] = {}
    for line in lines:
        same = seen.setdefault(line.text, []) if len(line.text) > 3 else []
        near = (abs(o.left - line.left) + abs(o.base - line.base) <= OVERPRINT_POINTS for o in same[-20:])
        if any(near):
            continue
        same.append(line)
        yield line
