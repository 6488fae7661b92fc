"""Semantic Scholar's bulk data sets `papers` (titles, authors, dates) and `abstracts`: JSON lines, two of one paper.

Where a source has files of both, the build joins them by `corpusid` before they are read (see `corpus.join`). A record
whose other half is nowhere is read as it is, without an abstract or without a title.

Source: api.semanticscholar.org/datasets/v1 (README of each release).
"""

from nsllm_lite.corpus.files.objects import instead, objects_in, text_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.sources import s2orc
from nsllm_lite.formats.documents import Document

KEY = "corpusid"
OTHERS = frozenset(("content", "body", "text", "paper_id"))  # fields of full texts

records = iter_records


def half_of(head: str) -> int | None:
    """0 of a file of papers, 1 of one of abstracts, None of another."""
    objects = objects_in(head) if f'"{KEY}"' in head else ()
    fields = next((opened.fields for opened in objects if KEY in opened.fields), {})
    if len({"title", "abstract"} & fields.keys()) != 1 or OTHERS & fields.keys():
        return None  # of another data set, or joined by someone
    return 0 if "title" in fields else 1


def recognise(head: str) -> bool:
    return half_of(head) is not None


def joined(paper: dict, abstract: dict) -> dict:
    return {**abstract, **paper}


def document(record: dict, place: Place) -> Document | Unread:
    title, abstract = (text_in(record.get(key)) for key in ("title", "abstract"))
    if not (title or abstract):
        return place.unread(instead("neither title nor abstract", record))
    return s2orc.paper_of(place, record, str(record.get(KEY) or ""), title=title, abstract=abstract)
