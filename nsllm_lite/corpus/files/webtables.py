"""The rows of HTML tables, cut out of a stream one at a time, as texts in which other markup stays."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TextIO

from nsllm_lite.corpus.texts.entities import unescape

CHUNK_CHARS = 1 << 20
MAX_ROW_CHARS = 1 << 24

_ROW = re.compile(r"<tr\b[^<>]{0,4000}>", re.IGNORECASE)
_CELL = re.compile(r"<t[dh]\b[^<>]{0,4000}>", re.IGNORECASE)
_LINE_END = re.compile(r"<(?:br|/p|/div)\b[^<>]{0,4000}>", re.IGNORECASE)
# What sets a table; the marks of a text (<sub>, <i>) are left to the cleaning of texts.
_LAYOUT = re.compile(
    r"</?(?:t[dhr]|tbody|thead|tfoot|table|col|colgroup|html|body|span|font|div|p|a|nobr|o:p)\b[^<>]{0,4000}>"
    r"|<!--[^<>]{0,4000}-->",
    re.IGNORECASE,
)


def iter_rows(stream: TextIO) -> Iterator[list[str] | str]:
    """The cells of each row that has some, or a message in place of one that is too long."""
    held, is_begun, searched = "", False, 0
    while chunk := stream.read(CHUNK_CHARS):
        held += chunk
        start = 0
        for row in _ROW.finditer(held, searched):
            if is_begun:
                yield from _cells(held[start : row.start()])
            is_begun, start = True, row.end()
        if not is_begun:
            start = max(0, len(held) - 4096)  # a tag that the end of the chunk cuts
        held = held[start:]
        searched = max(0, len(held) - 4096)
        if len(held) > MAX_ROW_CHARS:
            yield f"a row of the table is longer than {MAX_ROW_CHARS >> 20} Mi characters"
            held, is_begun, searched = held[-4096:], False, 0
    if is_begun:
        yield from _cells(held)


def rows_in(head: str) -> Iterator[list[str]]:
    """The rows at the beginning of a file, of which the last may be cut."""
    starts = [row.end() for row in _ROW.finditer(head)]
    for start, end in pairwise([*starts, len(head)]):
        yield from _cells(head[start:end])


def _cells(row: str) -> Iterator[list[str]]:
    _, *cells = _CELL.split(row)
    if cells:
        yield [unescape(_LAYOUT.sub("", _LINE_END.sub("\n", cell))).strip() for cell in cells]
