"""arXiv metadata as JSON: the Kaggle/OAI snapshot, and the daily files with `summary` for the abstract.

Any JSON record with a title and an abstract is read; one whose id is not arXiv's is named by its DOI, or by its place.
"""

import re
from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files.opening import Unread, read_each
from nsllm_lite.corpus.files.records import as_text, iter_records
from nsllm_lite.corpus.files.sniff import json_keys
from nsllm_lite.document import Document

_ID = re.compile(
    r"(?:https?://arxiv\.org/(?:abs|pdf)/|(?:oai:)?arxiv(?:\.org)?:)?(\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?:v\d+)?"
)
_INDENT = re.compile(r"\n {2,}(?=\S)")  # arXiv marks a new paragraph of an abstract so
_CUT_COMPOUND = re.compile(r"(?<=[A-Za-z])-\n(?=[A-Za-z])")

_DISCIPLINES = {
    "cs": "Computer Science",
    "stat": "Computer Science",
    "eess": "Computer Science",
    "math": "Mathematics",
    "q-bio": "Biology",
    "q-fin": "Economics",
    "econ": "Economics",
    "physics.chem-ph": "Chemistry",
    "physics.bio-ph": "Biology",
    "physics.med-ph": "Medicine",
}


def recognise(head: str) -> bool:
    keys = json_keys(head)
    return "title" in keys and bool(keys & {"abstract", "summary"})


def read(stream: TextIO, source: str, file: str) -> Iterator[Document | Unread]:
    def make(record: dict, origin: str) -> Document:
        abstract = as_text(record.get("abstract") or record.get("summary"))
        return Document(
            id=_name(record, source, origin),
            source=source,
            origin=origin,
            title=as_text(record.get("title")),
            abstract=_CUT_COMPOUND.sub("-", _INDENT.sub("\n\n", abstract.strip())),
            discipline=_discipline(record.get("categories")),
        )

    return read_each(iter_records(stream), file, make)


def _name(record: dict, source: str, origin: str) -> str:
    """The paper's name without its version, so that v1 in one file and v3 in another are the same paper."""
    arxiv_id = _ID.fullmatch(as_text(record.get("id")).strip())
    if arxiv_id:
        return f"arxiv:{arxiv_id[1]}"
    doi = as_text(record.get("doi")).strip().lower()
    return f"doi:{doi}" if doi.startswith("10.") else f"{source}:{origin}"


def _discipline(categories: object) -> str:
    """The broad field of the first category; physics where it is none of those listed."""
    words = as_text(categories).split()
    if not words:
        return ""
    return _DISCIPLINES.get(words[0]) or _DISCIPLINES.get(words[0].split(".")[0], "Physics")
