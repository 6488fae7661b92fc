"""CNKI's E-Study and its export of chosen fields: each field stands behind its English and its Chinese name, as in
"Title-题名: ...", "Summary-摘要: ...". The same fields as columns are read by `table` and `excel`.

Which field begins a record depends on what the user chose: it is the first one of the file, or behind a blank line any
that the record has already.

Source: exports of CNKI (https://kns.cnki.net, formats E-Study and 自定义)
"""

import re
from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.opening import Joined, Place, Unread
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records, stated
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document

HEAD_CHARS = 65_536
SYNTAX = Syntax(
    line=re.compile(
        r"[ \t]{0,4}([A-Z][A-Za-z]{1,20})(?:(?<=DataType)|-(?:[\u4e00-\u9fff]{1,12}|DOI|ISSN|ISBN))[ \t]{0,4}[:：](.*)"
    ),
    first="Title",
    last="",
    kept=frozenset(("Title", "Summary", "Abstract", "Language", "DOI", "URL", "Link")),
    vital=frozenset(("Title", "Summary", "Abstract")),
    beside=frozenset(("Author", "Source", "Keyword", "PubTime", "Year", "CLC")),
    apart=True,
)
_TITLE = re.compile(r"(?:^|[\n\r])[ \t]{0,4}Title-[\u4e00-\u9fff]")


def recognise(head: str) -> bool:
    return SYNTAX.line.match(head) is not None and _TITLE.search(head) is not None


def records(stream: TextIO) -> Iterator[Record | str]:
    head = stream.read(HEAD_CHARS)
    tagged = filter(None, map(SYNTAX.line.match, head.split("\n")))
    first = next((line[1] for line in tagged), SYNTAX.first)
    return iter_records(Joined(head, stream), SYNTAX._replace(first=first))


def document(record: Record, place: Place) -> Document | Unread:
    if len(record.values("Title")) > 1:
        return place.unread("two titles in one record: the mark between two records is missing")
    ids = identity.ids_of({"doi": record.values("DOI"), "ids": record.values("URL", "Link")})
    return place.paper(
        arxiv=ids.arxiv,
        pmid=ids.pmid,
        doi=ids.doi,
        accession=ids.accession,
        title=record.value("Title"),
        abstract=stated(record.text("Summary", "Abstract")),
        language=record.value("Language"),
        date=dated(record.value("Year", "PubTime"), record.value("PubTime")),
        authors=as_names(record.values("Author")),
        venue=record.value("Source"),
        categories=as_terms(*record.values("CLC"), parted=";"),
        keywords=as_terms(*record.lines("Keyword"), parted=";"),
    )
