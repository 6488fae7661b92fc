"""RefWorks' tagged format, as RefWorks, CNKI and Wanfang write it: "RT Journal Article" begins a record.

CNKI writes all authors or keywords on one line ("A1 张三;李四;"), others one a line. Lines without a tag go on with the
field above. Nothing marks a record's end, so a file that was cut there cannot be told from a whole one.

Source: RefWorks Tagged Format (https://www.refworks.com/refworks/help/RefWorks_Tagged_Format.htm)
"""

import re
from functools import partial

from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records
from nsllm_lite.corpus.stated.tagged import Tags, paper_of
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
    titles=("T1",),
)
TAGS = Tags(
    title=("T1", "OT"),
    abstract=("AB",),
    language="LA",
    doi="DO",
    ids=("UL", "LK", "AN"),
    url=("UL", "LK"),
    accession="AN",
    database=("DB", "DS"),
    year=("YR",),
    date=("FD",),
    author=("A1",),
    venue=("JF", "JO", "T2"),
    categories="CL",
    keywords="K1",
)
_HEADER = re.compile(rf"RT[ \t]+\w[^\n\r]{{1,60}}[\n\r]+[ \t]{{0,4}}(?:{_TAGS})[ \t]")

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document:
    return paper_of(record, place, TAGS)
