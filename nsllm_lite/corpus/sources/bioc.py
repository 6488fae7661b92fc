"""BioC, as XML and as JSON: full text of PubMed Central, abstracts of PubMed, and PubTator's exports of both.

A passage says what it is (`section_type`, `type`). Kept and left out as in JATS (see `jats`): no figures, tables,
captions, footnotes, references or back matter. BioC prints citations without marking them; "[3]" counts as one where
the paper lists so many references, and superscript numbers, which BioC runs into the word before them, stay.
Annotations are not read. The infons of the first passage state authors, year and identifiers.

Source: Comeau et al. 2013 (doi:10.1093/database/bat064); BioC API for PMC, www.ncbi.nlm.nih.gov/research/bionlp/APIs.
"""

import re
from collections.abc import Iterator
from typing import TextIO

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.elements import iter_elements, raw_text, xml_root
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import Place, Unread, first_sign
from nsllm_lite.corpus.files.outline import Outline
from nsllm_lite.corpus.files.records import iter_listed
from nsllm_lite.corpus.stated.dates import as_date
from nsllm_lite.corpus.stated.moves import labelled
from nsllm_lite.corpus.stated.names import as_name, as_names
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, different
from nsllm_lite.formats.documents import Document, Section

MAX_VENUE = 1_000  # characters
LISTS = ("documents", "PubTator3")  # of the documents in a collection
BODY = frozenset(
    ("INTRO", "METHODS", "RESULTS", "DISCUSS", "CONCL", "CASE", "SUBJECT", "PARAGRAPH", "BODY", "UNKNOWN", "")
)
KINDS = {"DISCUSS": "discussion", "CONCL": "conclusions", "PARAGRAPH": "", "BODY": "", "UNKNOWN": "", "SUBJECT": ""}
_LEFT_OUT = re.compile(r"fig|table|footnote|ref\b|supp|caption")  # types of passages that are no text of the body
OF_KINDS = {"front": "title", "keywords": "keyword", "kwd": "keyword", "abstract_title_1": "abstract"}  # sections
_BODY_KIND = re.compile(r"title_\d|paragraph|para|")
_LEVEL = re.compile(r"title(?:_(\d))?")
_MARKS = re.compile(r"BioC\.dtd|<passage>|<infon ")
_OF_JOURNAL = re.compile(r"[.;,]? ?(?:(?:19|20)\d\d\b).*", re.DOTALL)  # "J Tin. 2019 Mar 12;3:4": what follows its name


def recognise(head: str) -> bool:
    if head[0] == "<":
        return xml_root(head) in ("collection", "document") and bool(_MARKS.search(head))
    if '"passages"' not in head or '"infons"' not in head:
        return False
    return any(fields.get("passages") == "[" for _, fields in objects_in(head))


def records(stream: TextIO) -> Iterator[dict | str]:
    first, whole = first_sign(stream)
    if first == "<":
        yield from (
            found if isinstance(found, str) else _of_xml(found) for found in iter_elements(whole, ("document",))
        )
        return
    yield from iter_listed(whole, lambda answer: next((v for k in LISTS if isinstance(v := answer.get(k), list)), None))


def _of_xml(element: etree._Element) -> dict:
    passages = []
    for passage in element.iterfind("passage"):
        texts = passage.findall("text") or passage.findall("sentence/text")
        passages.append({"infons": _infons(passage), "text": " ".join(map(raw_text, texts))})
    return {"id": element.findtext("id", ""), "infons": _infons(element), "passages": passages}


def _infons(element: etree._Element) -> dict[str, str]:
    return {infon.get("key", ""): raw_text(infon) for infon in element.iterfind("infon")}


def document(record: dict, place: Place) -> Document | Unread:
    passages = [_Passage(one) for one in objects_of(record, "passages")]
    if not passages:
        return place.unread(instead("no passages in the record", record))
    title = next((one for one in passages if one.section == "TITLE"), None)
    references = [one for one in passages if one.section == "REF" and one.kind != "title"]
    stated = {**object_in(record.get("infons")), **passages[0].infons, **(title.infons if title else {})}
    moves, abstract = _abstract(one for one in passages if one.section == "ABSTRACT")
    return place.paper(
        **_ids(record, stated, has_body=any(one.section in BODY for one in passages))._asdict(),
        title=title.text if title else "",
        abstract=abstract,
        sections=_sections(passages, len(references)),
        moves=moves,
        date=as_date(text_in(stated.get("year"))),
        authors=_authors(stated) or as_names(text_in(stated.get("authors")).strip(" ,")),
        venue=_venue(text_in(stated.get("journal-title")) or text_in(stated.get("journal"))),
        keywords=_keywords(passages, stated),
        references=different(map(_reference, references)),
    )


