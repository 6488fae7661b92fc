"""Examples of a user's own files: JSON lines, a JSON list, CSV or TSV with a header; text with labels, and pairs.

A record that cannot be used is an error with its line before anything starts; nothing is left out in silence. What is
repaired or not used is counted in `notes`, for whoever reads the file to print.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, read_records, require_no_pointer
from nsllm_lite.safety import printable

TABLES = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}
PAPER = ("paper", "document", "doc_id", "group", "id")  # the first that there is says which paper a record is of
ALIASES = {"input": "text", "output": "label", "sentence": "text", "sentence1": "text", "sentence2": "text_pair"}
"""Other names of columns, as files of `nsllm-lite tasks` and public sets have them."""
SHOWN = 40  # characters of a column's name in a message: a table without a header has texts there
POSITIVE, NEGATIVE = {"1", "1.0", "true", "yes", "relevant"}, {"0", "0.0", "false", "no", "irrelevant"}


class Record(NamedTuple):
    line: int  # of its file, from 1
    fields: dict[str, Any]


class Example(NamedTuple):
    """A text with its labels: of single-label sets one, of multi-label sets any number. `paper` is "" if not stated."""

    line: int
    text: str
    labels: tuple[str, ...]
    paper: str = ""


class Pair(NamedTuple):
    line: int
    text: str
    text_pair: str
    label: bool  # whether the two belong together
    paper: str = ""


T = TypeVar("T")


@dataclass(frozen=True)
class Examples(Generic[T]):
    """What a file holds; `notes` are sentences about what was repaired or not used."""

    path: Path
    items: tuple[T, ...]
    notes: tuple[str, ...] = ()
    multi: bool = False  # of labelled texts: whether a text has a list of labels

    @property
    def sha256(self) -> str:
        return sha256_file(self.path)


def read_labelled(path: Path) -> Examples[Example]:
    """Records of `text` and `label`, or `text` and `labels` (a list, or text with ; between them).

    Raises UserError where a column is missing, a text or a label is empty, or the file cannot be read.
    """
    records, notes = read_rows(path, ("text",), ("label", "labels"))
    multi = any("labels" in fields for _, fields in records)
    found = []
    for line, fields in records:
        if ("labels" if multi else "label") not in fields or ("label" in fields and "labels" in fields):
            raise unfit(path, line, "has both or neither of `label` and `labels`, unlike others")
        labels = _labels(path, line, fields["labels"]) if multi else (_word(fields["label"]),)
        if not multi and (not labels[0] or isinstance(fields["label"], list | dict)):
            raise unfit(path, line, "has a `label` that is empty, or more than one (several stand in `labels`)")
        found.append(Example(line, text_in(path, line, fields, "text"), labels, paper_of(fields)))
    if not multi:
        notes += _contradictions(found)
    elif bare := sum(not one.labels for one in found):
        notes.append(f"{bare:,} of {len(found):,} texts have no label")
    return Examples(path, tuple(found), tuple(notes), multi)


def read_pairs(path: Path) -> Examples[Pair]:
    """Records of `text`, `text_pair` and `label`, which is 1 or 0 (true, yes, relevant; false, no, irrelevant)."""
    records, notes = read_rows(path, ("text", "text_pair", "label"))
    found = []
    for line, fields in records:
        label = _word(fields["label"]).lower()
        if label not in POSITIVE | NEGATIVE:
            raise unfit(path, line, f"has the `label` {fields['label']!r}, which is neither 1 nor 0")
        text, other = text_in(path, line, fields, "text"), text_in(path, line, fields, "text_pair")
        found.append(Pair(line, text, other, label in POSITIVE, paper_of(fields)))
    return Examples(path, tuple(found), tuple(notes))


def read_rows(
    path: Path, needed: Sequence[str], one_of: Sequence[str] = (), optional: Sequence[str] = ()
) -> tuple[list[Record], list[str]]:
    """(records, notes) of a file whose records have all the `needed` columns, and one of `one_of` where given.

    Raises UserError where the file cannot be read or is empty, or a table or a record lacks a column.
    """
    known, unused, renamed = {*needed, *one_of, *optional, *PAPER}, Counter[str](), Counter[str]()
    groups = [*((name,) for name in needed), *([tuple(one_of)] if one_of else [])]

    def missing(there: Container[str]) -> list[tuple[str, ...]]:
        return [group for group in groups if not any(name in there for name in group)]

    if path.suffix.lower() in TABLES:
        header, records = _table(path)
        if header and missing(_read_as(header, known).values()):
            raise _columns_missing(path, header, groups)
    else:
        records = _json(path)
    if not records:
        raise empty(path)
    found = []
    for line, fields in records:
        names = _read_as(fields, known)
        renamed.update(f"{name} as {other}" for name, other in names.items() if name != other)
        named = {names[name]: value for name, value in fields.items()}
        if lost := missing({name for name, value in named.items() if value is not None}):
            told = ", ".join(" or ".join(group) for group in lost)
            raise unfit(path, line, f"has no {told} (it has {', '.join(map(str, fields)) or 'nothing'})")
        unused.update(named.keys() - known)
        found.append(Record(line, {name: value for name, value in named.items() if name in known}))
    notes = [f"columns read under other names: {', '.join(sorted(renamed))}"] if renamed else []
    if unused:
        counts = ", ".join(f"{name} ({count:,})" for name, count in sorted(unused.items()))
        notes.append(f"columns that are not used: {printable(counts)}")
    return found, notes


def _read_as(columns: Collection[str], known: Container[str]) -> dict[str, str]:
    """{column: the name that it is read under}"""
    found: dict[str, str] = {}
    for name in columns:
        other = ALIASES.get(name, name)
        is_other = name not in known and other in known and other not in columns and other not in found.values()
        found[name] = other if is_other else name
    return found


def _columns_missing(path: Path, header: Sequence[str], groups: Sequence[Sequence[str]]) -> UserError:
    def told(name: str) -> str:
        others = [other for other, of in ALIASES.items() if of == name]
        return f"{name} (or {', '.join(others)})" if others else name

    shown = ", ".join(printable(name if len(name) <= SHOWN else f"{name[:SHOWN]}...") for name in header)
    found = f"The columns of {path} are {shown}."
    needed = f"Needed are {' and '.join(' or '.join(map(told, group)) for group in groups)}."
    return UserError("examples-columns-missing", found, needed, "Name them in the file's first line.")


def text_in(path: Path, line: int, fields: dict[str, Any], name: str) -> str:
    """Raises UserError where the field is no text, or empty."""
    value = fields[name]
    if not isinstance(value, str) or not value.strip():
        raise unfit(path, line, f"has a `{name}` that is empty, or no text")
    return value


def paper_of(fields: dict[str, Any]) -> str:
    """The paper that a record says it is of; "" where it does not."""
    return next((str(fields[name]) for name in PAPER if fields.get(name) not in (None, "")), "")


def unfit(path: Path, line: int, what: str) -> UserError:
    return UserError("example-unfit", f"{path}, line {line}: the record {what}.", "Correct that record, or remove it.")


def empty(path: Path) -> UserError:
    return UserError("examples-file-empty", f"{path} holds no records.", "Name a file that has some.")


def unreadable(path: Path, error: Exception) -> UserError:
    found = f"{path} cannot be read ({error})."
    needed = "Needed is UTF-8: a table with a header, one JSON object a line, or a JSON list of them."
    return UserError("examples-file-unreadable", found, needed, "Correct the path, or the file.")


def text_of(path: Path) -> str:
    """A file as text, with line ends as `\\n`: UTF-8, or UTF-16 with its mark. Raises UserError where it is neither."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        require_no_pointer(text)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def counted(places: Iterable[object], shown: int = 5) -> str:
    """How many there are, and the first of them: "7 (a, b, c, ...)"."""
    found = [printable(str(place)) for place in places]
    return f"{len(found):,} ({', '.join(found[:shown])}{', ...' if len(found) > shown else ''})"


