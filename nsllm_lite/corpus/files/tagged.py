"""Records of tagged lines ("TI A title", "TI  - A title"), cut out of a stream one at a time.

A record begins at its first tag: one without its end tag, or cut off by the next record, is read up to there. Only the
fields that a reader uses are kept in memory.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, TextIO

MAX_LINE_CHARS = 1 << 22
MAX_RECORD_CHARS = 1 << 24
MAX_STRAY_LINES = 20  # one after the other between two records: numbers and links stand there, and greetings
LINE_CHARS = 100  # memory of a line beside its text: a record of empty lines is bounded too

_NO_ABSTRACT = re.compile(r"\[?no abstract(?: is)?(?: available)?\.?\]?", re.IGNORECASE)
# A line that begins a record: of BibTeX, RIS, EndNote, PubMed, Web of Science, XML, JSON.
_ANOTHER = re.compile(
    r"^[ \t]{0,4}(?:@[A-Za-z]{2,30}[ \t]*[{(][^\s,={}]{1,200},|TY {1,2}- ?[A-Z]|%0 +\w|PMID- ?\d|PT [A-Z]\s"
    r"|<\?xml |\{\")",
    re.MULTILINE,
)


class Syntax(NamedTuple):
    line: re.Pattern[str]  # matches the beginning of a tagged line; groups: the tag, the rest
    first: str  # the tag that begins a record
    last: str  # the tag that ends one; "" where none does
    kept: frozenset[str]  # the fields that are read
    vital: frozenset[str]  # lines between two records are a record too if one of these is among them
    last_belongs: bool = False  # the last tag is a field of the record, not a mark of its end
    glued: re.Pattern[str] | None = None  # a line whose tag runs into its text; group: the tag
    beside: frozenset[str] = frozenset()  # fields that are read too, but whose faults cost no record
    apart: bool = False  # behind a blank line, a tag that the record has already begins another
    titles: tuple[str, ...] = ()  # each stands once in a record: a second is another record's


class Record:
    """The kept fields of one record, by tag, each time a tag occurs as a list of lines."""

    def __init__(self) -> None:
        self.fields: dict[str, list[list[str]]] = {}
        self.tags: set[str] = set()
        self.num_chars = self.chars_beside = 0
        self.fault = ""

    def values(self, *tags: str) -> list[str]:
        """Every value of these tags that is not empty, each on one line, in the order of `tags`."""
        lines = (" ".join(" ".join(value).split()) for tag in tags for value in self.fields.get(tag, ()))
        return [line for line in lines if line]

    def lines(self, *tags: str) -> list[str]:
        """The lines of all values of the first of these tags that has any: names and references stand on one each."""
        for tag in tags:
            lines = [" ".join(line.split()) for value in self.fields.get(tag, ()) for line in value]
            if any(lines):
                return list(filter(None, lines))
        return []

    def value(self, *tags: str) -> str:
        """The first value that is not empty, on one line."""
        return next(iter(self.values(*tags)), "")

    def text(self, *tags: str) -> str:
        """All values of the first of these tags that is not empty: paragraphs separated by blank lines."""
        for tag in tags:
            if self.values(tag):
                return "\n\n".join(filter(None, map(paragraphs, self.fields[tag])))
        return ""


def paragraphs(lines: list[str]) -> str:
    """The lines run together, divided where one of them is blank."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if words := line.split():
            blocks[-1].extend(words)
        elif blocks[-1]:
            blocks.append([])
    return "\n\n".join(" ".join(words) for words in blocks if words)


def stated(abstract: str) -> str:
    """The abstract, without CNKI's mark before one that is a paper's beginning; empty where it only says, as Scopus
    does, that there is none."""
    return "" if _NO_ABSTRACT.fullmatch(abstract) else abstract.removeprefix("<正>").lstrip()


def iter_lines(stream: TextIO) -> Iterator[str]:
    """The lines with their ends, however long a line is: one beyond MAX_LINE_CHARS comes in pieces."""
    return iter(partial(stream.readline, MAX_LINE_CHARS), "")


