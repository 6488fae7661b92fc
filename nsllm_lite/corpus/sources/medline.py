"""MEDLINE text as PubMed saves it (.nbib): "PMID- " begins a record, six blanks go on with the field above.

PubMed writes the labels of a structured abstract into its text. They become moves only where each of them is made of
words that labels are made of; else they stay where they are. Abstracts in other languages (OAB) and titles as
transliterated (TT) are left out. Categories are the major topics among the MeSH headings, those with a star.
"""

import re
import tomllib
from functools import partial
from importlib import resources

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records
from nsllm_lite.corpus.stated.dates import as_date, finer_of
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document, as_doi

SYNTAX = Syntax(
    line=re.compile(r"([A-Z][A-Z0-9]{1,3}) {0,2}-(?: |(?<=PMID-)|\s*$)(.*)"),
    first="PMID",
    last="SO",
    kept=frozenset(("PMID", "TI", "BTI", "AB", "LA", "LID", "AID")),
    vital=frozenset(("TI", "BTI", "AB")),
    beside=frozenset(("DP", "DEP", "FAU", "AU", "CN", "JT", "TA", "MH", "OT")),
    last_belongs=True,
    titles=("TI", "BTI"),
)
_HEADER = re.compile(r"PMID- ?\d+[ \t]*[\n\r]+[A-Z]{2,4} {0,2}- ")
_LABELS = tomllib.loads(resources.files(__package__).joinpath("medline.toml").read_text(encoding="utf-8"))
_MOVES = {
    label: category
    for category, labels in _LABELS["categories"].items()
    for label in " ".join(labels.upper().split()).split("; ")
}
_LABEL_WORDS = frozenset(re.findall("[A-Z]+", " ".join((*_MOVES, _LABELS["other_words"]))))
_LABEL = re.compile(r"(?:^|(?<=[.?!)\]\"”%] ))([A-Z][A-Z/&,() -]{2,60}):(?: |$)")
_DOI_MARK = re.compile(r"(\S+) \[doi\]")

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document:
    marked = (_DOI_MARK.fullmatch(value) for value in record.values("LID", "AID"))
    moves, abstract = moves_of(record.text("AB"))
    return place.paper(
        pmid=record.value("PMID"),
        doi=identity.first(as_doi, (mark[1] for mark in marked if mark)),
        title=bare_title(record.value("TI", "BTI")),
        abstract=abstract,
        moves=moves,
        language=record.value("LA"),
        date=finer_of(as_date(record.value("DP")), as_date(record.value("DEP"))),
        authors=(*(record.values("FAU") or record.values("AU")), *record.values("CN")),
        venue=record.value("JT", "TA"),
        categories=as_terms(*(heading.split("/")[0] for heading in record.values("MH") if "*" in heading), parted=""),
        keywords=as_terms(*record.values("OT"), parted=";"),
    )


def bare_title(title: str) -> str:
    """Without the brackets PubMed sets around a translated title, and without the full stop it adds to all."""
    bare = title.removesuffix(".")
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1].removesuffix(".")
    return title if bare.endswith("..") or not bare else bare


def category_of(label: str) -> str:
    """NLM's category of a frequent label; another label as it is."""
    return _MOVES.get(label.upper(), label)


def moves_of(abstract: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text without labels) of an abstract that begins with a label and has two or more of them, each made of
    words that labels are made of; of any other ((), `abstract`)."""
    before, *parts = _LABEL.split(abstract)
    labels, texts = parts[::2], map(str.strip, parts[1::2])
    if before or len(labels) < 2 or not _LABEL_WORDS.issuperset(re.findall("[A-Z]+", " ".join(labels))):
        return (), abstract
    moves = tuple((category_of(label), text) for label, text in zip(labels, texts, strict=True) if text)
    return moves, " ".join(text for _, text in moves)
