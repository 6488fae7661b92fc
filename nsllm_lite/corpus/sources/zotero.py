"""Zotero's libraries: JSON of its API and of Better BibTeX, and its RDF.

Attachments, notes and annotations belong to their items and are no records. What the item is (a web page, a film) is
not judged: one without an abstract ends in the ledger as such.

Source: Zotero's item types and fields (api.zotero.org/schema), its translators "Zotero RDF" and "BetterBibTeX JSON".
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, TextIO

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import line_of, raw_text, xml_root
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import Place, Unread, first_sign
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.files.replies import iter_answers
from nsllm_lite.corpus.stated.dates import as_date
from nsllm_lite.corpus.stated.names import as_name, as_names
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document

NO_ITEMS = ("attachment", "note", "annotation")
VENUES = (
    "publicationTitle",
    "proceedingsTitle",
    "bookTitle",
    "conferenceName",
    "repository",
    "university",
    "institution",
)
# The roles of creators that are the main one in items of some type; each is that of authors.
MAIN = (
    "author", "artist", "cartographer", "creator", "director", "interviewee", "inventor", "performer", "podcaster",
    "presenter", "programmer", "sponsor",
)  # fmt: skip
RESOURCE, ABOUT = (f"{{http://www.w3.org/1999/02/22-rdf-syntax-ns#}}{name}" for name in ("resource", "about"))
NAMESPACE = "zotero.org/namespaces/export"


def recognise(head: str) -> bool:
    if head[0] == "<":
        return xml_root(head) == "RDF" and NAMESPACE in head
    objects = objects_in(head) if '"itemType"' in head else ()
    return any(fields.get("itemType") == '"' and "abstract" not in fields for _, fields in objects)


def records(stream: TextIO) -> Iterator[dict | str]:
    """Items as the API has them, with `id`s in the place of what RDF says in other words."""
    first, whole = first_sign(stream)
    yield from _of_rdf(whole) if first == "<" else _of_json(whole)


def document(item: dict, place: Place) -> Document | Unread:
    kind = text_in(item.get("itemType"))
    if not kind:
        return place.unread(instead("no item of Zotero", item))
    stated = {key: item.get(key) for key in ("DOI", "PMID", "PMCID", "url", "id")}
    ids = identity.ids_of({**_extra(item), "ids": [item.get("archiveID")], **stated})
    return place.paper(
        **ids._asdict(),
        title=text_in(item.get("title")),
        abstract=text_in(item.get("abstractNote")),
        language=text_in(item.get("language")),
        date=as_date(item.get("date")),
        authors=as_names(_authors(item)),
        venue=next(filter(None, (text_in(item.get(key)) for key in VENUES)), ""),
        keywords=as_terms(item.get("tags")),
    )


def _authors(item: dict) -> list[Any]:
    own = [one for one in objects_of(item, "creators") if one.get("creatorType", "author") in MAIN]
    return [
        {"family": c.get("lastName"), "given": c.get("firstName")} if c.get("lastName") else c.get("name") for c in own
    ]


def _extra(item: dict) -> dict[str, str]:
    """What users and importers write in `extra`, a line each: "PMID: 123", "arXiv:1901.00001 [cond-mat]"."""
    lines = (line.partition(":") for line in text_in(item.get("extra")).splitlines()[:50])
    kinds = {"doi": "doi", "pmid": "pmid", "pmcid": "pmc", "arxiv": "arxiv"}
    return {kinds[k.strip().lower()]: value.strip() for k, _, value in lines if k.strip().lower() in kinds}


def _of_json(stream: TextIO) -> Iterator[dict | str]:
    for record in iter_records(stream):
        listed = record.get("items") if isinstance(record, dict) and "itemType" not in record else None
        for one in listed if isinstance(listed, list) else [record]:
            item = object_in(one.get("data")) or one if isinstance(one, dict) else one
            if isinstance(item, dict) and item.get("itemType") in NO_ITEMS:
                continue
            yield item if isinstance(item, dict | str) else f"a {type(item).__name__} among the items"


def _of_rdf(stream: TextIO) -> Iterator[dict | str]:
    """The items of each RDF; a journal stands beside the items that appeared in it, or within one."""
    for rdf in iter_answers(stream, lambda _: ("RDF",), "no RDF is in the file"):
        if isinstance(rdf, str):
            yield rdf
            continue
        kinds = {one: one.findtext("itemType", "") for one in rdf}
        journals = {one.get(ABOUT): one for one, kind in kinds.items() if not kind}
        items = [one for one, kind in kinds.items() if kind and kind not in NO_ITEMS]
        yield from map(partial(_item, journals=journals), items)
        if not items:
            yield "no item is in the RDF"


def _item(element: etree._Element, journals: dict[str | None, etree._Element]) -> dict:
    parts = (next(iter(part), journals.get(part.get(RESOURCE))) for part in element.iterfind("isPartOf"))
    containers = sorted((one for one in parts if one is not None), key=lambda one: one.tag == "Series")
    stated = [one for place in (element, *containers) for one in place.iterfind("identifier")]
    ids = [line_of(one) for one in stated]
    people = (person for role in MAIN for person in element.iterfind(f"{role}s//Person"))
    names = [as_name(*(line_of(one.find(part)) for part in ("surname", "givenName"))) for one in people]
    return {
        "itemType": element.findtext("itemType", ""),
        "title": line_of(element.find("title")),
        "abstractNote": raw_text(element.find("abstract")).strip(),
        "language": line_of(element.find("language")),
        "date": line_of(element.find("date")),
        "creators": [{"name": name} for name in names if name],
        "publicationTitle": next(filter(None, (line_of(one.find("title")) for one in containers)), ""),
        "tags": [line_of(one) for one in element.iterfind("subject")],
        "extra": raw_text(element.find("description")),
        "id": [one.removeprefix("DOI ") for one in ids if not one.startswith(("ISSN", "ISBN"))],
    }
