"""NoteExpress' tagged format, as CNKI and Wanfang write it: "{Reference Type}: Journal Article" begins a record, and
each field stands behind its English name. Lines without a name go on with the field above.

Source: exports of CNKI and Wanfang, and NoteExpress' own style of that name
"""

import re
from functools import partial

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records, stated
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document

SYNTAX = Syntax(
    line=re.compile(r"[ \t]{0,4}\{([A-Z][A-Za-z/() ]{1,40})\}[ \t]{0,4}[:：](.*)"),
    first="Reference Type",
    last="",
    kept=frozenset(("Title", "Translated Title", "Abstract", "Language", "DOI", "URL", "Accession Number")),
    vital=frozenset(("Title", "Abstract")),
    beside=frozenset(
        ("Author", "Year", "Date", "Journal", "Secondary Title", "Newspaper", "Conference Name", "Keywords")
    ),
)
_HEADER = re.compile(r"\{Reference Type\}[ \t]{0,4}[:：]")

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document | Unread:
    if len(record.values("Title")) > 1:
        return place.unread("two titles in one record: the mark between two records is missing")
    pmid, accession = identity.stated_accession(record.value("Accession Number"), record.value("URL"))
    ids = identity.ids_of({"doi": record.values("DOI"), "ids": record.values("URL", "Accession Number")})
    return place.paper(
        arxiv=ids.arxiv,
        pmid=pmid or ids.pmid,
        doi=ids.doi,
        accession=accession or ids.accession,
        title=record.value("Title", "Translated Title"),
        abstract=stated(record.text("Abstract")),
        language=record.value("Language"),
        date=dated(record.value("Year", "Date"), record.value("Date")),
        authors=as_names(record.values("Author")),
        venue=record.value("Journal", "Secondary Title", "Newspaper", "Conference Name"),
        keywords=as_terms(*record.lines("Keywords"), parted=";"),
    )
