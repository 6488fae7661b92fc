"""Keywords, categories, venues, languages and references, from the forms in which sources write them."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import resources
from itertools import chain
from typing import Any

from nsllm_lite.corpus.identity import ARXIV_DOI, arxiv_id, marked_arxiv_id
from nsllm_lite.corpus.stated.names import QUOTED
from nsllm_lite.corpus.texts.entities import unescape
from nsllm_lite.formats.documents import as_doi

MAX_DEPTH = 4  # of lists and objects around a text
MAX_CATEGORIES = MAX_DOI = 300  # characters

_CODES = tomllib.loads(resources.files(__package__).joinpath("languages.toml").read_text(encoding="utf-8"))["codes"]
_LANGUAGES: dict[str, str] = {}
for _line in " ".join(_CODES.split()).split("; "):
    _code, _, _names = _line.partition(" = ")
    _LANGUAGES |= dict.fromkeys((_code, *_names.split(", ")), _code)

_CATEGORY = re.compile(r"[a-z]{2,8}(?:-[a-z]{2,4})?(?:\.[A-Za-z]{2}|\.[a-z]{2,4}-[a-z]{2,4})?")  # of arXiv
_NAMES = ("display_name", "name", "term", "title", "category", "value", "label", "text", "terms", "keyword", "subject")
_NAMES += ("source", "tag", "descriptorname", "meshheading", "author_terms")
_DOI_IN = re.compile(r"\b10\.\d{4,9}/[^\s\"<>{},;|\\]+")
_ARXIV_IN = re.compile(r"arxiv(?:\.org/(?:abs|pdf)/|:\s*|\s+)([\w.-]{0,12}/?\d{4}\.?\d{3,5})", re.IGNORECASE)
_TITLES = ("article_title", "title", "volume_title", "series_title", "booktitle", "journal_title")
_PRINTED = ("unstructured", "bib_entry_raw", "raw_text", "raw", "text", "citation", "key", "id")


def as_language(text: str) -> str:
    """The ISO 639-1 code of the first language that `text` names, by a code or in English; "" where it names none."""
    text = text.strip().lower()
    if text in _LANGUAGES:
        return _LANGUAGES[text]
    for part in re.split(r"[;,/|+&()\[\]\"']|\band\b|\n", text[:100]):
        part = part.strip()
        if part in _LANGUAGES:
            return _LANGUAGES[part]
        if part[:2] in _LANGUAGES and re.fullmatch(r"[a-z]{2}[-_][a-z0-9_-]{2,12}", part):  # en-GB, zh_Hans
            return _LANGUAGES[part[:2]]
    return _LANGUAGES.get(text.partition(" ")[0], "")


def as_text(value: Any, depth: int = 0) -> str:
    """The one text that a field holds: of a list the first, of an object its name."""
    if isinstance(value, str):
        return " ".join(value.split())
    if depth == MAX_DEPTH:
        return ""
    if isinstance(value, dict):
        fields = {str(key).lower(): inner for key, inner in value.items()}
        return next(filter(None, (as_text(fields.get(key), depth + 1) for key in _NAMES)), "")
    if isinstance(value, list):
        return next(filter(None, (as_text(item, depth + 1) for item in value)), "")
    return ""


def as_terms(*values: Any, parted: str = ";,|") -> tuple[str, ...]:
    """Different terms in order; in a text they are parted by the first of the signs `parted` that is in it."""
    found: list[str] = []
    for value in values:
        if value.__class__ is list and all(item.__class__ is str for item in value):
            text = "\n".join(value)
            if not (";" in text or "&" in text or "[" in text or "  " in text or "；" in text):
                found += value  # most lists: nothing is to be parted in them
                continue
        found += _terms(value, parted, 0) if value else ()
    return different(term.strip(" .,;*") for term in found)


def _terms(value: Any, parted: str, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield from _split(value, parted) if value else ()
    elif depth == MAX_DEPTH:
        return
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, str):
                yield from _split(item, ";")
            else:
                yield from _terms(item, parted, depth + 1)
    elif isinstance(value, dict):
        fields = {str(key).lower(): inner for key, inner in value.items()}
        inner = next((fields[key] for key in _NAMES if fields.get(key)), None)
        yield from (inner,) if isinstance(inner, str) else _terms(inner, parted, depth + 1)


def _split(text: str, parted: str) -> Iterable[str]:
    text = " ".join(unescape(text).split())
    if text[:1] == "[" and text[-1:] == "]" and ("'" in text or '"' in text):
        return [a or b for a, b in QUOTED.findall(text)]
    text = text.replace("；", ";").replace("，", ",")
    if text[:1] == "[" and text[-1:] == "]" and "]" not in text[:-1]:
        text = text[1:-1]
    sign = next((sign for sign in parted if sign in text), None)
    return text.split(sign) if sign else (text,)


def as_categories(*values: Any) -> tuple[str, ...]:
    """Categories; a text of arXiv's is parted at blanks ("math.AG hep-th")."""
    stated = [value for value in values if value]
    apart = [_of_arxiv(value) if isinstance(value, str) and len(value) < MAX_CATEGORIES else () for value in stated]
    if all(apart):
        return different(chain.from_iterable(apart))
    return as_terms(*(list(words) or value for words, value in zip(apart, stated, strict=True)))


