"""Identifiers of papers (arXiv, PubMed, Web of Science, Scopus), and the disciplines of their categories."""

import re
import tomllib
from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources

from nsllm_lite.formats.documents import as_doi

MAX_ID_CHARS = 300
ARXIV_DOI = "10.48550/arxiv."

_ARXIV_ID = re.compile(
    r"(?P<prefix>(?:https?://)?(?:\w+\.)?arxiv\.org/(?:abs|pdf|html)/|(?:oai:)?arxiv(?:\.org)?:\s*)?"
    r"(?:(?P<new>[0-9]{2}(?:0[1-9]|1[0-2])\.[0-9]{4,5})|(?P<archive>[a-z-]+)(?:\.[a-z-]+)?/(?P<old>[0-9]{7}))"
    r"(?:v[0-9]+)?(?:\.pdf)?(?:\s*\[[\w.-]+\])?",
    re.IGNORECASE | re.ASCII,
)
_WITHOUT_ZERO = re.compile(r"(?:(?P<first>[7-9])|1[5-9]|[2-9][0-9])(?:0[1-9]|1[0-2])\.[0-9]{4}", re.ASCII)
_LEAD = re.compile(r"\Aarxiv[-_:]?", re.IGNORECASE)
_BEFORE_NUMBER = re.compile(r"(?<=[A-Za-z])[-_]?(?=[0-9]{7}(?:v[0-9]+)?$)")  # a file name cannot hold "hep-th/9901001"
_SCOPUS = re.compile(r"[?&]eid=(2-s2\.0-\d+)")
_ACCESSION = re.compile(r"(?:WOS|ISI|MEDLINE):\w")
_CATEGORY = re.compile(r"\b[a-z][\w.-]*")

_DISCIPLINES = tomllib.loads(resources.files(__package__).joinpath("disciplines.toml").read_text(encoding="utf-8"))
_OF_ARCHIVES = {archive: field for field, names in _DISCIPLINES["archives"].items() for archive in names.split()}
_OF_AREAS = {
    area: field for field, names in _DISCIPLINES["areas"].items() for area in " ".join(names.split()).split("; ")
}


def first(read: Callable[[str], str], texts: Iterable[str]) -> str:
    """The first result of `read` on `texts` that is not empty, or ""."""
    return next(filter(None, map(read, texts)), "")


def arxiv_id(text: str, bare: bool = True) -> str:
    """The arXiv id in `text` (a number alone if `bare`, a URL, after `arXiv:`, arXiv's own DOI), or "".

    Without version and subject class, so that v1 in one file and v3 in another are the same paper. A number alone that
    lost a zero as a float (704.0001, 2101.0021: from 2015 on there are five digits) has it again.
    """
    text = text[: MAX_ID_CHARS + 1].strip()
    if bare and (lost := _WITHOUT_ZERO.fullmatch(text)):
        text = f"0{text}" if lost["first"] else f"{text}0"
    doi = as_doi(text)
    found = _ARXIV_ID.fullmatch(f"arXiv:{doi.removeprefix(ARXIV_DOI)}" if doi.startswith(ARXIV_DOI) else text)
    if not found or not (bare or found["prefix"]):
        return ""
    if found["new"]:
        return found["new"]
    archive = found["archive"].lower()
    return f"{archive}/{found['old']}" if archive in _OF_ARCHIVES else ""


marked_arxiv_id = partial(arxiv_id, bare=False)  # for fields that contain other ids too


def arxiv_id_in_name(name: str, folder: str) -> str:
    """The arXiv id in the name of a file without its ending, alone ("hep-th9901001") or with that of its folder."""
    return arxiv_id(_BEFORE_NUMBER.sub("/", _LEAD.sub("", name))) or arxiv_id(f"{folder}/{name}")


def accession_of(number: str) -> tuple[str, str]:
    """(PMID, accession number with its database): "ISI:0001" is "wos:0001" of old, "MEDLINE:12" is PMID 12."""
    database, colon, rest = number.partition(":")
    if not colon:
        return "", f"wos:{number}" if number else ""
    database = database.lower()
    return (rest, "") if database == "medline" else ("", f"{'wos' if database == 'isi' else database}:{rest}")


def stated_accession(number: str, url: str) -> tuple[str, str]:
    """(PMID, accession number) where `number` says whose it is, or `url` leads to the paper's page at Scopus."""
    if _ACCESSION.match(number):
        return accession_of(number)
    scopus = _SCOPUS.search(url)
    return "", f"scopus:{scopus[1]}" if scopus else ""


def discipline_of(categories: str) -> str:
    """The broad field of the first word that is a category or an archive of arXiv, or ""."""
    words = _CATEGORY.findall(categories[:1000])
    return first(lambda word: _OF_ARCHIVES.get(word) or _OF_ARCHIVES.get(word.split(".")[0], ""), words)


def discipline_of_areas(areas: str) -> str:
    """The broad field of the first of Web of Science's areas that has one, or "".

    "Physics, Applied" counts as physics, engineering has none.
    """
    stated = map(str.strip, areas.lower().split(";"))
    return first(lambda area: _OF_AREAS.get(area) or _OF_AREAS.get(area.partition(",")[0], ""), stated)
