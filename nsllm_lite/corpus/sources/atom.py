"""Answers of arXiv's API: Atom feeds, as XML or kept inside JSON records."""

from functools import partial

from lxml import etree

from nsllm_lite.corpus.files.elements import raw_text, xml_root
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.replies import iter_answers, xml_heads
from nsllm_lite.corpus.sources import arxiv
from nsllm_lite.formats.documents import Document

NO_ENTRY = "the feed has no entry: the query found nothing"

records = partial(iter_answers, tags_of=lambda head: ("entry",), nothing=NO_ENTRY)


def recognise(head: str) -> bool:
    """Other feeds (news, blogs) are no papers."""
    return any("arxiv.org" in xml and xml_root(xml) in ("feed", "entry") for xml in xml_heads(head))


def document(entry: etree._Element, place: Place) -> Document | Unread:
    name, title, summary = (raw_text(entry.find(tag)) for tag in ("id", "title", "summary"))
    if "/api/errors" in name:
        return place.unread(f"arXiv answered with an error: {' '.join(summary.split())}")
    record = {
        "id": name,
        "title": title,
        "abstract": summary,
        "primary_category": [e.get("term", "") for e in entry.iterfind("primary_category")],
        "categories": [e.get("term", "") for e in entry.iterfind("category")],
        "doi": raw_text(entry.find("doi")),
        "published": entry.findtext("published", ""),
        "authors": [author.findtext("name", "") for author in entry.iterfind("author")],
        "journal-ref": raw_text(entry.find("journal_ref")),
    }
    return arxiv.document(record, place)
