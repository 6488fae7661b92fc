"""The rows of a delimited text (CSV, TSV and their kin) as dicts, read as a stream.

The csv module of the standard library is not used: there an unclosed quote silently swallows the rows up to the next
quote, and its limit on the length of a cell is global to the process. Here a row must fit the header. One that does not
is a message, and the lines that a broken quote swallowed are read again one by one.
"""

import io
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

from nsllm_lite.corpus.files.opening import Joined

HEAD_CHARS = 65_536
MAX_RECORD_CHARS = 1 << 26
DELIMITERS = "\t;|,"
ROWS_SHARE = 0.9  # of the lines inside a broken quote, for them to be rows and not lines of one long cell

BROKEN_QUOTE = "a quote in it does not close where its cell ends"

Row = dict[str, str] | str  # the row, or a message why there is none

# A first line above the header: Excel's own, and that of Dimensions, which cells may follow where Excel saved it again.
_LINE_ABOVE = re.compile(r'"?(?:(?i:sep=)(.)"?|About the data: .*)')
_OPENING = re.compile(r' *("+)')
_QUOTES = re.compile(r'"+')
_ENDING = {delimiter: re.compile(rf" *(?:({re.escape(delimiter)})|\Z)") for delimiter in DELIMITERS}
_UNCLOSED, _BROKEN = -1, -2


class Dialect(NamedTuple):
    delimiter: str
    header: list[str]
    surplus: int = 0  # empty cells that rows have beyond the header: 1 where every row ends with the delimiter
    quoted: bool = True  # False in a tab-delimited export that leaves quotes as they are

    @property
    def names(self) -> list[str]:
        """The header's names without space around them; the second "x" is "x (2)"."""
        seen: Counter[str] = Counter()
        names = []
        for name in map(str.strip, self.header):
            seen[name] += 1
            names.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
        return names

    def fit(self, cells: list[str]) -> list[str] | None:
        """The cells that belong to the header's names; None where that is not certain."""
        width = len(self.header)
        extra = len(cells) - width
        if not extra:
            return cells
        # A tab never stands in a title, but a comma does: there a cell too many may have shifted the others.
        is_tab = self.delimiter == "\t"
        if extra < 0:
            return cells + [""] * -extra if is_tab and not any(self.header[extra:]) else None
        return cells[:width] if (is_tab or extra == self.surplus) and not any(cells[width:]) else None


class _Lines:
    """The lines of a stream without their ends; some can be put back. None stands for a line too long to hold."""

    def __init__(self, stream: TextIO) -> None:
        self._fresh = _split(stream)
        self._returned: deque[str | None] = deque()
        self.number = 0

    def __iter__(self) -> Iterator[str | None]:
        return self

    def __next__(self) -> str | None:
        line = self._returned.popleft() if self._returned else next(self._fresh)
        self.number += 1
        return line

    def put_back(self, lines: list[str | None]) -> None:
        self._returned.extendleft(reversed(lines))
        self.number -= len(lines)


def _split(stream: TextIO) -> Iterator[str | None]:
    while line := stream.readline(MAX_RECORD_CHARS + 1):
        if len(line) <= MAX_RECORD_CHARS or line.endswith("\n"):
            yield line.removesuffix("\n").rstrip("\r")
            continue
        while line and not line.endswith("\n"):
            line = stream.readline(MAX_RECORD_CHARS)
        yield None


def dialect_of(head: str, wanted: Callable[[list[str]], object] = bool) -> Dialect | None:
    """The delimiter and the header of a text that begins with `head`: the widest header that the rows fit.

    None where the first line has no delimiter, or its quotes do not close; and where no delimiter gives a header whose
    names are `wanted`: then no row is looked at.
    """
    lines = head.lstrip("\ufeff \r\n").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    above = _LINE_ABOVE.fullmatch(lines[0])
    delimiters = DELIMITERS
    if above and (above[1] or DELIMITERS) in DELIMITERS:
        lines, delimiters = lines[1:], above[1] or DELIMITERS
    text = "\n".join(lines[:-1] if len(lines) > 2 else lines)  # the last line may be cut off
    begun: list[tuple[Dialect, _Lines]] = []
    for delimiter in delimiters:
        rows = _Lines(io.StringIO(text))
        header = _cells(next(rows, "") or "", rows, delimiter)[0]
        if header and len(header) > 1:
            begun.append((Dialect(delimiter, header), rows))
    if not any(wanted(dialect.names) for dialect, _ in begun):
        return None
    return max((_judged(text, *one) for one in begun), key=lambda judged: judged[:2])[2]