def another_in(text: str) -> str:
    """Why something is lost of text that no record of its file's format is in; empty where nothing is to be seen."""
    found = _ANOTHER.search(text)
    line = text[found.start() :].lstrip().partition("\n")[0] if found else ""
    return f"what begins with {line[:60]!r} is of another format and not read: a file for each format" if found else ""


class _Between:
    """The lines that are of no record; `message` says what is lost with them, of the first that it is said of."""

    def __init__(self) -> None:
        self.message = ""
        self._num_lines = 0

    def end(self) -> None:
        self._num_lines = 0

    def add(self, line: str) -> None:
        self._num_lines += bool(line.strip())
        if not self.message and self._num_lines > MAX_STRAY_LINES:
            self.message = f"over {MAX_STRAY_LINES} lines one after the other are of no record, until {line[:60]!r}"
        self.message = self.message or another_in(line)


def iter_records(stream: TextIO, syntax: Syntax) -> Iterator[Record | str]:
    """Every record, or a message in place of one that is broken. Text between records is passed over, with a message
    at the end where it is long, or begins a record of another format."""
    record, tag, line, gap, between = Record(), "", "\n", False, _Between()
    for line in iter_lines(stream):
        line = line.lstrip("\ufeff")
        found = syntax.line.match(line)
        if not found:
            if record.tags and gap and another_in(line):
                yield from _finished(record, syntax)
                record = Record()
            if record.tags:
                _continue(record, tag, line, syntax)
            else:
                between.add(line)
            gap = gap or not line.strip()
            continue
        tag, rest = found[1], found[2]
        over = gap and ((syntax.last_belongs and syntax.last in record.tags) or (syntax.apart and tag in record.tags))
        gap = False
        between.end()
        if tag == syntax.first or over:
            yield from _finished(record, syntax)
            record = Record()
        elif tag == syntax.last and not syntax.last_belongs:
            record.tags.add(tag)
            yield from _finished(record, syntax)
            record = Record()
            continue
        record.tags.add(tag)
        if tag in syntax.kept or tag in syntax.beside:
            record.fields.setdefault(tag, []).append([])
            _extend(record, tag, rest or "", syntax)
    cut = syntax.last and not line.endswith("\n") and syntax.last not in record.tags
    yield from _finished(record, syntax, "the record is cut short: the file ends inside a line of it" if cut else "")
    if between.message:
        yield between.message


def _continue(record: Record, tag: str, line: str, syntax: Syntax) -> None:
    """A line without a tag goes on with the field above it, unless its tag is only glued to the text."""
    glued = syntax.glued.match(line) if syntax.glued else None
    if glued and (tag in syntax.kept or glued[1] in syntax.kept):
        record.fault = f"no space follows the tag of the line {line[:40].strip()!r}"
    elif tag in record.fields and not (glued and tag in syntax.beside):
        _extend(record, tag, line, syntax)


def _extend(record: Record, tag: str, line: str, syntax: Syntax) -> None:
    if tag in syntax.beside:
        record.chars_beside += len(line) + LINE_CHARS
        if record.chars_beside <= MAX_RECORD_CHARS:
            record.fields[tag][-1].append(line)
        else:  # left empty: half a list would be wrong
            record.fields[tag][:] = [[]]
        return
    record.num_chars += len(line) + LINE_CHARS
    if record.num_chars > MAX_RECORD_CHARS:
        record.fault = f"the record holds more than {MAX_RECORD_CHARS:,} characters"
        record.fields.clear()
    else:
        record.fields[tag][-1].append(line)


def _finished(record: Record, syntax: Syntax, fault: str = "") -> Iterator[Record | str]:
    """The record, unless it is nothing but lines that stand between two records."""
    begun = syntax.first in record.tags or not record.tags.isdisjoint(syntax.vital)
    ended = syntax.last in record.tags and len(record.tags) > 1
    if any(len(record.values(tag)) > 1 for tag in syntax.titles):
        fault = "two titles in one record: the mark between two records is missing"
    if begun or ended or record.fault:
        yield record.fault or fault or record
