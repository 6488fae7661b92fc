"""Records of the user's own: JSON lines, a JSON array, CSV, TSV or Parquet with the recipe's map of their fields.

Reads every Parquet file too: without a map its columns are recognised by their names, as those of `table`.
"""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, BinaryIO, TextIO

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files import parquet
from nsllm_lite.corpus.files.opening import NOT_THIS_FORMAT, UNREADABLE_FILE, Place, Unread, first_sign, read_each
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.files.tables import iter_rows
from nsllm_lite.corpus.sources import table
from nsllm_lite.corpus.stated.dates import as_date
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_categories, as_references, as_terms, as_text
from nsllm_lite.errors import nearest
from nsllm_lite.formats.documents import STATED, Document
from nsllm_lite.recipe.corpus import Fields

LOOK_RECORDS = 1_000  # in which each mapped field must occur
LOOK_CHARS = 1 << 24
MAX_NAMES = 40
MAX_NAME_CHARS = 80
MAX_DEPTH = 5  # of lists in lists
MIN_LIKENESS = 0.8  # of a field's name to one in the records, for it to be misspelt and not left out
TEXTS = ("title", "abstract", "text")
_ABSENT = object()


def read(stream: TextIO, fields: Fields, source: str, file: str) -> Iterable[Document | Unread]:
    """One document a record. Where no record has a mapped field the file is one `Unread`."""
    first, whole = first_sign(stream, " \r\n\ufeff")
    is_json = first in ("{", "[")
    records = iter_records(whole) if is_json else iter_rows(whole)
    return _documents(records, fields, source, file, always_whole=not is_json)


def read_rows(rows: Iterator[dict | str], fields: Fields, source: str, file: str) -> Iterable[Document | Unread]:
    """One document a row of a table that another format holds."""
    return _documents(rows, fields, source, file, always_whole=True)


def read_parquet(file: BinaryIO, fields: Fields | None, source: str, file_name: str) -> Iterable[Document | Unread]:
    """One document a row of a seekable file, by the map, or without one by the names of the columns."""
    whole = f"{file_name}#0"
    try:
        names = parquet.open_parquet(file).schema_arrow.names
    except parquet.ERRORS as error:
        return [Unread(whole, UNREADABLE_FILE, f"damaged Parquet: {parquet.named(error)}")]
    if fields is None:
        columns = table.columns_of(names)
        if columns is None:
            needed = "it needs a title and an abstract, or `format: fields` and a map of `fields` in the recipe"
            return [Unread(whole, NOT_THIS_FORMAT, f"Parquet with the columns {_listed(names)}; {needed}")]
        beside = {name for role in table.BESIDE for name in columns.get(role, ())}
        rows = parquet.iter_rows(file, chain.from_iterable(columns.values()), beside)
        return read_each(table.cells_of(rows), source, file_name, table.document)
    tops = {path: _top(path, names) for _, path in fields if path}
    if absent := [path for _, path in fields if path and tops[path] is None]:
        return [Unread(whole, NOT_THIS_FORMAT, _no_field(absent, names))]
    texts = {tops[path] for role, path in fields if path and role not in STATED}
    rows = parquet.iter_rows(file, dict.fromkeys(tops.values()), set(tops.values()) - texts)
    return _documents(rows, fields, source, file_name, always_whole=True)


def _documents(
    records: Iterator[dict | str], fields: Fields, source: str, file: str, always_whole: bool
) -> Iterable[Document | Unread]:
    paths = {role: path for role, path in fields if path}
    looked, absent, names = _look(records, paths)
    if not always_whole and len(looked) < LOOK_RECORDS:  # JSON may leave out what is null, and few records say little
        others = [name for name in names if name not in paths.values()]
        absent = {role: path for role, path in absent.items() if role in TEXTS or _nearest(path, others, MIN_LIKENESS)}
    if absent and names:
        return [Unread(f"{file}#0", NOT_THIS_FORMAT, _no_field(list(absent.values()), names))]

    def make(record: dict, place: Place) -> Document | Unread:
        found = {role: _find(record, path) for role, path in paths.items()}
        try:
            values = {role: list(_texts(value, paths[role])) for role, value in found.items() if role not in STATED}
        except ValueError as error:
            return place.unread(str(error))
        return _document(values, {role: value for role, value in found.items() if value is not _ABSENT}, place)

    return read_each(chain(looked, records), source, file, make)


