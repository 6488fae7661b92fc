"""A paper (or a piece of general text) as every stage of the corpus sees it, and its Parquet form."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite.artifact import integrity

BATCH_DOCUMENTS = 1_000
MAX_DOI_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a paper: its heading as printed, its text, and the heading path above it."""

    heading: str
    text: str
    parents: tuple[str, ...] = ()
    kind: str = ""  # the source's own label, e.g. JATS sec-type "materials|methods"


@dataclass(frozen=True, slots=True)
class Document:
    """One record of one source file.

    `id` names the paper across files ("arxiv:0704.0001", "pmid:123", "doi:10..."); `origin` names the place it was
    read from ("FILE#RECORD"). A paper fills title, abstract and sections; general text fills `text` alone.

    From `date` on, and in `language`, stands what the source states of the paper. No text for training is made of it,
    and it decides nothing: neither what is kept, nor what is a duplicate, nor what is held out.
    """

    id: str
    source: str
    origin: str
    title: str = ""
    abstract: str = ""
    sections: tuple[Section, ...] = ()
    text: str = ""
    discipline: str = ""
    moves: tuple[tuple[str, str], ...] = ()  # (label, sentence) where the source tags its abstract
    doi: str = ""  # as `as_doi` gives it
    language: str = ""  # ISO 639-1: "en"
    date: str = ""  # of publication, in ISO 8601: "2019", "2019-03" or "2019-03-12"
    authors: tuple[str, ...] = ()  # "Family, Given" where the source keeps the two apart, else as it has them
    venue: str = ""  # journal, book or conference
    categories: tuple[str, ...] = ()  # of the source's own scheme: arXiv's, Web of Science's, MeSH
    keywords: tuple[str, ...] = ()  # the authors'
    references: tuple[str, ...] = ()  # each "doi:", "arxiv:" or "pmid:" with its id, else a title, else as printed

    @property
    def num_chars(self) -> int:
        """Characters of all text fields, the ledger's unit until tokenising."""
        of_sections = sum(len(s.heading) + len(s.text) for s in self.sections) if self.sections else 0
        return len(self.title) + len(self.abstract) + len(self.text) + of_sections


_FIELDS = tuple(field.name for field in fields(Document))
_values_of = attrgetter(*_FIELDS)


def with_changes(document: Document, **changes: Any) -> Document:
    """`dataclasses.replace`, in a third of its time."""
    return Document(*map(changes.get, _FIELDS, _values_of(document)))


_DOI = re.compile(
    r"(?:(?:info:|urn:)?doi(?::\s*|/|\s+))?(?:(?:https?://)?(?:www\.)?(?:dx\.)?doi\.org/|https?://\S{1,100}?/doi/(?:\w+/)?)?"
    r"(10\.\d{4,9}(?:\.\d+)*/\S+)",
    re.IGNORECASE,
)
_BRACKETS = {")": "(", "]": "[", ">": "<"}


def as_doi(text: str) -> str:
    """The DOI in `text` (bare, with `doi:`, or as a URL) in lower case; empty where it is none.

    A stop, a comma or a bracket behind it, as in running text, is not its own.
    """
    if len(text) > MAX_DOI_CHARS:
        return ""
    text = unquote(text) if "%" in text else text
    if "10." not in text:  # most texts
        return ""
    found = _DOI.fullmatch(text.strip())
    doi = found[1].lower() if found else ""
    if doi and "/doi/" in text.lower():
        doi = re.split(r"[?#]", doi)[0]
    while doi and (doi[-1] in ".,;" or doi.count(doi[-1]) > doi.count(_BRACKETS.get(doi[-1], doi[-1]))):
        doi = doi[:-1]
    return doi


_SECTION = pa.struct(
    [("heading", pa.string()), ("text", pa.string()), ("parents", pa.list_(pa.string())), ("kind", pa.string())]
)
TERMS = ("authors", "categories", "keywords", "references")
STATED = ("date", "venue", "language", *TERMS)
"""The fields that hold what the source states of a paper."""
_LISTS = {"sections": pa.list_(_SECTION), "moves": pa.list_(pa.list_(pa.string()))}
_LISTS |= dict.fromkeys(TERMS, pa.list_(pa.string()))
SCHEMA = pa.schema([(field.name, _LISTS.get(field.name, pa.string())) for field in fields(Document)])
TEXTUAL = [name for name in SCHEMA.names if name not in STATED]
"""The columns that are read where texts are made of documents."""

# Sections are most of the bytes; what phase 1 and general text read in bulk unpacks three times as fast.
_FAST = ("id", "source", "origin", "title", "abstract", "text")
_SLOW = [f"sections.list.element.{name}" for name in ("heading", "text", "parents.list.element", "kind")]
_SLOW += ["discipline", "moves.list.element.list.element", "doi", "language", "date", "venue"]
_SLOW += [f"{name}.list.element" for name in TERMS]
COMPRESSION = dict.fromkeys(_FAST, "lz4") | dict.fromkeys(_SLOW, "zstd")


def parquet_writer(path: Path) -> pq.ParquetWriter:
    """For a file of SCHEMA."""
    return pq.ParquetWriter(path, SCHEMA, compression=COMPRESSION)


def table_of(documents: Sequence[Document]) -> pa.Table:
    columns = {name: [getattr(d, name) for d in documents] for name in SCHEMA.names}
    ends = [0, *accumulate(map(len, columns["sections"]))]
    sections = list(chain.from_iterable(columns["sections"]))
    parts = [pa.array([getattr(s, part.name) for s in sections], part.type) for part in _SECTION]
    struct = pa.StructArray.from_arrays(parts, fields=list(_SECTION))
    columns["sections"] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), struct)
    return pa.table(columns, SCHEMA)


def read_documents(path: Path, columns: Sequence[str] | None = None) -> Iterator[Document]:
    """Streams the documents of one Parquet file, or of a folder of them in order, a batch in memory at a time; with
    `columns` only these fields, the others are empty.

    Raises:
        UserError: a file of the folder is not what was written.
    """
    if path.is_dir():
        integrity.verify(path)
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=BATCH_DOCUMENTS, columns=columns):
                yield from documents_in(batch)


def documents_in(batch: pa.RecordBatch) -> Iterator[Document]:
    """A field without a column is empty: one not asked for, or not yet written by the version that made the file."""
    lists = [name for name in TERMS if name in batch.schema.names]
    needed = dict.fromkeys(("id", "source", "origin"), "")
    for row in batch.to_pylist():
        for name in lists:
            row[name] = tuple(row[name])
        if "sections" in row:
            row["sections"] = tuple(Section(**{**s, "parents": tuple(s["parents"])}) for s in row["sections"])
        if "moves" in row:
            row["moves"] = tuple((label, sentence) for label, sentence in row["moves"])
        yield Document(**(needed | row))
