"""What a verb prints: tables drawn by rich on a terminal, plain text elsewhere; the same as Markdown and as HTML."""

import html
import io
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from nsllm_lite.safety import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FOLDED = 12  # letters; longer words in a table, such as paths, may be folded
LONG = 60  # characters; longer cells of HTML have a class of their own


def print_all_letters() -> None:
    r"""From here on letters that a terminal or a pipe cannot show (\xb5) are printed as escapes, and raise nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def as_json(value: Any) -> str:
    """`value` as one line of JSON; letters that standard output cannot show as JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def on_terminal() -> bool:
    in_notebook = "JPY_PARENT_PID" in os.environ  # its cells pass for terminals of 80 columns
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not in_notebook


def row(cells: Sequence[str], widths: Sequence[int], style: str = "bold") -> None:
    """One line whose first cells are `widths` wide; on a terminal the last one is folded within its column, and the
    first has a `style` of rich."""
    cells = [printable(cell) for cell in cells]
    if not on_terminal():
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
        print(" ".join([*padded, *cells[len(widths) :]]).rstrip(), flush=True)
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    for number in range(len(cells)):
        width = widths[number] if number < len(widths) else None
        grid.add_column(min_width=width, max_width=width, overflow="fold", style="" if number else style)
    grid.add_row(*map(Text, cells))
    _console().print(grid)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> None:
    """Prints a head and rows, with the columns named in `right` aligned there; on a terminal too narrow for it each row
    as a block, a cell a line."""
    if on_terminal():
        rows = [[printable(cell) for cell in cells] for cells in rows]
        _draw(heads, rows, ["right" if head in right else "left" for head in heads])
    else:
        print(as_text(heads, rows, right), flush=True)


def as_text(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """A table as lines of text, each column as wide as its longest cell."""
    lines = [heads, *([printable(cell) for cell in cells] for cells in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    forms = [f"{'>' if head in right else '<'}{width}" for head, width in zip(heads, widths, strict=True)]
    return "\n".join("  ".join(map(format, line, forms)).rstrip() for line in lines)


def as_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """A table of Markdown whose cells cannot hold a line, a column or HTML of their own."""
    lines = ["|" + "|".join(f" {as_cell(cell)} " if cell else " " for cell in cells) + "|" for cells in (heads, *rows)]
    rule = "|".join("---:" if head in right else "---" for head in heads)
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def as_cell(text: str) -> str:
    """`text` as a cell of Markdown: of several lines one, and nothing in it ends the cell or is HTML."""
    text = printable(" ".join(text.split())).replace("|", "\\|")
    is_code = len(text) > 2 and text[0] == text[-1] == "`"
    return "`" + text[1:-1].replace("`", "'") + "`" if is_code else text.replace("<", "&lt;")


def as_html(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML; cells of more than LONG characters have the class `long`."""
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in heads)]
    lines += ["".join(f"<td{' class=long' * (len(c) > LONG)}>{html.escape(c)}</td>" for c in cells) for cells in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def markdown(text: str) -> None:
    """Prints Markdown as it is; on a terminal its tables are drawn, and bold words and headings are bold."""
    text = printable(text)
    if not on_terminal():
        print(text, flush=True)
        return
    console, waiting = _console(), []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            waiting.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line[1:-1])])
            continue
        if waiting:
            heads, rules, *rows = waiting
            _draw(heads, rows, ["right" if rule.endswith(":") else "left" for rule in rules])
            waiting = []
        console.print(_text(f"**{line.lstrip('# ')}**" if line.startswith("#") else line))


def _draw(heads: Sequence[str], rows: Sequence[Sequence[str]], sides: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console()
    whole = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, side in zip(heads, sides, strict=True):
        whole.add_column(Text(head), justify=side, overflow="fold")
    for cells in rows:
        whole.add_row(*map(_text, cells))
    columns = zip(heads, *rows, strict=True)
    narrowest = sum(max(min(len(word), FOLDED) for cell in cells for word in [*cell.split(), ""]) for cells in columns)
    if narrowest + 3 * len(heads) <= console.width:
        console.print(whole)
        return
    for first, *rest in rows:
        block = Table.grid(padding=(0, 2))
        for head, cell in zip(heads[1:], rest, strict=True):
            if cell:
                block.add_row("", Text(head), _text(cell))
        console.print(_text(first), block, sep="\n")


def _text(line: str) -> "Text":
    """`line` with **bold** words in bold; other Markdown stays as it is."""
    from rich.text import Text

    parts = line.split("**")
    return Text.assemble(*((part, "bold" if number % 2 else "") for number, part in enumerate(parts)))


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def progress(total: int, done: int, what: str, unit: str, **options: Any) -> tqdm:
    """A progress bar with time left; on a terminal it moves, in a log it is a line every half minute."""
    if sys.stderr.isatty():
        shown = {"mininterval": 0.1}
    else:
        shown = {"mininterval": 30, "delay": 5, "ncols": 100, "ascii": True, "file": _LogLines()}
    return tqdm(total=total, initial=done, desc=what, unit=unit, **shown, **options)


class _LogLines:
    """Standard error for a bar of tqdm: each state a line of its own, without the carriage returns."""

    def write(self, text: str) -> None:
        if state := text.strip():
            sys.stderr.write(state + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
