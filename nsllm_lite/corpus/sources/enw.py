"""EndNote's tagged export (.enw), as EndNote, Google Scholar, CNKI and Wanfang write it: "%0 Journal Article" begins a
record, "%T" its title. Lines without a tag go on with the field above.

Source: "EndNote Export" and Refer (https://support.clarivate.com/Endnote, tags of the filter EndNote Import)
"""

import re
from functools import partial

from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records
from nsllm_lite.corpus.stated.tagged import Tags, paper_of
from nsllm_lite.formats.documents import Document

_TAG = r"%([0-9A-Zf@!#$&(+*)/:;<=>?\[\\\]^~])"
SYNTAX = Syntax(
    line=re.compile(rf"{_TAG}(?:[ \t](.*)|\s*$)"),
    first="0",
    last="",
    kept=frozenset("TQXGRUMW~2"),
    vital=frozenset("TX"),
    beside=frozenset("AJBD8K"),
    titles=("T",),
)
TAGS = Tags(
    title=("T", "Q"),
    abstract=("X",),
    language="G",
    doi="R",
    ids=("R", "U", "M", "2"),
    url=("U",),
    accession="M",
    database=("W", "~"),
    year=("D",),
    date=("8",),
    author=("A",),
    venue=("J", "B"),
    keywords="K",
)
_HEADER = re.compile(rf"%0[ \t]+\w[^\n\r]{{1,60}}[\n\r]+{_TAG}[ \t]")

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document:
    return paper_of(record, place, TAGS)