def _judged(text: str, dialect: Dialect, lines: _Lines) -> tuple[bool, int, Dialect]:
    """(do most rows fit, width, dialect) for a delimiter and its header, behind which `lines` are."""
    delimiter, header = dialect.delimiter, dialect.header
    extras: Counter[int] = Counter()  # how many empty cells rows have beyond the header; -1 for any other misfit
    for line in lines:
        if not (line and line.strip()):
            continue
        cells, swallowed, stopper = _cells(line, lines, delimiter)
        lines.put_back(stopper)
        for row in [cells] if cells else [alone.split(delimiter) for alone in (line, *swallowed)]:
            extra = len(row) - len(header)
            extras[extra if extra >= 0 and not any(row[len(header) :]) else -1] += 1
    surplus = next((extra for extra, count in extras.items() if extra > 0 and 2 * count > extras.total()), 0)
    fits = extras[0] + (extras[surplus] if surplus else 0)
    dialect = dialect._replace(surplus=surplus)
    if delimiter == "\t":
        plain = [dialect.fit(line.split(delimiter)) for line in text.split("\n") if line.strip()]
        dialect = dialect._replace(quoted=text.startswith('"') or plain.count(None) > extras[-1])
    return 2 * fits >= extras.total(), len(header), dialect


def iter_rows(stream: TextIO) -> Iterator[Row]:
    """Rows in order, as dicts from the header's names. Blank lines and repetitions of the header are passed over.

    A text without a delimiter in its first line is a table of one column.
    """
    head = stream.read(HEAD_CHARS).lstrip("\ufeff \r\n")
    dialect = dialect_of(head)
    lines = _Lines(Joined(head, stream))
    first = next(lines, None)
    if first and _LINE_ABOVE.fullmatch(first):
        first = next(lines, None)
    header = _cells(first or "", lines, dialect.delimiter if dialect else ",")[0]
    if header is None:
        yield "the header of the table is broken: a quote in it does not close. Nothing is read"
        return
    dialect = dialect._replace(header=header) if dialect else Dialect(",", header)
    names = dialect.names
    for cells in _fitting(lines, dialect):
        if isinstance(cells, str):
            yield cells
        elif cells != header:
            yield dict(zip(names, cells, strict=True))


def _fitting(lines: _Lines, dialect: Dialect) -> Iterator[list[str] | str]:
    """The cells of each row that fits the header, a message for each that does not."""
    delimiter = dialect.delimiter
    for line in lines:
        if line is None:
            yield f"line {lines.number} is longer than {MAX_RECORD_CHARS >> 20} Mi characters"
            continue
        if not line.strip(f"{delimiter} "):
            continue
        quoted = '"' in line
        plain = None if quoted and dialect.quoted else dialect.fit(line.split(delimiter))
        if plain:
            yield [_unquoted(cell) for cell in plain] if quoted else plain
        elif quoted:
            yield from _quoted_rows(line, lines, dialect)
        else:
            yield _misfit(lines.number, line.count(delimiter) + 1, dialect)


