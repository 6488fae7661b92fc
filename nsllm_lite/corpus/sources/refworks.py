"""RefWorks' tagged format, as RefWorks, CNKI and Wanfang write it: "RT Journal Article" begins a record.

CNKI writes all authors or keywords on one line ("A1 张三;李四;"), others one a line. Lines without a tag go on with the
field above. Nothing marks a record's end, so a file that was cut there cannot be told from a whole one.

Source: RefWorks Tagged Format (https://www.refworks.com/refworks/help/RefWorks_Tagged_Format.htm)
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

# Only tags that the format names: a line of an abstract may begin with "PD patients".
_TAGS = (
    "A[1-6BDNV]|C[LNRT]|D[BOS]|ED|F[DL]|I[DPS]|J[FO]|K1|L[AKL]|NO|O[LPT]|P[BP]|R[DT]|S[FLNPRT]|T[1-3]|U[1-9L]|U1[0-5]|"
    "V[Oo]|vo|W[PTV]|YR"
)
SYNTAX = Syntax(
    line=re.compile(rf"[ \t]{{0,4}}({_TAGS})(?:[ \t]+(.*)|\s*$)"),
    first="RT",
    last="",
    kept=frozenset(("T1", "OT", "AB", "LA", "DO", "UL", "LK", "AN", "DB", "DS")),
    vital=frozenset(("T1", "AB")),
    beside=frozenset(("A1", "YR", "FD", "JF", "JO", "T2", "K1", "CL")),
)
_HEADER = re.compile(rf"RT[ \t]+\w[^\n\r]{{1,60}}[\n\r]+[ \t]{{0,4}}(?:{_TAGS})[ \t]")
_NO_BLANK = re.compile(r",(?=\S)")  # "Fox,Ann"

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document | Unread:
    if len(record.values("T1")) > 1:
        return place.unread("two titles in one record: the mark between two records is missing")
    pmid, accession = identity.stated_accession(record.value("AN"), record.value("UL", "LK"))
    ids = identity.ids_of({"doi": record.values("DO"), "ids": record.values("UL", "LK", "AN")})
    is_pubmed = any(map(identity.is_pubmed, record.values("DB", "DS")))
    return place.paper(
        arxiv=ids.arxiv,
        pmid=pmid or ids.pmid or (record.value("AN") if is_pubmed else ""),
        doi=ids.doi,
        accession=accession or ids.accession,
        title=record.value("T1", "OT"),
        abstract=stated(record.text("AB")),
        language=record.value("LA"),
        date=dated(record.value("YR", "FD"), record.value("FD")),
        authors=tuple(_NO_BLANK.sub(", ", name) for name in as_names(record.values("A1"))),
        venue=record.value("JF", "JO", "T2"),
        categories=as_terms(*record.values("CL"), parted=";"),
        keywords=as_terms(*record.lines("K1"), parted=";"),
    )
