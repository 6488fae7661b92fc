"""A table as text, in the layout of the prompts that LLaMat asks DiSCoMaT's tables with: numbered rows and columns."""

import ast
import re
from dataclasses import dataclass, field

CELL = re.compile(r"COL=(\d+) : (.*)", re.DOTALL)
LAYOUT = re.compile(r"Caption: (.*)\n\nTable:\n (\[.*\])\n\nFooter: (\{.*\})\s*", re.DOTALL)


@dataclass(frozen=True)
class Table:
    caption: str
    rows: tuple[tuple[str, ...], ...]
    footer: dict[str, str] = field(default_factory=dict)


def write_table(table: Table) -> str:
    rows = [
        [f"ROW={number}", *(f"COL={place} : {cell}" for place, cell in enumerate(row))]
        for number, row in enumerate(table.rows)
    ]
    body = ",\n".join(map(repr, rows))
    return f"Caption: {table.caption}\n\nTable:\n {body}\n\nFooter: {table.footer!r}"


def read_table(text: str) -> Table:
    """What `write_table` wrote. ValueError where a text is of another layout, or numbers do not count up from 0."""
    found = LAYOUT.fullmatch(text)
    if not found:
        raise ValueError("no Caption, Table and Footer")  # the callers say where
    try:
        rows, footer = ast.literal_eval(f"[{found[2]}]"), ast.literal_eval(found[3])
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"rows that are no lists ({error})") from None
    cells = []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not all(isinstance(cell, str) for cell in row):
            raise ValueError(f"row {number} is no list of texts")  # the callers say where
        parts = [CELL.fullmatch(cell) for cell in row[1:]]
        places = [int(part[1]) if part else -1 for part in parts]
        if row[:1] != [f"ROW={number}"] or places != list(range(len(places))):
            raise ValueError(f"row {number} is not numbered so")  # the callers say where
        cells.append(tuple(part[2] for part in parts if part))
    return Table(found[1], tuple(cells), footer)