@lru_cache(maxsize=4096)  # a corpus has few different ones
def _of_arxiv(text: str) -> tuple[str, ...]:
    words = text.split()
    return different(words) if all(map(_CATEGORY.fullmatch, words)) else ()


def as_reference(text: str = "", *, doi: str = "", arxiv: str = "", pmid: str = "", title: str = "") -> str:
    """One reference: "doi:", "arxiv:" or "pmid:" with its id, else its title, else the `text` of the entry, in which
    a DOI or arXiv's id counts."""
    if doi and (found := as_doi(doi)):
        return _of_doi(found)
    if arxiv and (found := arxiv_id(arxiv)):
        return f"arxiv:{found}"
    pmid = pmid.strip().removesuffix(".0")
    if pmid.isascii() and pmid.isdigit():
        return f"pmid:{pmid}"
    if text and "10." in text and (inside := _DOI_IN.search(text)) and len(inside[0]) < MAX_DOI:
        found = inside[0].rstrip(".,:;'*")
        while found[-1] in ")]" and found.count(")") + found.count("]") > found.count("(") + found.count("["):
            found = found[:-1].rstrip(".,:;")
        if found := as_doi(found):
            return _of_doi(found)
    if text and ("rXiv" in text or "arxiv" in text):
        inside = _ARXIV_IN.search(text)
        found = (arxiv_id(inside[1].rstrip(".")) if inside else "") or marked_arxiv_id(text)
        if found:
            return f"arxiv:{found}"
    return " ".join((title or text).split())


def _of_doi(doi: str) -> str:
    arxiv = arxiv_id(doi) if doi.startswith(ARXIV_DOI) else ""
    return f"arxiv:{arxiv}" if arxiv else f"doi:{doi}"


def different(terms: Iterable[str]) -> tuple[str, ...]:
    """Those that are not empty, each once, in order."""
    return tuple(dict.fromkeys(filter(None, terms)))


def as_references(value: Any) -> tuple[str, ...]:
    """Different references in order: of a list or an object of entries, or of a text parted by ";"."""
    if isinstance(value, dict):
        value = list(value.values()) if all(isinstance(inner, dict) for inner in value.values()) else [value]
    if isinstance(value, str):
        value = _split(value, ";|")
    if not isinstance(value, list | tuple):
        return ()
    return different(map(_reference, value))


def cited(lines: Iterable[str]) -> tuple[str, ...]:
    """References as Web of Science prints them: "Ito K, 2001, J TIN, V3, P12, DOI 10.1000/tin.1"."""
    found: dict[str, None] = {}
    for line in lines:
        _, mark, doi = line.rpartition(" DOI ")
        if mark and doi.startswith("10.") and doi[-1] not in ".]" and " " not in doi and doi[3:8] != "48550":
            found[f"doi:{doi.lower()}"] = None
        else:
            found[as_reference(line) if mark or "10." in line or "rxiv" in line.lower() else line.strip()] = None
    found.pop("", None)
    return tuple(found)


def _reference(entry: Any) -> str:
    if isinstance(entry, str):
        return as_reference(entry)
    if not isinstance(entry, dict):
        return ""
    fields = {str(key).lower().replace("-", "_"): inner for key, inner in entry.items()}
    for inner in ("ids", "externalids", "other_ids", "attributes", "citedpaper"):
        if isinstance(fields.get(inner), dict):
            fields = {str(key).lower(): value for key, value in fields[inner].items()} | {
                key: value for key, value in fields.items() if value
            }
    doi, arxiv, pmid = (
        next(filter(None, (_id(fields.get(key)) for key in keys)), "")
        for keys in (("doi",), ("arxiv_id", "arxiv", "arxivid"), ("pubmed_id", "pubmed", "pmid", "medline"))
    )
    title = next(filter(None, (as_text(fields.get(key)) for key in _TITLES)), "")
    printed = next(filter(None, (as_text(fields.get(key)) for key in _PRINTED)), "")
    return as_reference(printed, doi=doi, arxiv=arxiv, pmid=pmid, title=title)


def _id(value: Any) -> str:
    value = value[0] if isinstance(value, list) and value else value
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
