"""The paper of a record of tagged lines, where each tag holds one thing: RefWorks, EndNote, NoteExpress, E-Study."""

import re
from typing import NamedTuple

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, stated
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document

_NO_BLANK = re.compile(r",(?=\S)")  # "Fox,Ann"


class Tags(NamedTuple):
    """Which tags hold what; of several the first that is not empty."""

    title: tuple[str, ...]
    abstract: tuple[str, ...]
    language: str
    doi: str
    ids: tuple[str, ...]  # that may hold identifiers of any kind: addresses, numbers
    year: str
    date: str
    author: str
    venue: tuple[str, ...]
    keywords: str
    url: tuple[str, ...]
    accession: str = ""
    database: tuple[str, ...] = ()  # whose accession numbers they are
    categories: str = ""


def paper_of(record: Record, place: Place, tags: Tags) -> Document:
    number = record.value(tags.accession)
    pmid, accession = identity.stated_accession(number, record.value(*tags.url))
    ids = identity.ids_of({"doi": record.values(tags.doi), "ids": record.values(*tags.ids)})
    is_pubmed = any(map(identity.is_pubmed, record.values(*tags.database)))
    return place.paper(
        arxiv=ids.arxiv,
        pmid=pmid or ids.pmid or (number if is_pubmed else ""),
        doi=ids.doi,
        accession=accession or ids.accession,
        title=record.value(*tags.title),
        abstract=stated(record.text(*tags.abstract)),
        language=record.value(tags.language),
        date=dated(record.value(tags.year, tags.date), record.value(tags.date)),
        authors=tuple(_NO_BLANK.sub(", ", name) for name in as_names(record.values(tags.author))),
        venue=record.value(*tags.venue),
        categories=as_terms(*record.values(tags.categories), parted=";"),
        keywords=as_terms(*record.lines(tags.keywords), parted=";"),
    )
