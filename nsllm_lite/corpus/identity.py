"""Identifiers of papers (arXiv, PubMed, Web of Science, Scopus), and the disciplines of their categories."""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from importlib import resources
from itertools import chain
from typing import NamedTuple

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
SHA1_CHARS = 40
MAX_IDS = 50  # in one list
_SIGNS = re.compile(r"[\W_]+")
_KINDS = {"arxivid": "arxiv", "eprint": "arxiv", "pubmed": "pmid", "pubmedid": "pmid", "med": "pmid", "medline": "pmid"}
_KINDS |= {"pmcid": "pmc", "pubmedcentral": "pmc", "corpusid": "s2", "entryid": "id", "paperid": "id"}
_NAMES = "id ids url urls uri link doi dois identifier identifiers externalid externalids articleid articleids openalex"
ID_FIELDS = frozenset((*_NAMES.split(), *_KINDS, *_KINDS.values()))
_ADDRESSES = frozenset(("url", "urls", "uri", "link", "links"))
_OWN = (ID_FIELDS | {"openalex"}) - _ADDRESSES - {"id", "ids", "identifier", "identifiers"}
_VIEW = re.compile(
    r"(?:\.full)?(?:\.pdf|\.full)(?:[?#].*)?$", re.IGNORECASE
)  # of a paper, behind its DOI in an address
_LABELS = ("type", "idtype", "idType", "id_type", "IdType", "identifierType", "pub-id-type", "scheme", "kind")
_VALUES = ("id", "value", "identifier", "text", "#text", "$", "@value", "url")
_BARE = {"pmid": re.compile(r"([0-9]{1,9})(?:\.0)?"), "pmc": re.compile(r"(?:PMC)?([0-9]{1,9})(?:\.\d+)?", re.I)}
_BARE |= {"s2": re.compile("([0-9]{1,12})"), "openalex": re.compile("(?:works/)?(w[0-9]{4,12})", re.I)}
_MARKED = re.compile(
    r"(?:(?:info:|urn:)?pmid[:/]?\s*|https?://(?:www\.)?(?:pubmed\.ncbi\.nlm\.nih\.gov/|ncbi\.nlm\.nih\.gov/(?:m/)?pubmed/|"
    r"europepmc\.org/(?:abstract|article)/med/|identifiers\.org/pubmed[:/]))(?P<pmid>[0-9]{1,9})/?"
    r"|(?:pmcid:?\s*|https?://(?:www\.)?(?:ncbi\.nlm\.nih\.gov/pmc/articles/|pmc\.ncbi\.nlm\.nih\.gov/articles/|"
    r"europepmc\.org/(?:articles|article/pmc)/))(?:pmc)?(?P<pmc>[0-9]{1,9})(?:\.\d+)?/?|pmc(?P<pmc_>[0-9]{1,9})(?:\.\d+)?"
    r"|(?:corpusid:\s*|https?://(?:www\.|api\.)?semanticscholar\.org/(?:[\w-]+/){0,3}(?:corpusid:)?)"
    r"(?P<s2>[0-9]{1,12}|[0-9a-f]{40})"
    r"|(?:https?://(?:api\.)?openalex\.org/(?:works/)?|openalex:\s*)(?P<openalex>w[0-9]{4,12})",
    re.IGNORECASE | re.ASCII,
)
_SCOPUS = re.compile(r"[?&]eid=(2-s2\.0-\d+)")
_ACCESSION = re.compile(r"(?:WOS|ISI|MEDLINE):\w")
_PUBMED = ("nlm", "pubmed", "medline")
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
    return _arxiv_id(text[: MAX_ID_CHARS + 1].strip(), bare)


@lru_cache(maxsize=16)  # one id of a record is often in several of its fields
def _arxiv_id(text: str, bare: bool) -> str:
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


class Ids(NamedTuple):
    """What names a paper, as `Place.paper` takes it; empty where it is not stated."""

    arxiv: str = ""
    pmid: str = ""
    doi: str = ""
    accession: str = ""  # in PubMed Central, Semantic Scholar or OpenAlex


def ids_of(record: Mapping[str, object]) -> Ids:
    """The identifiers in the fields of a record that are known to hold some, in whatever form they are stated.

    A value is a text ("10.1/x", "https://doi.org/10.1/x", "PMID: 1", "arXiv:2001.00001v2", an address at PubMed,
    OpenAlex or Semantic Scholar), a number where the field says of what, a list of these, or an object: of kinds
    ({"ArXiv": "2001.00001"}) or one identifier with its kind ({"type": "doi", "id": "10.1/x"}). Fields that name a kind
    come first, and addresses last; a list of these is read only of a paper that has no identifier else.
    """
    own: list[tuple[str, str]] = []
    lists: list[tuple[str, object]] = []
    for name, kind in _id_fields(tuple(record)):
        value = record[name]
        if kind in _ADDRESSES and isinstance(value, list | tuple) and len(value) > 1:
            lists.append((kind, value))
        else:
            own += identify(kind, value)
    return first_of(own or chain.from_iterable(identify(*one) for one in lists))