def _quoted_rows(first: str, lines: _Lines, dialect: Dialect) -> Iterator[list[str] | str]:
    """A row with quotes. If these are broken, the lines that they swallowed are rows if nearly all of them fit."""
    number = lines.number
    cells, swallowed, stopper = _cells(first, lines, dialect.delimiter)
    row = dialect.fit(cells) if cells else None
    if row:
        yield row
        return
    if cells and not swallowed:
        yield _misfit(number, len(cells), dialect)
        return
    alone = [_alone(line, n, dialect) for n, line in enumerate(swallowed, start=number + 1) if line.strip()]
    if sum(isinstance(row, list) for row in alone) >= ROWS_SHARE * len(alone):
        lines.put_back(stopper)
        yield _alone(first, number, dialect)
        yield from alone
    elif cells:
        yield _misfit(number, len(cells), dialect)
    elif sum(map(len, (first, *swallowed))) > MAX_RECORD_CHARS:
        _skip_quote(lines, dialect.delimiter)
        yield f"the row at lines {number} to {lines.number} is longer than {MAX_RECORD_CHARS >> 20} Mi characters"
    else:
        lines.put_back(stopper)
        yield f"the row at lines {number} to {lines.number}: {BROKEN_QUOTE}"


def _alone(line: str, number: int, dialect: Dialect) -> list[str] | str:
    """The line as a row; a quote that does not close in it is an ordinary character."""
    cells = _cells(line, iter(()), dialect.delimiter)[0]
    row = dialect.fit(cells or line.split(dialect.delimiter))
    return row or (_misfit(number, len(cells), dialect) if cells else f"the row at line {number}: {BROKEN_QUOTE}")


def _misfit(number: int, found: int, dialect: Dialect) -> str:
    return f"the row at line {number} has {found} cells, the header has {len(dialect.header)}"


def _skip_quote(lines: _Lines, delimiter: str) -> None:
    """Skips to the end of the quoted cell that `lines` are in."""
    for line in lines:
        closing, _ = (_UNCLOSED, 0) if line is None else _closing(line, 0, delimiter)
        if closing == _BROKEN:
            lines.put_back([line])
        if closing != _UNCLOSED:
            return


def _unquoted(cell: str) -> str:
    """The cell without the quotes around it, if all those within are doubled."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in cell[1:-1].replace('""', ""):
        return cell
    return cell[1:-1].replace('""', '"')


def _cells(
    first: str, lines: Iterator[str | None], delimiter: str
) -> tuple[list[str] | None, list[str], list[str | None]]:
    """(cells, further lines taken, the line that stopped it) of the record that begins with `first`.

    A quoted cell ends at a quote with a delimiter or a line end behind it. A lone quote elsewhere in it is text, but
    one where a cell would begin shows that the quote before was never closed: then there are no cells. So a line that
    opens a quote always ends the one before, and no line is read more than a few times however a file is made.
    """
    cells: list[str] = []
    taken: list[str] = []
    text, at, size = first, 0, 0
    while at <= len(text):
        opening = _OPENING.match(text, at)
        if not opening or len(opening[1]) % 2 == 0:
            ending = _ENDING[delimiter].match(text, opening.end()) if opening else None
            if ending:
                cells.append('"' * (len(opening[1]) // 2 - 1))
                at = ending.end() + (ending[1] is None)
            else:
                end = text.find(delimiter, at)
                end = len(text) if end < 0 else end
                cells.append(text[at:end])
                at = end + 1
            continue
        parts, at = [], opening.start(1) + 1
        while (closing := _closing(text, at, delimiter))[0] == _UNCLOSED:
            parts.append(text[at:])
            size += len(text)
            following = next(lines, False) if size <= MAX_RECORD_CHARS else False
            if not isinstance(following, str):
                return None, taken, [None] if following is None else []
            taken.append(following)
            text, at = following, 0
        end, after = closing
        if end == _BROKEN:
            return None, taken[:-1], taken[-1:]
        cells.append("\n".join([*parts, text[at:end]]).replace('""', '"'))
        at = after
    return cells, taken, []


def _closing(text: str, at: int, delimiter: str) -> tuple[int, int]:
    """(end of the quoted text at `at`, beginning of the next cell); or why it does not end in this line."""
    for run in _QUOTES.finditer(text, at):
        if len(run[0]) % 2 == 0:
            continue
        ending = _ENDING[delimiter].match(text, run.end())
        if ending:
            return run.end() - 1, ending.end() + (ending[1] is None)
        before = run.start()
        while before and text[before - 1] == " ":
            before -= 1
        if not before or text[before - 1] == delimiter:
            return _BROKEN, 0
    return _UNCLOSED, 0
