"""The paper of a record of tagged lines, each tag of which holds one thing: RIS, RefWorks, EndNote and their like."""

import re
from typing import NamedTuple

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, stated
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.names import as_names, without_mark
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
    year: tuple[str, ...]
    date: tuple[str, ...]  # each may make the year finer
    author: tuple[str, ...]  # all of them
    venue: tuple[str, ...]
    keywords: str
    url: tuple[str, ...]
    accession: str = ""
    database: tuple[str, ...] = ()  # whose accession numbers they are
    categories: str = ""


def paper_of(record: Record, place: Place, tags: Tags) -> Document:
    ids = identity.exported_ids(
        doi=record.values(tags.doi),
        others=record.values(*tags.ids),
        number=record.value(tags.accession),
        url=record.value(*tags.url),
        databases=record.values(*tags.database),
    )
    names = map(without_mark, as_names(record.values(*tags.author)))
    return place.paper(
        **ids._asdict(),
        title=record.value(*tags.title),
        abstract=stated(record.text(*tags.abstract)),
        language=record.value(tags.language),
        date=dated(record.value(*tags.year, *tags.date), *record.values(*tags.date)),
        authors=tuple(_NO_BLANK.sub(", ", name) for name in names if name),
        venue=record.value(*tags.venue),
        categories=as_terms(*record.values(tags.categories), parted=";"),
        keywords=as_terms(*record.lines(tags.keywords), parted=";"),
    )
