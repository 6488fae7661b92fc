"""arXiv metadata as JSON: the Kaggle/OAI snapshot, and the daily files with `summary` for the abstract.

Any flat JSON record with a title and an abstract is read; one whose id is not arXiv's is named by its PMID, its DOI,
its OpenReview forum, or its place. The readers of other forms of the same metadata (`oai`, `atom`, `conference`) make
such a record of theirs and give it to `document_of`, so that a paper is the same in all of them.
"""

import re
from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files import identifiers
from nsllm_lite.corpus.files.objects import objects_in
from nsllm_lite.corpus.files.opening import Unread, read_each
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.formats.documents import Document, as_doi

MAX_ID_CHARS = 300
ID_KEYS = ("id", "arxiv_id", "paper_id", "entry_id", "url", "doi", "DOI")
FORUM_KEYS = ("openreview", "site", "forum", "url")
ARXIV_DOI = "10.48550/arxiv."

_ID = re.compile(
    r"(?P<prefix>(?:https?://)?(?:\w+\.)?arxiv\.org/(?:abs|pdf|html)/|(?:oai:)?arxiv(?:\.org)?:\s*)?"
    r"(?:(?P<new>[0-9]{2}(?:0[1-9]|1[0-2])\.[0-9]{4,5})|(?P<archive>[a-z-]+)(?:\.[a-z-]+)?/(?P<old>[0-9]{7}))"
    r"(?:v[0-9]+)?(?:\.pdf)?(?:\s*\[[\w.-]+\])?",
    re.IGNORECASE | re.ASCII,
)
_FORUM = re.compile(r"https?://openreview\.net/(?:forum|pdf)\?id=([\w-]+)")
_CATEGORY = re.compile(r"\b[a-z][\w.-]*")
_INDENT = re.compile(r"\n {2,}(?=\S)")  # arXiv marks a new paragraph of an abstract so
_CUT_COMPOUND = re.compile(r"(?<=[A-Za-z])-\n(?=[A-Za-z])")

_ARCHIVES = {  # those that arXiv closed in the nineties too: old papers still carry them
    "Computer Science": "cs stat eess cmp-lg",
    "Mathematics": "math alg-geom dg-ga funct-an q-alg",
    "Biology": "q-bio",
    "Economics": "q-fin econ",
    "Chemistry": "chem-ph",
    "Physics": "astro-ph cond-mat gr-qc hep-ex hep-lat hep-ph hep-th math-ph nlin nucl-ex nucl-th physics quant-ph "
    "acc-phys adap-org ao-sci atom-ph bayes-an chao-dyn comp-gas mtrl-th patt-sol plasm-ph solv-int supr-con",
}
_DISCIPLINES = {archive: field for field, archives in _ARCHIVES.items() for archive in archives.split()}
_DISCIPLINES |= {"physics.chem-ph": "Chemistry", "physics.bio-ph": "Biology", "physics.med-ph": "Medicine"}


def recognise(head: str) -> bool:
    objects = objects_in(head)
    return any(_is_flat(o.fields) for o in objects if o.depth == objects[0].depth)


def _is_flat(fields: dict[str, str]) -> bool:
    """Null (`n`, NaN) is a text too; a number is not: a vocabulary has the words as keys."""
    abstract = fields.get("abstract", "") + fields.get("summary", "")
    return fields.get("title", "") in tuple('"[nN') and any(sign in abstract for sign in '"[nN')


def read(stream: TextIO, source: str, file: str) -> Iterator[Document | Unread]:
    def make(record: dict, origin: str) -> Document:
        return document_of(record, source, origin)

    return read_each(iter_records(stream), file, make)


def document_of(record: dict, source: str, origin: str, accession: str = "") -> Document:
    """The paper of a flat record; `accession` names it where no arXiv id, PMID or DOI does."""
    name = next(filter(None, (arxiv_id(_text(record.get(key))) for key in ID_KEYS)), "")
    doi = _doi(_text(record.get("doi")) or _text(record.get("DOI")))
    abstract = _text(record.get("abstract")) or _text(record.get("summary"))
    return Document(
        id=identifiers.name(
            f"{source}:{origin}", name, _text(record.get("pmid")).strip(), doi, accession or _forum(record)
        ),
        source=source,
        origin=origin,
        title=_text(record.get("title")),
        abstract=paragraphs(abstract) if name else abstract,
        discipline=discipline_of(f"{_text(record.get('primary_category'))} {_text(record.get('categories'))} {name}"),
        doi=doi,
        language=_text(record.get("language")).strip().lower(),
    )


def arxiv_id(text: str, bare: bool = True) -> str:
    """The arXiv id in `text` (a URL, after `arXiv:`, arXiv's own DOI, and if `bare` as a number alone), or "".

    Without version and subject class, so that v1 in one file and v3 in another are the same paper.
    """
    text = text[: MAX_ID_CHARS + 1].strip()
    doi = as_doi(text)
    found = _ID.fullmatch(f"arXiv:{doi.removeprefix(ARXIV_DOI)}" if doi.startswith(ARXIV_DOI) else text)
    if not found or not (bare or found["prefix"]):
        return ""
    if found["new"]:
        return found["new"]
    archive = found["archive"].lower()
    return f"{archive}/{found['old']}" if archive in _DISCIPLINES else ""


def paragraphs(abstract: str) -> str:
    """An abstract as arXiv breaks its lines: indented paragraphs set apart, compounds cut at their hyphen joined."""
    return _CUT_COMPOUND.sub("-", _INDENT.sub("\n\n", abstract.strip()))


def discipline_of(categories: str) -> str:
    """The broad field of the first word that is a category or an archive of arXiv, or ""."""
    for word in _CATEGORY.findall(categories[:1000]):
        field = _DISCIPLINES.get(word) or _DISCIPLINES.get(word.split(".")[0])
        if field:
            return field
    return ""


def _forum(record: dict) -> str:
    forum = next(filter(None, (_FORUM.match(_text(record.get(key))) for key in FORUM_KEYS)), None)
    return f"openreview:{forum[1]}" if forum else ""


def _doi(text: str) -> str:
    """arXiv names several DOIs of a paper in one field."""
    return as_doi(text) or as_doi(text.partition(" ")[0])


def _text(value: object) -> str:
    """A field as text: the texts of a list joined by spaces; null, NaN and what is no text are empty."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(v for v in value if isinstance(v, str))
    return str(value) if isinstance(value, int | float) and value == value else ""
