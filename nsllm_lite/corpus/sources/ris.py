"""RIS, as reference managers and databases write it: "TY  - JOUR" begins a record, "ER  -" ends it.

Also read: tags with other blanks around their dash, records without TY or ER, values that go on in lines without a tag,
numbers and links between the records. rispy 0.10.0 is not used: it reads the whole file into memory, and silently loses
or joins records without TY or ER.
"""

import re
from functools import partial

from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records
from nsllm_lite.corpus.stated.tagged import Tags, paper_of
from nsllm_lite.formats.documents import Document

# Tags that the format names: only these count where the dash has other blanks than two before it, so that a line of
# an abstract such as "IL - 6" stays text.
_TAGS = (
    "A[1-4BDNU]|C[1-8ANPTY]|D[ABOP]|E[DPRT]|I[DS]|J[12AFO]|KW|L[1-4AKB]|M[1-3]|N[12V]|OP|P[BY]|R[NIP]|S[ENPTV]|T[1-3AITY]|"
    "U[1-5R]|VL|VO|Y[12]"
)
SYNTAX = Syntax(
    line=re.compile(
        rf"[ \t]{{0,4}}((?=[A-Z][A-Z0-9] {{2}}-|(?:{_TAGS})[ \t]{{0,3}}-(?:\s|$))[A-Z][A-Z0-9])[ \t]{{0,3}}-(.*)"
    ),
    first="TY",
    last="ER",
    kept=frozenset(("TI", "T1", "AB", "N2", "LA", "DO", "M3", "UR", "L2", "AN", "C2", "DB", "DP")),
    vital=frozenset(("TI", "T1", "AB", "N2")),
    beside=frozenset(("PY", "Y1", "DA", "AU", "A1", "T2", "JF", "JO", "JA", "J2", "BT", "KW")),
    titles=("TI", "T1"),
)
TAGS = Tags(
    title=("TI", "T1"),
    abstract=("AB", "N2"),
    language="LA",
    doi="DO",
    ids=("M3", "UR", "L2", "AN", "C2"),
    url=("UR",),
    accession="AN",
    database=("DB", "DP"),
    year=("PY", "Y1"),
    date=("DA", "Y1"),
    author=("AU", "A1"),
    venue=("T2", "JF", "JO", "BT", "JA", "J2"),
    keywords="KW",
)
_BEGINNING = re.compile(r"(?:^|[\n\r])[ \t]{0,4}TY[ \t]{0,3}-[^\n\r]{0,60}[\n\r]+[ \t]{0,4}[A-Z][A-Z0-9][ \t]{0,3}-")
_STRAY_LINES = 20  # before the first record

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    """TY near the beginning; further down only where the file begins with tagged lines, so with a broken record."""
    start = None if head[0] in "<{[" or "TY" not in head else _BEGINNING.search(head)
    if start is None:
        return False
    return SYNTAX.line.match(head) is not None or head.count("\n", 0, start.start()) < _STRAY_LINES


def document(record: Record, place: Place) -> Document:
    return paper_of(record, place, TAGS)
