"""A table as text, in the layout of the prompts that LLaMat asks DiSCoMaT's tables with: numbered rows and columns."""

import ast
import re
from dataclasses import dataclass, field

from nsllm_lite.errors import UserError

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
    """What `write_table` wrote. Raises UserError where a text is of another layout, or its numbers do not count up."""
    found = LAYOUT.fullmatch(text)
    if not found:
        raise _unfit("it is not a Caption, a Table and a Footer")
    try:
        rows, footer = ast.literal_eval(f"[{found[2]}]"), ast.literal_eval(found[3])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise _unfit(f"its rows are no lists ({error})") from None
    cells = []
    for number, row in enumerate(rows):
        is_text = isinstance(row, list) and all(isinstance(cell, str) for cell in row)
        parts = [CELL.fullmatch(cell) for cell in row[1:]] if is_text else []
        places = [int(part[1]) if part else -1 for part in parts]
        if not is_text or row[:1] != [f"ROW={number}"] or places != list(range(len(places))):
            raise _unfit(f"row {number} is not numbered from ROW={number} and COL=0 on")
        cells.append(tuple(part[2] for part in parts if part))
    return Table(found[1], tuple(cells), footer)


def _unfit(what: str) -> UserError:
    return UserError("table-text-unfit", f"A table's text cannot be read: {what}.", "Write it as `write_table` does.")