@lru_cache(maxsize=64)  # the records of a file are alike
def _id_fields(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(name, kind) of the fields that are known to hold identifiers: of one kind, of any, and addresses."""
    kinds = ((name, _kind_of(str(name)[:MAX_ID_CHARS])) for name in names)
    known = [(name, kind) for name, kind in kinds if kind in ID_FIELDS]
    return tuple(sorted(known, key=lambda field: (field[1] in _ADDRESSES, field[1] not in _OWN)))


def first_of(found: Iterable[tuple[str, str]]) -> Ids:
    """The first identifier of each kind."""
    first = dict(reversed(list(found)))
    database = next(filter(first.__contains__, ("pmc", "s2", "openalex")), "")
    accession = f"{database}:{first[database]}" if database else ""
    return Ids(first.get("arxiv", ""), first.get("pmid", ""), first.get("doi", ""), accession)


@lru_cache(maxsize=1024)
def _kind_of(name: str) -> str:
    return _SIGNS.sub("", name).lower()


def identify(kind: str, value: object) -> Iterator[tuple[str, str]]:
    """(what it is, the identifier as it is compared) of each in a field of this name or kind."""
    if value is None or value == "":
        return
    if isinstance(value, list | tuple):
        for member in value[:MAX_IDS]:
            yield from identify(kind, member)
    elif isinstance(value, dict):
        label = next((value[key] for key in _LABELS if isinstance(value.get(key), str)), "")
        own = next((value[key] for key in _VALUES if isinstance(value.get(key), str | int)), "")
        if label and own:
            yield from identify(_kind_of(label), own)
        else:
            for name, inner in value.items():
                yield from identify(_kind_of(str(name)[:MAX_ID_CHARS]), inner)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        text = str(value)[: MAX_ID_CHARS + 1].strip()
        kind = _KINDS.get(kind, kind)
        doi = as_doi(text) or (kind == "doi" and as_doi(text.partition(" ")[0]))  # arXiv names several in one field
        if doi:
            yield "doi", _VIEW.sub("", doi) if "://" in text and "doi.org/" not in text.lower() else doi
        if arxiv := arxiv_id(text, bare=kind in ("arxiv", "id")):
            yield "arxiv", arxiv
        elif marked := _MARKED.fullmatch(text):
            yield from _numbered(*next(one for one in marked.groupdict().items() if one[1]))
        elif kind in _BARE and (bare := _BARE[kind].fullmatch(text)):
            yield from _numbered(kind, bare[1])


def _numbered(kind: str, number: str) -> Iterator[tuple[str, str]]:
    """An accession number without leading zeros; 0 is none."""
    number = number.lower() if len(number) == SHA1_CHARS else number.lower().lstrip("0")
    if number:
        yield kind.rstrip("_"), number


def arxiv_id_in_name(name: str, folder: str) -> str:
    """The arXiv id in the name of a file without its ending, alone ("hep-th9901001") or with that of its folder."""
    return arxiv_id(_BEFORE_NUMBER.sub("/", _LEAD.sub("", name))) or arxiv_id(f"{folder}/{name}")


def accession_of(number: str) -> tuple[str, str]:
    """(PMID, accession number with its database): "ISI:0001" is "wos:0001" of old, "MEDLINE:12" is PMID 12."""
    database, colon, rest = number.partition(":")
    if not colon:
        return "", f"wos:{number}" if number else ""
    database = database.lower()
    return (
        (rest.lstrip("0"), "") if database == "medline" else ("", f"{'wos' if database == 'isi' else database}:{rest}")
    )


def stated_accession(number: str, url: str) -> tuple[str, str]:
    """(PMID, accession number) where `number` says whose it is, or `url` leads to the paper's page at Scopus."""
    if _ACCESSION.match(number):
        return accession_of(number)
    scopus = _SCOPUS.search(url)
    return "", f"scopus:{scopus[1]}" if scopus else ""


def exported_ids(doi: object, others: object, number: str, url: str, databases: Iterable[str]) -> Ids:
    """Those in an export of a reference manager: `number` names the paper in a database, which itself, the address of
    the paper or the names of `databases` tell."""
    pmid, accession = stated_accession(number, url)
    ids = ids_of({"doi": doi, "ids": others})
    of_pubmed = number if any(map(is_pubmed, databases)) else ""
    return ids._replace(pmid=pmid or ids.pmid or of_pubmed, accession=accession or ids.accession)


def is_pubmed(database: str) -> bool:
    """Whether accession numbers of the database of this name are PMIDs."""
    return database.lower() in _PUBMED


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
