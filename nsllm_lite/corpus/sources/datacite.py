"""Records of DataCite as JSON: answers of its API, its public data file, and its own JSON of one work.

Texts are papers: articles, preprints, reports, theses and what states no kind. Data sets, software, pictures and other
kinds are named in the ledger (`not_a_paper`).

Source: DataCite Metadata Schema 4.6 (schema.datacite.org), support.datacite.org/docs/api-get-doi.
"""

from functools import partial
from typing import Any

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import NOT_A_PAPER, Place, Unread
from nsllm_lite.corpus.files.records import iter_listed
from nsllm_lite.corpus.stated.dates import as_date, dated
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, as_text, different
from nsllm_lite.formats.documents import Document

SIGNS = frozenset(("creators", "publicationYear", "publication_year", "descriptions", "types", "schemaVersion"))
PAPERS = frozenset(
    ("", "text", "journalarticle", "conferencepaper", "preprint", "report", "dissertation", "thesis", "bookchapter",
     "book", "datapaper", "peerreview", "outputmanagementplan", "conferenceproceeding", "studyregistration", "other")
)  # fmt: skip
CITING = ("References", "Cites")


def recognise(head: str) -> bool:
    if '"titles"' not in head:
        return False
    found = (fields for _, fields in objects_in(head) if fields.get("titles") == "[")
    return any(fields.get("descriptions") == "[" or len(SIGNS & fields.keys()) > 1 for fields in found)


def _works(answer: dict) -> Any:
    """Those of a list, or the only one."""
    return [answer["data"]] if isinstance(answer.get("data"), dict) else answer.get("data")


records = partial(iter_listed, listed=_works)


def document(record: dict, place: Place) -> Document | Unread:
    work = object_in(record.get("attributes")) or record
    titles = objects_of(work, "titles")
    if not titles:
        return place.unread(instead("no titles in the record", work))
    types = object_in(work.get("types"))
    kind = text_in(types.get("resourceTypeGeneral"))
    if kind.lower().replace(" ", "") not in PAPERS:
        return place.unread(f"of the kind {kind!r}: {text_in(titles[0].get('title'))[:60]!r}", NOT_A_PAPER)
    others = (*objects_of(work, "identifiers"), *objects_of(work, "alternateIdentifiers"))
    stated_ids = {
        _first(one, "identifierType", "alternateIdentifierType"): _first(one, "identifier", "alternateIdentifier")
        for one in others
    }
    ids = identity.ids_of({"doi": work.get("doi") or record.get("id"), "ids": stated_ids})
    subjects = objects_of(work, "subjects")
    return place.paper(
        **ids._asdict(),
        title=_main(titles, "title", "titleType"),
        abstract="\n\n".join(_abstracts(work)),
        language=text_in(work.get("language")),
        date=_date(work),
        authors=as_names([_author(one) for one in objects_of(work, "creators")]),
        venue=text_in(object_in(work.get("container")).get("title")) or _series(work) or as_text(work.get("publisher")),
        categories=as_terms(*(one.get("subject") for one in subjects if one.get("subjectScheme"))),
        keywords=as_terms(*(one.get("subject") for one in subjects if not one.get("subjectScheme")), parted=";"),
        references=different(
            _reference(one) for one in objects_of(work, "relatedIdentifiers") if one.get("relationType") in CITING
        ),
    )


def _first(record: dict, *keys: str) -> str:
    return next(filter(None, (text_in(record.get(key)) for key in keys)), "")


def _main(titles: list[dict], key: str, kind: str) -> str:
    """The title that has no kind (subtitles, translated ones and others have), in English where there are several."""
    own = [one for one in titles if not one.get(kind)] or titles
    own = [one for one in own if text_in(one.get("lang")).lower().startswith("en")] or own
    return next(filter(None, (text_in(one.get(key)) for one in own)), "")


def _abstracts(work: dict) -> list[str]:
    found = [one for one in objects_of(work, "descriptions") if one.get("descriptionType") == "Abstract"]
    english = [one for one in found if text_in(one.get("lang")).lower().startswith("en")]
    return list(filter(None, (text_in(one.get("description")) for one in english or found)))[: 1 if english else None]


def _date(work: dict) -> str:
    dates = {text_in(one.get("dateType")): as_date(one.get("date")) for one in reversed(objects_of(work, "dates"))}
    issued = dates.get("Issued") or dates.get("Available") or ""
    return dated(work.get("publicationYear") or work.get("publication_year"), issued) or issued


def _author(creator: dict) -> dict:
    family, given = text_in(creator.get("familyName")), text_in(creator.get("givenName"))
    return {"family": family, "given": given} if family else {"name": text_in(creator.get("name"))}


def _series(work: dict) -> str:
    found = (one for one in objects_of(work, "relatedItems") if one.get("relationType") == "IsPublishedIn")
    return next((_main(objects_of(one, "titles"), "title", "titleType") for one in found), "")


def _reference(related: dict) -> str:
    kind, value = text_in(related.get("relatedIdentifierType")), text_in(related.get("relatedIdentifier"))
    return as_reference(value, **{kind.lower(): value} if kind in ("DOI", "PMID", "arXiv") else {})
