"""Tables of papers with a header: PubMed, Scopus, Embase, Ovid, EndNote, ASReview, Dimensions and CNKI CSV, Web of
Science's tab-delimited files, arXiv and Semantic Scholar dumps as CSV or Parquet. Columns are recognised by their
names alone, without regard to case, blanks, underscores and signs.
"""

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from importlib import resources
from typing import Any, TextIO

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files import tagged
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tables import dialect_of, iter_rows
from nsllm_lite.corpus.sources import arxiv
from nsllm_lite.corpus.stated.dates import dated, first_date
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_categories, as_reference, as_references, as_terms, cited, different
from nsllm_lite.formats.documents import Document

_NAMES = tomllib.loads(resources.files(__package__).joinpath("table.toml").read_text(encoding="utf-8"))
_EVIDENCE = frozenset(_NAMES.pop("evidence").split())
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
_PLACES = {name: place for place, name in enumerate(_ROLES)}
_PAPERS = frozenset(("abstract", "arxiv", "pmid", "doi", "ut", "eid"))
_LIST_SIGNS = " []'\""  # lists are often written as Python or JSON does
_ITEM_END = re.compile(r"['\"]?\s*[;,]")
MAX_LISTED = 300
_OF_DIMENSIONS = 7  # signs "|" in one of its references, at least
ID_ROLES = ("doi", "arxiv", "id", "pmid", "pmc")

Columns = dict[str, list[str]]  # role -> names of its columns
Cells = dict[str, list]  # role -> what is in them, of one row, where they are not empty: texts, but for _LISTED
# Roles that no text depends on.
BESIDE = ("date", "year", "month", "early", "authors", "groups", "venue", "keywords", "references")
_LISTED = frozenset(("authors", "keywords", "references", "category", "date", "year"))  # read as Parquet has them


def columns_of(names: Iterable[str]) -> Columns | None:
    """The role of each column by its name; None where they are not papers: a title, and an abstract or an identifier
    (papers without abstracts are read too, so that each is counted)."""
    plain = {name: re.sub(r"[\W_]+", "", name).lower() for name in names}
    columns: Columns = {}
    for name in sorted(plain, key=lambda name: _PLACES.get(plain[name], 0)):
        if plain[name] in _ROLES:
            columns.setdefault(_ROLES[plain[name]], []).append(name)
    is_papers = not (_PAPERS.isdisjoint(columns) and _EVIDENCE.isdisjoint(plain.values()))
    return columns if "title" in columns and is_papers else None


def recognise(head: str) -> bool:
    if head[0] in "<{[":
        return False
    dialect = dialect_of(head, columns_of)
    return dialect is not None and columns_of(dialect.names) is not None


def records(stream: TextIO) -> Iterator[Cells | str]:
    return cells_of(iter_rows(stream))


def cells_of(rows: Iterable[dict | str]) -> Iterator[Cells | str]:
    """The cells of rows that all have the same names."""
    columns: Columns | None = None
    for row in rows:
        if isinstance(row, str):
            yield row
            continue
        columns = columns_of(row) or {} if columns is None else columns
        cells = {role: list(_filled(row, role, names)) for role, names in columns.items()}
        yield cells or f"no column of titles; the columns are {', '.join(row)[:MAX_LISTED]}"


def _filled(row: dict, role: str, names: list[str]) -> Iterator[Any]:
    for name in names:
        value = row[name]
        if text := value.strip() if isinstance(value, str) else _text(value):
            yield text
        elif value and role in _LISTED:
            yield value


def document(fields: Cells, place: Place) -> Document:
    def first(role: str) -> str:
        return next(iter(fields.get(role, ())), "")

    ids = identity.first_of(pair for kind in ID_ROLES for pair in identity.identify(kind, fields.get(kind, [])))
    arxiv_id = ids.arxiv
    pmid, accession = identity.accession_of(first("ut"))
    if not accession and first("eid").startswith("2-s2.0-"):
        accession = f"scopus:{first('eid')}"
    abstract = tagged.stated(first("abstract"))
    return place.paper(
        arxiv=arxiv_id,
        pmid=ids.pmid or pmid,
        doi=ids.doi,
        accession=accession or ids.accession,
        title=first("title"),
        abstract=arxiv.paragraphs(abstract) if arxiv_id else abstract,
        discipline=(
            identity.discipline_of(" ".join((*map(_text, fields.get("category", ())), arxiv_id)))
            or identity.first(identity.discipline_of_areas, fields.get("area", ()))
            or _ITEM_END.split(first("discipline").strip(_LIST_SIGNS), maxsplit=1)[0]
        ),
        language=first("language"),
        date=_date(fields),
        authors=(*_first(as_names, fields, "authors"), *filter(None, map(str.strip, first("groups").split(";")))),
        venue=first("venue"),
        categories=as_terms(*fields.get("area", ())[-1:], parted=";") or _first(as_categories, fields, "category"),
        keywords=_first(as_terms, fields, "keywords"),
        references=_references(first("references")),
    )


def _first(read: Callable[[Any], tuple[str, ...]], fields: Cells, role: str) -> tuple[str, ...]:
    return next(filter(None, map(read, fields.get(role, ()))), ())


def _date(fields: Cells) -> str:
    """The finest that the columns of year, month and date give together: a date may be "MAR 12", without the year. That
    of early access stands for the one that is missing."""
    years, months, dates, early = (fields.get(role, []) for role in ("year", "month", "date", "early"))
    year = first_date(years if years or dates else early)
    finer = map(str, [*months, *dates] or early)
    return dated(year, *finer) if year else first_date(dates)


def _references(stated: Any) -> tuple[str, ...]:
    if isinstance(stated, str) and stated[:1] == "[" and stated.count("|") >= _OF_DIMENSIONS:
        return different(map(_of_dimensions, stated.split(";[")))
    return cited(stated.split("; ")) if isinstance(stated, str) and ", DOI " in stated else as_references(stated)


def _of_dimensions(entry: str) -> str:
    """Of "authors|title|source|volume|issue|pages|year|DOI|...", as Dimensions writes a reference."""
    cells = entry.strip("[] ").split("|")
    return as_reference("|".join(cells), title=cells[1] if len(cells) > 1 else "")


def _text(value: object) -> str:
    """A cell as text; one of Parquet may be null, bytes, a number or a list, and what else it holds is no text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace").strip()
    if isinstance(value, list):
        return "; ".join(filter(None, map(_text, value)))
    if isinstance(value, float | Decimal):
        return number(value)
    return str(value).strip() if isinstance(value, str | int) else ""


def number(value: float | Decimal) -> str:
    """As it was before it came into a column that has gaps, which pandas holds in floats: 123, and not 123.0; "" for
    NaN, which stands in the gaps."""
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value == int(value) else str(value)
