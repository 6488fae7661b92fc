"""What a flat JSON record states of its paper, under the names that arXiv and other services give the fields.

The date is that of publication, or of arXiv's first version; `update_date` and `created` of a service's own entry are
none. Categories are those of the source's scheme (arXiv's, Semantic Scholar's fields of study, Crossref's subjects, an
OpenReview list's primary area), keywords the authors'.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from nsllm_lite.corpus.stated.dates import as_date, dated
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_categories, as_references, as_terms, as_text

T = TypeVar("T")

_DATES = (
    "published", "publication_date", "publicationDate", "publicationdate", "published_date", "date_published",
    "datePublished", "issued",
    "published-print", "published-online", "onlineDate", "date", "pub_date", "pubDate", "pubdate", "publish_time",
    "firstPublicationDate", "coverDate", "date_submitted", "submitted_date", "submitted", "pdate", "cdate", "tcdate",
)  # fmt: skip
_YEARS = ("year", "publicationYear", "publication_year", "pubYear", "yearPublished", "published_year", "year_published")
_AUTHORS = ("authors", "author", "authorships", "creators", "creator", "authorList", "author_names", "authorString")
_VENUES = (
    "journal-ref", "journal_ref", "journal_reference", "venue", "journal", "container-title", "container_title",
    "publicationName", "publication_title", "publicationTitle", "journal_title", "journalTitle", "booktitle",
    "publicationVenue", "host_venue", "primary_location", "source_title", "conference", "journals", "journalInfo",
    "pub", "server",
)  # fmt: skip
_CATEGORIES = (
    "subject", "subjects", "s2FieldsOfStudy", "fieldsOfStudy", "fields_of_study", "s2fieldsofstudy", "primary_area",
    "topics", "concepts", "category",
)  # fmt: skip
_KEYWORDS = ("keywords", "keyword", "author_keywords", "index_terms", "keywordList", "tags")
_REFERENCES = ("references", "reference", "bib_entries", "referenced_works", "cited_references")


class _Plan(NamedTuple):
    """Of the fields that hold one thing, those that records with certain keys have; the records of a file are alike."""

    dates: tuple[str, ...]
    years: tuple[str, ...]
    authors: tuple[str, ...]
    venues: tuple[str, ...]
    categories: tuple[str, ...]
    keywords: tuple[str, ...]
    references: tuple[str, ...]


@lru_cache(maxsize=64)
def _plan(names: tuple[str, ...]) -> _Plan:
    kinds = (_DATES, _YEARS, _AUTHORS, _VENUES, _CATEGORIES, _KEYWORDS, _REFERENCES)
    return _Plan(*(tuple(key for key in keys if key in names) for keys in kinds))


def stated_in(record: dict) -> dict[str, Any]:
    """The fields of a `Document` that the record states."""
    plan = _plan(tuple(record))
    parsed = record.get("authors_parsed")
    return {
        "date": _date(record, plan),
        "authors": (as_names(parsed, parsed=True) if parsed else ()) or _first(as_names, record, plan.authors, ()),
        "venue": _first(as_text, record, plan.venues, ""),
        "categories": _categories(record, plan),
        "keywords": _first(as_terms, record, plan.keywords, ()),
        "references": _first(as_references, record, plan.references, ()),
    }


def _first(read: Callable[[Any], T], record: dict, keys: tuple[str, ...], empty: T) -> T:
    for key in keys:
        if (value := record[key]) and (found := read(value)):
            return found
    return empty


def _date(record: dict, plan: _Plan) -> str:
    versions = record.get("versions")
    is_listed = versions and isinstance(versions, list) and isinstance(versions[0], dict)
    if is_listed and (first := as_date(versions[0].get("created"))):
        return first
    found = _first(as_date, record, plan.dates, "")
    year = _first(as_date, record, plan.years, "")
    if year:
        parts = (record.get(key) for key in ("month", "day"))
        return dated(year, " ".join(str(part) for part in parts if isinstance(part, str | int)), found)
    return found


def _categories(record: dict, plan: _Plan) -> tuple[str, ...]:
    """All that it states, with the primary one first."""
    primary, stated = record.get("primary_category"), record.get("categories")
    if primary or stated:
        return as_categories(primary, stated)
    return _first(as_terms, record, plan.categories, ())