def _venue(stated: str) -> str:
    """The journal's name, without what may follow it."""
    return _OF_JOURNAL.sub("", " ".join(stated[:MAX_VENUE].split()))


class _Passage:
    def __init__(self, passage: dict):
        self.infons = object_in(passage.get("infons"))
        texts = [text_in(passage.get("text"))]
        if not texts[0]:
            texts = [text_in(sentence.get("text")) for sentence in objects_of(passage, "sentences")]
        self.text = " ".join(" ".join(texts).split())
        self.kind = text_in(self.infons.get("type")).lower()
        section = text_in(self.infons.get("section_type")) or text_in(self.infons.get("section"))
        section = section or ("" if _BODY_KIND.fullmatch(self.kind) else OF_KINDS.get(self.kind, self.kind))
        self.section = section.upper().strip()


def _ids(record: dict, stated: dict, has_body: bool) -> identity.Ids:
    """Those of the infons. The number of a document that is an abstract alone is its PMID, others may be of PMC."""
    number = record.get("id")
    number = str(number) if isinstance(number, str | int) else ""
    stated_ids = {key.removeprefix("article-id_"): v for key, v in stated.items() if str(key).startswith("article-id_")}
    if number.upper().startswith("PMC"):
        stated_ids.setdefault("pmc", number)
    elif number.isdecimal() and not has_body and not stated_ids.get("pmid"):
        stated_ids["pmid"] = number
    return identity.ids_of({"ids": stated_ids})


def _authors(stated: dict) -> tuple[str, ...]:
    """Of name_0, name_1 and so on: "surname:Ito;given-names:Kenji"."""
    named = {int(key[5:]): text_in(stated[key]) for key in stated if re.fullmatch(r"name_[0-9]{1,5}", str(key))}
    names = []
    for number in sorted(named):
        parts = dict(part.partition(":")[::2] for part in named[number].split(";"))
        names.append(as_name(*(parts.get(key, "") for key in ("surname", "given-names", "suffix"))))
    return different(names)


def _keywords(passages: list[_Passage], stated: dict) -> tuple[str, ...]:
    """Of passages of their own, or of the infon where signs part them: PMC's is one line of words."""
    words = [one.text for one in passages if one.section == "KEYWORD" and not one.kind.startswith("title")]
    line = text_in(stated.get("kwd"))
    return as_terms(*words, *([line] if re.search("[;,]", line) else []), parted=";,")


def _reference(passage: _Passage) -> str:
    """By its id, else its title, which is the passage's text, else authors and place in the journal."""
    infons = passage.infons
    ids = {key: text_in(infons.get(f"pub-id_{key}")) for key in ("doi", "pmid", "arxiv")}
    place = (text_in(infons.get(key)) for key in ("source", "year", "volume", "fpage"))
    return as_reference(", ".join(filter(None, (*_authors(infons), *place))), **ids, title=passage.text)


def _abstract(passages: Iterator[_Passage]) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text); the moves are the parts of an abstract with headings of their own."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for passage in passages:
        if "title" in passage.kind:
            parts.append((passage.text, []))
        elif not _LEFT_OUT.search(passage.kind) and passage.text:
            parts[-1][1].append(passage.text)
    return labelled(parts)


def _sections(passages: list[_Passage], num_references: int) -> tuple[Section, ...]:
    outline, before = Outline(), ""
    for passage in passages:
        if passage.section not in BODY or _LEFT_OUT.search(passage.kind) or not passage.text:
            continue
        kind = KINDS.get(passage.section, passage.section.lower())
        if level := _LEVEL.fullmatch(passage.kind):
            outline.begin(passage.text, level=int(level[1] or 1), kind=kind)
        else:
            if kind != before:
                outline.begin("", parents=(), kind=kind)  # its heading is lost
            outline.add(citations.settle(citations.mark_bracketed(passage.text, num_references)))
        before = kind
    return outline.sections()
