"""CNKI's E-Study and its export of chosen fields: each field stands behind its English and its Chinese name, as in
"Title-题名: ...", "Summary-摘要: ...". The same fields as columns are read by `table` and `excel`.

Which field begins a record depends on what the user chose: it is the first one of the file, or behind a blank line any
that the record has already.

Source: exports of CNKI (https://kns.cnki.net, formats E-Study and 自定义)
"""

import re
from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files.opening import Joined, Place
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records
from nsllm_lite.corpus.stated.tagged import Tags, paper_of
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
    titles=("Title",),
)
TAGS = Tags(
    title=("Title",),
    abstract=("Summary", "Abstract"),
    language="Language",
    doi="DOI",
    ids=("URL", "Link"),
    url=("URL", "Link"),
    year=("Year",),
    date=("PubTime",),
    author=("Author",),
    venue=("Source",),
    categories="CLC",
    keywords="Keyword",
)
_TITLE = re.compile(r"(?:^|[\n\r])[ \t]{0,4}Title-[\u4e00-\u9fff]")


def recognise(head: str) -> bool:
    return SYNTAX.line.match(head) is not None and _TITLE.search(head) is not None


def records(stream: TextIO) -> Iterator[Record | str]:
    head = stream.read(HEAD_CHARS)
    tagged = filter(None, map(SYNTAX.line.match, head.split("\n")))
    first = next((line[1] for line in tagged), SYNTAX.first)
    return iter_records(Joined(head, stream), SYNTAX._replace(first=first))


def document(record: Record, place: Place) -> Document:
    return paper_of(record, place, TAGS)
