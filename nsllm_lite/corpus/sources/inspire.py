"""Records of INSPIRE's API as JSON: answers to a search, single records, and their metadata alone.

Of several titles and abstracts the first counts. DOI, journal and year are those of the publication where the record
states which they belong to (`material`), and never those of an erratum.

Source: INSPIRE's schema `hep.json` (inspire-schemas.readthedocs.io), github.com/inspirehep/rest-api-doc.
"""

from functools import partial
from typing import Any

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import DELETED, Place, Unread
from nsllm_lite.corpus.files.records import iter_listed
from nsllm_lite.corpus.stated.dates import first_date
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, different
from nsllm_lite.formats.documents import Document

SIGNS = frozenset(("abstracts", "arxiv_eprints", "inspire_categories", "control_number", "document_type", "citeable"))
BESIDE = ("addendum", "additional material", "data", "editorial note", "erratum", "part", "software")  # materials
PUBLISHED = {"publication": 0, "": 1}


def recognise(head: str) -> bool:
    if '"titles"' not in head:
        return False
    found = (fields for _, fields in objects_in(head) if fields.get("titles") == "[")
    return any(fields.get("abstracts") == "[" or len(SIGNS & fields.keys()) > 1 for fields in found)


records = partial(iter_listed, listed=lambda answer: object_in(answer.get("hits")).get("hits"))


def document(record: dict, place: Place) -> Document | Unread:
    paper = object_in(record.get("metadata")) or record
    number = paper.get("control_number")
    accession = f"inspire:{number}" if isinstance(number, int) else ""
    if paper.get("deleted") is True:
        return place.unread(f"{accession or 'a record without number'} is marked deleted", DELETED)
    if not objects_of(paper, "titles"):
        return place.unread(instead("no titles in the record", paper))
    eprints, journals = objects_of(paper, "arxiv_eprints"), _of_paper(objects_of(paper, "publication_info"))
    dois = [one.get("value") for one in _of_paper(objects_of(paper, "dois"))]
    ids = identity.ids_of({"arxiv": [one.get("value") for one in eprints], "doi": dois})
    subjects = [term for one in eprints for term in as_terms(one.get("categories"))]
    return place.paper(
        arxiv=ids.arxiv,
        doi=ids.doi,
        accession=accession,
        title=next(filter(None, map(_title, objects_of(paper, "titles"))), ""),
        abstract=next(iter(_values(paper, "abstracts")), ""),
        discipline=identity.discipline_of(" ".join(subjects)),
        language=next(iter(as_terms(paper.get("languages"))), ""),
        date=_date(paper, journals),
        authors=_authors(paper),
        venue=next((text_in(one.get("journal_title")) for one in journals if one.get("journal_title")), ""),
        categories=different(subjects)
        or as_terms(*(one.get("term") for one in objects_of(paper, "inspire_categories"))),
        keywords=as_terms(*(one.get("value") for one in objects_of(paper, "keywords") if not one.get("schema"))),
        references=different(map(_reference, objects_of(paper, "references"))),
    )


def _values(paper: dict, key: str) -> list[str]:
    return list(filter(None, (text_in(one.get("value")) for one in objects_of(paper, key))))


def _of_paper(stated: list[dict]) -> list[dict]:
    """What is stated of the paper itself, of its publication first, and not of what stands beside it."""
    own = [one for one in stated if one.get("material") not in BESIDE]
    return sorted(own, key=lambda one: PUBLISHED.get(text_in(one.get("material")), len(PUBLISHED)))


def _title(stated: dict) -> str:
    title, subtitle = text_in(stated.get("title")), text_in(stated.get("subtitle"))
    return f"{title}: {subtitle}" if title and subtitle else title


def _authors(paper: dict) -> tuple[str, ...]:
    """Authors, or the organisation that signs in their place, and collaborations; no editors and supervisors."""
    roles = ((one, as_terms(one.get("inspire_roles"))) for one in objects_of(paper, "authors"))
    people = [one for one, stated in roles if not stated or "author" in stated]
    groups = [f"{one} Collaboration" if " " not in one else one for one in _values(paper, "collaborations")]
    return as_names([one.get("full_name") for one in people] or paper.get("corporate_author")) + tuple(groups)


def _date(paper: dict, journals: list[dict]) -> str:
    """Of the imprint, of the thesis, of the preprint, the earliest that the record knows, or the journal's year."""
    known: list[Any] = [one.get("date") for one in objects_of(paper, "imprints")]
    known += [object_in(paper.get("thesis_info")).get("date"), paper.get("preprint_date"), paper.get("earliest_date")]
    return first_date([*known, *(one.get("year") for one in journals[:1])])


def _reference(entry: dict) -> str:
    cited = object_in(entry.get("reference")) or entry
    dois, misc = (one if isinstance(one, list) else [] for one in (cited.get("dois"), cited.get("misc")))
    doi = next(filter(None, map(text_in, dois)), "")
    title = text_in(object_in(cited.get("title")).get("title"))
    raw = (text_in(one.get("value")) for one in objects_of(entry, "raw_refs") if one.get("schema") == "text")
    printed = next(filter(None, raw), "") or " ".join(filter(None, [*map(text_in, misc), *_journal(cited)]))
    return as_reference(printed, doi=doi, arxiv=text_in(cited.get("arxiv_eprint")), title=title)


def _journal(cited: dict) -> list[str]:
    journal = object_in(cited.get("publication_info"))
    return [str(journal[key]) for key in ("journal_title", "journal_volume", "page_start", "year") if journal.get(key)]
