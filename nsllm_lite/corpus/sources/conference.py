"""Lists of conference papers as JSON: OpenReview's notes (its API 1 and 2), papers within other objects, and lists that
give no abstracts. Flat records with title and abstract are read by `arxiv`; both make the same document of a record.

Every paper listed is read, a withdrawn or rejected one too; status, track, keywords and reviews stay out of its text.
"""

from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files.objects import instead, object_in, objects_in
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.sources import arxiv
from nsllm_lite.formats.documents import Document

MAX_DEPTH = 6  # {"message": {"items": [paper]}} has three
LIST_KEYS = frozenset(("track", "status", "authorids", "venue", "venueid", "forum", "primary_area"))


def recognise(head: str) -> bool:
    if '"title"' not in head or arxiv.recognise(head):
        return False
    objects = tuple(objects_in(head))
    return any(
        all(o.fields.get(key) in tuple('"{[') for key in ("title", "abstract"))  # as texts or as {"value": text}
        or (o.depth == objects[0].depth and o.fields.get("title") == '"' and len(LIST_KEYS & o.fields.keys()) >= 2)
        for o in objects
    )


def document(paper: dict, place: Place) -> Document:
    """Fields of `content` count as the paper's own; API 2 writes them as {"value": ...}. A note's id names its paper at
    OpenReview; elsewhere `id` is only the list's own."""
    content, number = _content(paper), paper.get("id")
    fields = {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in {**paper, **content}.items()}
    is_note = content and isinstance(number, str) and number
    return arxiv.document(fields, place, f"openreview:{number}" if is_note else "")


def records(stream: TextIO) -> Iterator[dict | str]:
    for record in iter_records(stream):
        if isinstance(record, str):
            yield record
            continue
        papers = _papers([record], MAX_DEPTH)
        yield next(papers, instead("no title, and no list of papers in it", record))
        yield from papers


def _papers(value: dict | list, depth: int) -> Iterator[dict | str]:
    """The papers in a list or an object; an item among papers that contains none is a message."""
    inner = value if isinstance(value, list) else [v for k, v in value.items() if k != "content"]
    beside_papers = any(map(_is_paper, inner))
    for item in inner:
        found = _is_paper(item)
        if found:
            yield item
            if "abstract" in item or "abstract" in _content(item):
                continue  # items in a paper (its reviews) are no papers; one without an abstract may head a list
        if depth and isinstance(item, dict | list):
            for paper in _papers(item, depth - 1):
                found = True
                yield paper
        if beside_papers and not found and (isinstance(value, list) or isinstance(item, dict)):
            yield f"a {type(item).__name__} without a title among the papers"


def _is_paper(value: object) -> bool:
    return isinstance(value, dict) and ("title" in value or "title" in _content(value))


def _content(paper: dict) -> dict:
    return object_in(paper.get("content"))
