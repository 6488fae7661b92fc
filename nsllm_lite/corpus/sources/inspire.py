"""Records of INSPIRE's API as JSON: answers to a search, single records, and their metadata alone.

Of several titles and abstracts the first counts, but for those in another language (`language`, or a translation).

Source: INSPIRE's schema `hep.json` (inspire-schemas.readthedocs.io), github.com/inspirehep/rest-api-doc.
"""

from functools import partial
from typing import Any

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.records import iter_listed
from nsllm_lite.corpus.stated.dates import as_date, first_date
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, different
from nsllm_lite.formats.documents import Document

SIGNS = frozenset(("abstracts", "arxiv_eprints", "inspire_categories", "control_number", "document_type", "citeable"))


def recognise(head: str) -> bool:
    if '"titles"' not in head:
        return False
    found = (fields for _, fields in objects_in(head) if fields.get("titles") == "[")
    return any(fields.get("abstracts") == "[" or len(SIGNS & fields.keys()) > 1 for fields in found)


records = partial(iter_listed, listed=lambda answer: object_in(answer.get("hits")).get("hits"))


def document(record: dict, place: Place) -> Document | Unread:
    paper = object_in(record.get("metadata")) or record
    if not objects_of(paper, "titles"):
        return place.unread(instead("no titles in the record", paper))
    eprints, journals = objects_of(paper, "arxiv_eprints"), objects_of(paper, "publication_info")
    ids = identity.ids_of({"arxiv": [one.get("value") for one in eprints], "doi": _values(paper, "dois")})
    subjects = [term for one in eprints for term in as_terms(one.get("categories"))]
    number = paper.get("control_number")
    groups = [f"{one} Collaboration" if " " not in one else one for one in _values(paper, "collaborations")]
    return place.paper(
        arxiv=ids.arxiv,
        doi=ids.doi,
        accession=f"inspire:{number}" if isinstance(number, int) else "",
        title=_chosen(objects_of(paper, "titles"), "title"),
        abstract=_chosen(objects_of(paper, "abstracts"), "value"),
        discipline=identity.discipline_of(" ".join(subjects)),
        language=next(iter(as_terms(paper.get("languages"))), ""),
        date=_date(paper, journals),
        authors=as_names(
            [one.get("full_name") for one in objects_of(paper, "authors")] or paper.get("corporate_author")
        )
        + tuple(groups),
        venue=next((text_in(one.get("journal_title")) for one in journals if one.get("journal_title")), ""),
        categories=different(subjects)
        or as_terms(*(one.get("term") for one in objects_of(paper, "inspire_categories"))),
        keywords=as_terms(*(one.get("value") for one in objects_of(paper, "keywords") if not one.get("schema"))),
        references=different(map(_reference, objects_of(paper, "references"))),
    )


def _values(paper: dict, key: str) -> list[str]:
    return list(filter(None, (text_in(one.get("value")) for one in objects_of(paper, key))))


def _chosen(stated: list[dict], key: str) -> str:
    own = [one for one in stated if text_in(one.get("language")) in ("", "en")] or stated
    return next(filter(None, (text_in(one.get(key)) for one in own)), "")


def _date(paper: dict, journals: list[dict]) -> str:
    """Of the journal where it is finer than a year, of the preprint, or the earliest that the record knows."""
    printed = [as_date({key: one.get(key) for key in ("year", "month", "day")}) for one in journals[:1]]
    issued = [as_date(one.get("date")) for one in objects_of(paper, "imprints")]
    known: list[Any] = [paper.get("preprint_date"), paper.get("earliest_date")]
    return first_date([*issued, *known, *printed])


def _reference(entry: dict) -> str:
    cited = object_in(entry.get("reference")) or entry
    dois, misc = (one if isinstance(one, list) else [] for one in (cited.get("dois"), cited.get("misc")))
    doi = next(filter(None, map(text_in, dois)), "")
    title = text_in(object_in(cited.get("title")).get("title"))
    journal = object_in(cited.get("publication_info"))
    printed = [text_in(one) for one in misc] + [
        str(journal[key]) for key in ("journal_title", "journal_volume", "page_start", "year") if journal.get(key)
    ]
    return as_reference(" ".join(filter(None, printed)), doi=doi, arxiv=text_in(cited.get("arxiv_eprint")), title=title)
