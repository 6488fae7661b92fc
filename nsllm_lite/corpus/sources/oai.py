"""OAI-PMH: what repositories answer to a harvester, in the formats arXiv, arXivRaw, Dublin Core, JATS, and others that
have a title and an abstract. Read with or without namespaces, envelope and neighbours; also out of JSON records.

Each record is one document or one line in the ledger: deleted records, errors of the service, and answers that hold
no records (ListIdentifiers, Identify, ListSets, ListMetadataFormats) are named there.
"""

import re
from collections.abc import Iterator
from typing import TextIO

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import LANGUAGE, raw_text, text_of, xml_root
from nsllm_lite.corpus.files.opening import DELETED, Place, Unread
from nsllm_lite.corpus.files.replies import iter_answers, xml_heads
from nsllm_lite.corpus.sources import arxiv, jats
from nsllm_lite.corpus.stated.dates import as_date
from nsllm_lite.corpus.stated.names import as_name
from nsllm_lite.formats.documents import Document

NO_RECORD = "no record is in the answer"
MARC = "the record's metadata is MARC, which is not read"

NO_RECORD_VERBS = ("ListIdentifiers", "Identify", "ListSets", "ListMetadataFormats")
ANSWERED = ("record", "error", *NO_RECORD_VERBS)
BARE = ("arXiv", "arXivRaw", "dc")  # metadata saved without the records around it
ROOTS = ("OAI-PMH", "ListRecords", "GetRecord", "arXiv", "arXivRaw", *NO_RECORD_VERBS)
ROOTS_OF_MANY_KINDS = ("record", "records", "metadata", "dc")

_OF_OAI = re.compile(r"openarchives\.org/OAI|arxiv\.org/OAI|<(?:arXiv|arXivRaw)[\s>]|<identifier>\s*oai:")
_FIRST = re.compile(rf"<(?:[\w.-]{{1,60}}:)?({'|'.join(('record', *BARE))})[\s>]")
_TITLES = etree.XPath(".//title[not(ancestor::relatedItem)]")
_ABSTRACTS = [etree.XPath(f".//{tag}[not(ancestor::relatedItem)]") for tag in ("abstract", "description", "summary")]


def recognise(head: str) -> bool:
    roots = [(xml_root(xml), xml) for xml in xml_heads(head)]
    return any(root in ROOTS or (root in ROOTS_OF_MANY_KINDS and _OF_OAI.search(xml)) for root, xml in roots)


def _tags_of(head: str) -> tuple[str, ...]:
    first = _FIRST.search(head)
    return BARE if first and first[1] in BARE else ANSWERED


def records(stream: TextIO) -> Iterator[etree._Element | str]:
    """A MARC record is a `record` within the `record` of OAI: `iter_elements` gives a truncated one and a whole."""
    held = ""
    for item in iter_answers(stream, _tags_of, NO_RECORD):
        is_marc = not isinstance(item, str) and item.find("datafield") is not None
        if held and not is_marc:
            yield held
        held = item if isinstance(item, str) else ""
        if not held:
            yield MARC if is_marc else item
    if held:
        yield held


def document(record: etree._Element, place: Place) -> Document | Unread:
    if record.tag == "error":
        error = f"{record.get('code', 'without a code')} {text_of(record)}".strip()
        return place.unread(f"the service answered with an error: {error}")
    if record.tag in NO_RECORD_VERBS:
        return place.unread(f"an answer to {record.tag} holds no records")
    identifier = record.findtext("header/identifier", "").strip()
    if record.get("status") == "deleted" or record.find("header[1][@status='deleted']") is not None:
        return place.unread(f"{identifier or 'a record without identifier'} is marked deleted", DELETED)
    metadata = record.find("metadata")
    if metadata is None and record.find("header") is not None:
        return place.unread(f"{identifier}: the record has no metadata")
    metadata = record if metadata is None else metadata
    if not len(metadata):
        return place.unread(f"{identifier}: the metadata are empty".removeprefix(": "))
    article = metadata.find("article")
    if article is not None:
        return jats.document(article, place)
    titles = _TITLES(metadata)
    title = next(filter(_is_english, titles), titles[0] if titles else None)
    abstract = _abstract(metadata)
    if title is None and abstract is None:
        return place.unread(f"{identifier}: neither title nor abstract in the metadata ({metadata[0].tag})")
    stated = [identifier, *((e.text or "").strip() for e in metadata.iter("identifier"))]
    name = identity.arxiv_id(metadata.findtext(".//id", "") if metadata.find(".//categories") is not None else "")
    name = name or identity.first(identity.marked_arxiv_id, stated)
    fields = {
        "id": name,
        "title": text_of(title),
        "abstract": raw_text(abstract) if name else text_of(abstract),
        "categories": metadata.findtext(".//categories", "") or (_category(record) if name else ""),
        "doi": metadata.findtext(".//doi", "") or identity.ids_of({"ids": stated}).doi,
        **_stated(metadata),
        "language": (abstract.get(LANGUAGE) if abstract is not None else "") or metadata.findtext(".//language", ""),
    }
    accession = f"oai:{identifier.removeprefix('oai:')}" if identifier else ""
    return arxiv.document(fields, place, accession)


def _stated(metadata: etree._Element) -> dict[str, object]:
    """Date, authors, venue and subjects, in arXiv's two formats or in Dublin Core. Of several dates the earliest
    counts, since later ones are of revisions."""
    found: dict[str, list[etree._Element]] = {}
    for element in metadata.iter():
        found.setdefault(element.tag, []).append(element)

    def texts(*tags: str) -> list[str]:
        return [text for tag in tags for one in found.get(tag, ()) if (text := raw_text(one).strip())]

    names = [
        as_name(*(author.findtext(part, "") for part in ("keyname", "forenames", "suffix")))
        for author in found.get("author", ())
    ]
    dates = texts("created", "date", "publicationYear", "dateIssued")
    return {
        "date": "".join(dates[:1]) if "version" in found else min(filter(None, map(as_date, dates)), default=""),
        "authors": names or texts("creatorName" if "creatorName" in found else "creator") or "".join(texts("authors")),
        "journal-ref": "".join(texts("journal-ref", "source")[:1]),
        "subjects": [] if "categories" in found else texts("subject"),
    }


def _abstract(metadata: etree._Element) -> etree._Element | None:
    """The English one where languages are marked; among several the longest, since Dublin Core puts notes there too."""
    for find in _ABSTRACTS:
        found = [e for e in find(metadata) if e.get("descriptionType", "Abstract") == "Abstract" and _length(e)]
        found = [e for e in found if not (e.text or "").lstrip().startswith("Comment:")]  # arXiv's, on the files
        found = [e for e in found if _is_english(e)] or found
        if found:
            return max(found, key=_length)
    return None


def _is_english(element: etree._Element) -> bool:
    return element.get(LANGUAGE, "").lower().startswith("en")


def _length(element: etree._Element) -> int:
    return len(raw_text(element).strip())


def _category(record: etree._Element) -> str:
    """A set the record is in ("physics:hep-ex", "math:math:AG") as a category, where its sets are of one field."""
    sets = [".".join((e.text or "").strip().split(":")[-2:]) for e in record.iterfind("header[1]/setSpec")]
    return sets[0] if len(set(map(identity.discipline_of, sets))) == 1 else ""
