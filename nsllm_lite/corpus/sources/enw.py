"""EndNote's tagged export (.enw), as EndNote, Google Scholar, CNKI and Wanfang write it: "%0 Journal Article" begins a
record, "%T" its title. Lines without a tag go on with the field above.

Source: "EndNote Export" and Refer (https://support.clarivate.com/Endnote, tags of the filter EndNote Import)
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

_TAG = r"%([0-9A-Z@!#$&(+*)/:;<=>?\[\\\]^~])"
SYNTAX = Syntax(
    line=re.compile(rf"{_TAG}(?:[ \t](.*)|\s*$)"),
    first="0",
    last="",
    kept=frozenset("TQXGRUMW~"),
    vital=frozenset("TX"),
    beside=frozenset("AJBD8K"),
)
_HEADER = re.compile(rf"%0[ \t]+\w[^\n\r]{{1,60}}[\n\r]+{_TAG}[ \t]")

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document | Unread:
    if len(record.values("T")) > 1:
        return place.unread("two titles in one record: the mark between two records is missing")
    pmid, accession = identity.stated_accession(record.value("M"), record.value("U"))
    ids = identity.ids_of({"doi": record.values("R"), "ids": record.values("R", "U", "M")})
    is_pubmed = any(map(identity.is_pubmed, record.values("W", "~")))
    return place.paper(
        arxiv=ids.arxiv,
        pmid=pmid or ids.pmid or (record.value("M") if is_pubmed else ""),
        doi=ids.doi,
        accession=accession or ids.accession,
        title=record.value("T", "Q"),
        abstract=stated(record.text("X")),
        language=record.value("G"),
        date=dated(record.value("D", "8"), record.value("8")),
        authors=as_names(record.values("A")),
        venue=record.value("J", "B"),
        keywords=as_terms(*record.lines("K"), parted=";"),
    )
