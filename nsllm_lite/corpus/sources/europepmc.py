"""Europe PMC's answers to a search, as JSON (`resultList`), and the single results in them.

`resultType=core` has abstracts, keywords and MeSH headings; the lite ones have no abstract, and are dropped for it.
The headings of a structured abstract (`<h4>Methods</h4>`) become moves, whatever words they are made of; without
headings, labels do as in MEDLINE. Categories are the major topics among the MeSH headings.

Source: https://europepmc.org/RestfulWebService (module `search`)
"""

import re
from functools import partial
from typing import Any

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.records import iter_listed
from nsllm_lite.corpus.sources.medline import bare_title, category_of, moves_of
from nsllm_lite.corpus.stated.moves import labelled
from nsllm_lite.corpus.stated.records import stated_in
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document

SIGNS = frozenset(("pmid", "pmcid", "authorString", "journalInfo", "firstPublicationDate", "pubYear", "source"))
_HEADING = re.compile(r"<h4>([^<>]{1,80})</h4>", re.IGNORECASE)


def recognise(head: str) -> bool:
    if not any(f'"{name}"' in head for name in ("hitCount", "abstractText", "authorString")):
        return False
    return any(
        ("hitCount" in fields and {"resultList", "result"} & fields.keys())
        or ("title" in fields and "abstractText" in fields and SIGNS & fields.keys())
        or ("title" in fields and "authorString" in fields and {"pmid", "pmcid", "source"} & fields.keys())
        for _, fields in objects_in(head)
    )


def _results(answer: dict) -> Any:
    """Those of a search, or the only one."""
    single = object_in(answer.get("result"))
    return [single] if single else object_in(answer.get("resultList")).get("result")


records = partial(iter_listed, listed=_results)


def document(result: dict, place: Place) -> Document | Unread:
    if "title" not in result:
        return place.unread(instead("no result with a title", result))
    moves, abstract = _abstract(text_in(result.get("abstractText")))
    database, number = text_in(result.get("source")), str(result.get("id") or "")
    pmid = result.get("pmid") or (number if database == "MED" else "")
    ids = identity.ids_of({**result, "pmid": pmid, "id": None})
    headings = objects_of(object_in(result.get("meshHeadingList")), "meshHeading")
    topics = [text_in(one.get("descriptorName")) for one in headings if one.get("majorTopic_YN") == "Y"]
    return place.paper(
        arxiv=ids.arxiv,
        pmid=ids.pmid,
        doi=ids.doi,
        accession=ids.accession or (f"europepmc:{database}/{number}" if database and number else ""),
        title=bare_title(text_in(result.get("title"))),
        abstract=abstract,
        moves=moves,
        language=text_in(result.get("language")),
        **stated_in(result) | {"venue": _venue(result), "categories": as_terms(*topics, parted="")},
    )


def _abstract(text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text), by its headings, or where it has none by labels as in MEDLINE."""
    before, *parts = _HEADING.split(text)
    if not parts:
        return moves_of(text)
    labels = (category_of(" ".join(label.strip(" :").split())) for label in parts[::2])
    told = zip(("", *labels), (before, *parts[1::2]), strict=True)
    return labelled((label, list(filter(None, [" ".join(one.split())]))) for label, one in told)


def _venue(result: dict) -> str:
    journal, report = object_in(object_in(result.get("journalInfo")).get("journal")), result.get("bookOrReportDetails")
    names = (journal.get("title"), result.get("journalTitle"), object_in(report).get("publisher"))
    return next(filter(None, map(text_in, names)), "")
