"""NoteExpress' tagged format, as CNKI and Wanfang write it: "{Reference Type}: Journal Article" begins a record, and
each field stands behind its English name. Lines without a name go on with the field above.

Source: exports of CNKI and Wanfang, and NoteExpress' own style of that name
"""

import re
from functools import partial

from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records
from nsllm_lite.corpus.stated.tagged import Tags, paper_of
from nsllm_lite.formats.documents import Document

SYNTAX = Syntax(
    line=re.compile(r"[ \t]{0,4}\{([A-Z][A-Za-z0-9/() ]{1,40})\}[ \t]{0,4}[:：](.*)"),
    first="Reference Type",
    last="",
    kept=frozenset(("Title", "Translated Title", "Abstract", "Language", "DOI", "URL", "Accession Number")),
    vital=frozenset(("Title", "Abstract")),
    beside=frozenset(
        ("Author", "Year", "Date", "Journal", "Secondary Title", "Newspaper", "Conference Name", "Keywords")
    ),
    titles=("Title",),
)
TAGS = Tags(
    title=("Title", "Translated Title"),
    abstract=("Abstract",),
    language="Language",
    doi="DOI",
    ids=("URL", "Accession Number"),
    url=("URL",),
    accession="Accession Number",
    year=("Year",),
    date=("Date",),
    author=("Author",),
    venue=("Journal", "Secondary Title", "Newspaper", "Conference Name"),
    keywords="Keywords",
)
_HEADER = re.compile(r"\{Reference Type\}[ \t]{0,4}[:：]")

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document:
    return paper_of(record, place, TAGS)
