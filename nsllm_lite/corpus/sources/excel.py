"""Workbooks of Web of Science (savedrecs.xls), Scopus, CNKI, Wanfang and Dimensions: .xls, .xlsx, .xlsb and .ods; and
the HTML tables that CNKI and others name .xls. Columns are recognised as those of `table`.

Each sheet is read by itself. Its header is the first of HEADER_ROWS rows that names papers' columns (what stands above
it is a heading); a sheet without one is a line of the ledger.
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain, groupby
from operator import itemgetter
from typing import BinaryIO, TextIO

from nsllm_lite.corpus.files import webtables, workbooks
from nsllm_lite.corpus.files.opening import NOT_THIS_FORMAT, UNREADABLE_FILE, Place, Unread, read_each
from nsllm_lite.corpus.files.tables import Dialect
from nsllm_lite.corpus.sources import fields, table
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Fields

HEADER_ROWS = 10
MAX_LISTED = 300

_PAGE = re.compile(r"<(?:\?xml|!doctype html|!--|html|head|meta|style|body|div|table)\b", re.IGNORECASE)

Cells = list | str


def recognise(head: str) -> bool:
    """An HTML table of papers; a workbook is known by its first bytes (`is_workbook`)."""
    return _PAGE.match(head) is not None and _header(webtables.rows_in(head), table.columns_of) is not None


def is_workbook(head: bytes) -> bool:
    """Of a zip `archives` hands on none but workbooks; of Office's older files the first bytes do not say which."""
    return head.startswith((workbooks.COMPOUND, workbooks.ZIPPED))


def records(stream: TextIO) -> Iterator[table.Cells | str]:
    rows = webtables.iter_rows(stream)
    header = _header(rows, table.columns_of)
    yield from table.cells_of(_named(rows, header)) if header else ["no table in it has a column of titles"]


def document(record: table.Cells, place: Place) -> Document:
    return table.document(record, place)


def read(file: BinaryIO, map_of_fields: Fields | None, source: str, name: str) -> Iterator[Document | Unread]:
    """One document a row of a workbook on disk, by the map, or without one by the names of the columns."""
    mapped = {path for _, path in map_of_fields or () if path}
    wanted = (lambda names: not mapped.isdisjoint(names)) if mapped else table.columns_of
    for sheet, group in groupby(workbooks.iter_rows(file), key=itemgetter(0)):
        rows, place = (cells for _, cells in group), f"{name}/{sheet}" if sheet else name
        looked: list[Cells] = []
        header = _header(rows, wanted, looked)
        if header is None:
            message = next((row for row in looked if isinstance(row, str)), None)
            reason = UNREADABLE_FILE if message and sheet is not None else NOT_THIS_FORMAT
            yield Unread(f"{place}#0", reason, message or _no_header(looked[0], sheet))
            continue
        named = chain((row for row in looked if isinstance(row, str)), _named(rows, header))
        if map_of_fields:
            yield from fields.read_rows(named, map_of_fields, source, place)
        else:
            yield from read_each(table.cells_of(named), source, place, document)


def _header(
    rows: Iterator[Cells], wanted: Callable[[list[str]], object], looked: list[Cells] | None = None
) -> list[str] | None:
    """The names of the first row that are `wanted`, behind which `rows` then are; `looked` gets those above."""
    for number, row in enumerate(rows, start=1):
        names = [] if isinstance(row, str) else Dialect("", ["" if cell is None else str(cell) for cell in row]).names
        if wanted(names):
            return names
        if looked is not None:
            looked.append(row)
        if number == HEADER_ROWS:
            break
    return None


def _named(rows: Iterator[Cells], names: list[str]) -> Iterator[dict | str]:
    """Each row by the header's names. Blanks behind its last cell are left out in HTML; a row that is longer, and none
    of a sheet is, is a message."""
    for row in rows:
        if isinstance(row, str):
            yield row
        elif any(row[len(names) :]):
            yield f"a row has {len(row)} cells, the header has {len(names)}"
        elif row != names and any(row):
            yield dict(zip(names, [*row[: len(names)], *[""] * (len(names) - len(row))], strict=True))


def _no_header(first: list, sheet: str) -> str:
    listed = ", ".join(str(cell) for cell in first if cell)[:MAX_LISTED]
    return f"sheet {sheet!r} has no row of names with a title and an abstract; it begins {listed!r}"