def _look(records: Iterator[dict | str], paths: dict[str, str]) -> tuple[list[dict | str], dict[str, str], list[str]]:
    """(the first records, the mapped fields that none of them has, the fields they have)."""
    looked: list[dict | str] = []
    absent = dict(paths)
    names: dict[str, None] = {}
    chars = 0
    for record in records:
        looked.append(record)
        if isinstance(record, dict):
            absent = {role: path for role, path in absent.items() if _find(record, path) is _ABSENT}
            names |= dict.fromkeys(_names(record)) if len(names) < MAX_NAMES else {}
        chars += len(str(record))
        if not absent or len(looked) == LOOK_RECORDS or chars > LOOK_CHARS:
            break
    return looked, absent, list(names)


def _document(values: dict[str, list[str]], stated: dict[str, Any], place: Place) -> Document:
    def first(role: str) -> str:
        return next(iter(values.get(role, ())), "")

    name = first("id")
    ids = identity.ids_of({"doi": first("doi"), "id": name})
    # arXiv's categories become their broad field: there are hundreds of combinations.
    discipline = first("discipline")
    is_category = all(map(identity.discipline_of, discipline.split()))
    return place.paper(
        arxiv=ids.arxiv,
        pmid=ids.pmid,
        doi=ids.doi,
        accession=ids.accession or (f"{place.source}:{name}" if name else ""),
        title=" ".join(values.get("title", ())),
        abstract="\n\n".join(values.get("abstract", ())),
        text="\n\n".join(values.get("text", ())),
        discipline=identity.discipline_of(discipline) if is_category else discipline,
        language=as_text(stated.get("language")),
        date=as_date(stated.get("date")),
        authors=as_names(stated.get("authors")),
        venue=as_text(stated.get("venue")),
        categories=as_categories(stated.get("categories")),
        keywords=as_terms(stated.get("keywords")),
        references=as_references(stated.get("references")),
    )


def _find(record: Any, path: str) -> Any:
    """The value at the path, also through lists of objects; `_ABSENT` where there is none, None where it is null."""
    if isinstance(record, list):
        found = [value for item in record if isinstance(item, dict) and (value := _find(item, path)) is not _ABSENT]
        return found if found or not record else _ABSENT
    if record is None:
        return None
    if not isinstance(record, dict):
        return _ABSENT
    if path in record:
        return record[path]
    for dot in re.finditer(r"\.", path):
        if path[: dot.start()] in record:
            return _find(record[path[: dot.start()]], path[dot.end() :])
    return _ABSENT


def _texts(value: Any, path: str, depth: int = 0) -> Iterator[str]:
    """The texts of a field that are not empty; a ValueError where there is an object instead."""
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, dict):
        names = _listed(map(str, value))
        raise ValueError(f"{path} holds an object where text is needed; it has {names}")  # caught by make
    elif isinstance(value, list):
        if depth == MAX_DEPTH:
            raise ValueError(f"{path} holds lists over {MAX_DEPTH} deep where text is needed")  # caught by make
        for item in value:
            yield from _texts(item, path, depth + 1)
    elif isinstance(value, bytes):
        yield from _texts(value.decode("utf-8", errors="replace"), path)
    elif isinstance(value, float | Decimal):
        if text := table.number(value):
            yield text
    elif value is not None and value is not _ABSENT:
        yield str(value)


def _names(record: dict, above: str = "") -> Iterator[str]:
    """The record's fields, and those one level deeper."""
    for name, value in record.items():
        yield f"{above}{name}"
        inner = next((item for item in value if isinstance(item, dict)), None) if isinstance(value, list) else value
        if isinstance(inner, dict) and not above:
            yield from _names(inner, f"{name}.")


def _top(path: str, names: list[str]) -> str | None:
    """The column that holds the path."""
    parts = path.split(".")
    return next((top for n in range(len(parts), 0, -1) if (top := ".".join(parts[:n])) in names), None)


def _nearest(path: str, names: Iterable[str], likeness: float) -> str:
    plain = {name.lower(): name for name in names}
    return plain.get(nearest(path.lower(), plain, likeness) or "", "")


def _no_field(absent: list[str], names: Iterable[str]) -> str:
    names = [name for name in names if len(name) <= MAX_NAME_CHARS]
    hints = " or ".join(near for path in absent if (near := _nearest(path, names[:1000], 0.5)))
    hint = f"; did you mean {hints}?" if hints else ""
    return f"no field {' or '.join(absent)}; the fields are: {_listed(names)}{hint}"


def _listed(names: Iterable[str]) -> str:
    names = [name[:MAX_NAME_CHARS] for name in names]
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
