"""OpenAlex: answers of its API (`results`), single works, and the JSON lines of its snapshot.

The abstract is put together from `abstract_inverted_index`, {word: its places in the text}. Authors, venue and the
works that are cited (as OpenAlex's addresses) are those of the work. Its topics and keywords, which OpenAlex assigns
by a model, are categories. A work that OpenAlex also found
at arXiv has arXiv's id.

Source: https://docs.openalex.org/api-entities/works/work-object
"""

import json
from functools import partial
from typing import Any

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.records import iter_listed
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.terms import as_references, as_terms
from nsllm_lite.formats.documents import Document

SIGNS = frozenset(("abstract_inverted_index", "authorships", "referenced_works", "primary_location", "primary_topic"))
INDEX = "abstract_inverted_index"


def recognise(head: str) -> bool:
    """By a title and one field that only works have: a work's abstract may stand far behind its beginning."""
    if not any(f'"{sign}"' in head for sign in SIGNS):
        return False
    return any({"title", "display_name"} & fields.keys() and SIGNS & fields.keys() for _, fields in objects_in(head))


records = partial(iter_listed, listed=lambda answer: answer.get("results"))


def document(work: dict, place: Place) -> Document | Unread:
    if not {"title", "display_name", INDEX} & work.keys():
        return place.unread(instead("no work", work))
    try:
        abstract = text_in(work.get("abstract")) or text_of(work.get(INDEX))
    except (ValueError, RecursionError) as error:
        return place.unread(f"its {INDEX} cannot be read: {error}")
    places = [object_in(work.get("primary_location")), *objects_of(work, "locations")]
    ids = identity.ids_of({"ids": [work.get("ids"), work.get("doi"), work.get("id")]})
    pages = (text_in(one.get(key)) for one in places for key in ("landing_page_url", "pdf_url"))
    topics = objects_of(work, "topics") or objects_of(work, "concepts")
    return place.paper(
        arxiv=ids.arxiv or identity.first(identity.marked_arxiv_id, pages),
        pmid=ids.pmid,
        doi=ids.doi,
        accession=ids.accession,
        title=text_in(work.get("title")) or text_in(work.get("display_name")),
        abstract=abstract,
        discipline=identity.discipline_of_areas(_name(object_in(work.get("primary_topic")).get("field"))),
        language=text_in(work.get("language")),
        date=dated(work.get("publication_year"), text_in(work.get("publication_date"))),
        authors=tuple(filter(None, map(_author, objects_of(work, "authorships")))),
        venue=next(filter(None, map(_venue, (*places, object_in(work.get("host_venue"))))), ""),
        categories=as_terms(*map(_name, topics), work.get("keywords"), parted=""),
        references=as_references(work.get("referenced_works")),
    )


def text_of(index: Any) -> str:
    """The text of which `index` has the places of each word; also as text, and as Microsoft Academic had it.

    Raises:
        ValueError: it is no such index.
    """
    if isinstance(index, str):
        index = json.loads(index) if index.strip() else None
    index = object_in(object_in(index).get("InvertedIndex")) or index
    if index is None:
        return ""
    if not isinstance(index, dict):
        raise ValueError(f"a {type(index).__name__} where {{word: places}} is needed")  # caught by document
    words = [(at, word) for word, places in index.items() for at in (places if isinstance(places, list) else [places])]
    if not all(isinstance(at, int) for at, _ in words):
        raise ValueError("a place that is no whole number")  # caught by document
    return " ".join(word for _, word in sorted(words))


def _name(entity: Any) -> str:
    return text_in(object_in(entity).get("display_name"))


def _author(authorship: dict) -> str:
    return _name(authorship.get("author")) or text_in(authorship.get("raw_author_name"))


def _venue(place: dict) -> str:
    return _name(place.get("source")) or text_in(place.get("raw_source_name")) or _name(place)