def _json(path: Path) -> list[Record]:
    try:
        values = list(read_records(path))
    except (OSError, RecordError) as error:
        raise unreadable(path, error) from None
    for line, value in values:
        if not isinstance(value, dict):
            raise unfit(path, line, f"is no JSON object but a {type(value).__name__}")
    return [Record(line, value) for line, value in values]


def _table(path: Path) -> tuple[list[str], list[Record]]:
    """(header, rows) of a table whose quotes close and whose rows all fit the header; else UserError with the line."""
    text = text_of(path)
    head = text.partition("\n")[0]
    delimiter = max(TABLES[path.suffix.lower()], key=head.count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise unfit(path, 1, f"is a header in which {twice[0]!r} stands twice")
        found = []
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise unfit(path, rows.line_num, f"has {len(row)} cells, and the header {len(header)}")
            found.append(Record(rows.line_num, dict(zip(header, row, strict=True))))
    except csv.Error as error:  # a quote that does not close, a cell of more than 131,072 characters
        raise unfit(path, rows.line_num, f"is no row of a table ({error})") from None
    return header, found


def _word(value: Any) -> str:
    """A label as text: numbers of JSON as they are written."""
    return value.strip() if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _labels(path: Path, line: int, value: Any) -> tuple[str, ...]:
    given = re.split(r"\s*;\s*", value.strip()) if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(one, str | int | float) for one in given):
        raise unfit(path, line, "has `labels` that are neither a list of words nor text with ; between them")
    return tuple(dict.fromkeys(word for word in map(_word, given) if word))


def _contradictions(found: Sequence[Example]) -> list[str]:
    by_text: dict[str, set[str]] = {}
    for one in found:
        by_text.setdefault(" ".join(one.text.split()), set()).update(one.labels)
    several = sum(len(labels) > 1 for labels in by_text.values())
    repeated = len(found) - len(by_text)
    notes = [f"{repeated:,} texts stand in the file more than once"] if repeated else []
    return notes + ([f"{several:,} texts have several different labels: one of each is right at most"] * bool(several))
