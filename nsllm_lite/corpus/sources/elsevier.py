"""Elsevier's full text as XML: answers of its article retrieval API, ConSyn's documents, and the articles in both.

The elements are renamed to those of JATS, so that what is kept and left out follows its rules (see `jats`): sections
with their headings, formulas, citations by name; no floats, captions, footnotes, text boxes, appendices, nomenclature,
acknowledgements, references, numbered citations. The abstract is the author's, else what the metadata describe;
highlights and graphical abstracts are left out. Of an article in a language that the recipe does not take, title,
abstract and keywords in one that it takes are read in their place, and no sections, which are not translated. Without
sections, and so an abstract alone, are answers in JSON, those without the right to the full text, and those whose text
is only that of a scanner (`rawtext`).

Source: Elsevier's journal article DTD 5 and common element pool (art520.dtd, common150), and the schema of its article
retrieval API (dev.elsevier.com/documentation/ArticleRetrievalAPI.wadl).
"""

import re
from collections.abc import Iterator
from typing import TextIO

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import in_language, language_of, line_of, text_of, xml_root
from nsllm_lite.corpus.files.objects import instead, object_in, objects_in, text_in
from nsllm_lite.corpus.files.opening import Place, Unread, first_sign
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.files.replies import iter_answers
from nsllm_lite.corpus.sources import jats
from nsllm_lite.corpus.stated.dates import dated, first_date
from nsllm_lite.corpus.stated.moves import labelled
from nsllm_lite.corpus.stated.names import as_name
from nsllm_lite.corpus.stated.terms import as_reference, as_references, as_terms
from nsllm_lite.formats.documents import Document, Section

ANSWER = "full-text-retrieval-response"
ARTICLES = ("article", "converted-article", "simple-article", "book-review", "exam")
ROOTS = (ANSWER, "document", "doc", *ARTICLES)  # ConSyn's documents, and those of its storage
WRAPPED = re.compile(rf"<(?:[\w.-]{{1,60}}:)?({ANSWER}|document|doc)[\s>]")
SIGNS = (
    "elsevier.com/xml/",
    "-//ES//DTD",
    "<ce:pii",
    "<ce:doi",
    "<ce:title",
    "<ce:section",
    "<ce:para",
    "<ce:abstract",
)
NOTHING = "no article is in the file"
AUTHORS_OWN = ("", "author")  # classes of the abstract proper; others are graphical, highlights, teasers, editors'
KEYWORDS = ("", "keyword")  # classes of the authors'; others are PACS, MSC, JEL, abbreviations
RENAMED = {
    "section": "sec", "section-title": "title", "para": "p", "simple-para": "p", "note-para": "p",
    "formula": "disp-formula",
    "figure": "fig", "table": "table-wrap", "footnote": "fn", "table-footnote": "fn", "textbox": "boxed-text",
    "e-component": "supplementary-material", "displayed-quote": "disp-quote", "br": "break", "hsp": "break",
    "inline-figure": "inline-graphic", "nomenclature": "glossary", "acknowledgment": "ack", "appendices": "app-group",
    "bibliography": "ref-list", "def-description": "p", "intra-ref": "ext-link",
}  # fmt: skip
GLYPHS = {"sbnd": "–", "dbnd": "=", "tbnd": "≡"}  # bonds, for which Elsevier has no character
_CITED = re.compile(r"b(?:b|ib|r)?\d+", re.IGNORECASE)  # ids of references: bib1, bb0005, b0010, BR3
_OF_FOOTNOTE = re.compile(r"(?:fn|tblfn|aep-|cor)")
_PII = re.compile(r"[A-Za-z0-9]{16,17}")


def recognise(head: str) -> bool:
    if head[0] == "<":
        is_jats = "<front>" in head or "<front " in head
        return xml_root(head) in ROOTS and any(sign in head for sign in SIGNS) and not is_jats
    objects = objects_in(head) if '"coredata"' in head else ()
    return any(fields.get("coredata") == "{" and "originalText" in fields for _, fields in objects)


def _tags_of(head: str) -> tuple[str, ...]:
    wrapped = WRAPPED.search(head)
    return (wrapped[1],) if wrapped else ARTICLES


def records(stream: TextIO) -> Iterator[etree._Element | dict | str]:
    first, whole = first_sign(stream)
    yield from iter_records(whole) if first in ("{", "[") else iter_answers(whole, _tags_of, NOTHING)


def document(record: etree._Element | dict, place: Place) -> Document | Unread:
    """The paper of one answer, document or article."""
    if isinstance(record, dict):
        return _of_json(object_in(record.get(ANSWER)) or record, place)
    article = record if record.tag in ARTICLES else next(record.iter(*ARTICLES), None)
    core = record.find("coredata")
    if core is None:
        core = next(
            (d for d in record.iter("Description") if d.find("title") is not None or d.find("doi") is not None), None
        )
    if article is None and core is None:
        return place.unread("neither an article nor metadata (coredata) in the record")
    core = etree.Element("coredata") if core is None else core
    article = _unwrapped(record) if article is None else article
    language = language_of(article, line_of(core.find("language")))
    head = next((e for e in article if e.tag.endswith("head")), article)
    _rewrite(article)
    chosen, translation = _chosen(head, language, place.languages)
    moves, abstract = _abstract(chosen)
    body = article.find("body")
    return place.paper(
        **_ids(record, article, core)._asdict(),
        title=_title(head, core, translation),
        abstract=abstract or line_of(core.find("description")),
        sections=() if translation else tuple(_sections(article if body is None else body)),
        moves=moves,
        language=translation or language,
        date=_date(record, article, core),
        authors=_authors(head) or tuple(filter(None, map(line_of, core.iterfind("creator")))),
        venue=line_of(core.find("publicationName")) or line_of(record.find(".//meta/srctitle")),
        keywords=_keywords(head, translation or language)
        or as_terms(*map(line_of, core.iterfind("subject")), parted=";|"),
        references=as_references([_reference(one) for one in article.iter("bib-reference")]),
    )


def _of_json(answer: dict, place: Place) -> Document | Unread:
    """Title and abstract of an answer in JSON, whose text has no sections and runs into its references."""
    core = object_in(answer.get("coredata"))
    title, abstract, date, venue = (
        text_in(core.get(key)) for key in ("dc:title", "dc:description", "prism:coverDate", "prism:publicationName")
    )
    if not title:
        return place.unread(instead("no metadata (coredata) in the record", answer))
    ids = identity.ids_of({"doi": core.get("prism:doi"), "pmid": answer.get("pubmed-id")})
    accession = _accession(text_in(answer.get("scopus-eid")), text_in(core.get("pii")))
    return place.paper(
        **ids._replace(accession=accession or ids.accession)._asdict(),
        title=" ".join(title.split()),
        abstract=" ".join(abstract.split()),
        date=first_date([date]),
        authors=tuple(filter(None, _texts(core.get("dc:creator")))),
        venue=venue,
        keywords=as_terms(*_texts(core.get("dcterms:subject"))),
    )


def _texts(value: object) -> list[str]:
    """Of one or several, each a text, or an object with its attributes and its text."""
    return [text_in(object_in(one).get("$", one)) for one in (value if isinstance(value, list) else [value])]


def _unwrapped(record: etree._Element) -> etree._Element:
    """What stands in the place of an article, by its sections: a chapter of a book, or these alone; or nothing."""
    sections = next(record.iter("sections"), None)
    return etree.Element("article") if sections is None else sections.getparent()


def _ids(record: etree._Element, article: etree._Element, core: etree._Element) -> identity.Ids:
    info = article.find("item-info")
    places = [core, *([] if info is None else [info]), record]
    dois = [line_of(place.find("doi")) for place in places] + [line_of(record.find(".//meta/doi"))]
    ids = identity.ids_of({"doi": dois, "pmid": line_of(record.find("pubmed-id"))})
    pii = next(filter(None, (line_of(place.find("pii")) for place in places)), "")
    return ids._replace(accession=_accession(line_of(record.find("scopus-eid")), pii) or ids.accession)


def _accession(eid: str, pii: str) -> str:
    """The number at Scopus, else the publisher's own."""
    if eid.startswith("2-s2.0-"):
        return f"scopus:{eid}"
    pii = re.sub(r"\W", "", pii)
    return f"pii:{pii}" if _PII.fullmatch(pii) else ""


def _title(head: etree._Element, core: etree._Element, translation: str) -> str:
    """The article's title, or that of its translation, without which a translated abstract has none."""
    own = head.find("title") if head.tag != "originalText" else None
    if translation:
        own = next((one for one in head.iterfind("alt-title") if language_of(one)[:2] == translation[:2]), None)
    stated = "" if translation else line_of(core.find("title"))
    return text_of(own, jats.SKIP | {"xref", "cross-ref"}) or stated


def _date(record: etree._Element, article: etree._Element, core: etree._Element) -> str:
    """The cover's, which the metadata state to the day, else the year of the copyright."""
    meta = record.find(".//meta")
    covers = [line_of(core.find("coverDate")), line_of(core.find("coverDisplayDate"))]
    if meta is not None:
        covers += [line_of(meta.find(".//cover-date-start")), line_of(meta.find("available-online-date"))]
    copyright_of = article.find("item-info/copyright")
    return first_date(covers) or dated("" if copyright_of is None else copyright_of.get("year", ""))


def _authors(head: etree._Element) -> tuple[str, ...]:
    names = []
    for group in head.iterfind("author-group"):
        for one in group.iter("author", "collaboration"):
            if one.tag == "author":
                names.append(as_name(*(line_of(one.find(part)) for part in ("surname", "given-name", "suffix"))))
            else:
                names.append(line_of(one.find("text")))
    return tuple(filter(None, names))


def _keywords(head: etree._Element, language: str) -> tuple[str, ...]:
    """The authors' in the article's language."""
    groups = in_language([g for g in head.iterfind("keywords") if (g.get("class") or "") in KEYWORDS], language)
    return as_terms(*(line_of(word.find("text")) for group in groups for word in group.iter("keyword")))


def _reference(entry: etree._Element) -> dict[str, str]:
    """Of several works under one number the first; of what is not taken apart, the entry as printed."""
    doi = next((line_of(one) for one in entry.iter("doi")), "")
    links = (link.get(jats.HREF) or line_of(link) for link in entry.iter("inter-ref"))
    found = next(filter(None, map(as_reference, links)), "")
    arxiv = found.removeprefix("arxiv:") if found.startswith("arxiv:") else ""
    titles = (*entry.iterfind(".//contribution/title/maintitle"), *entry.iterfind(".//host//title/maintitle"))
    title = next(filter(None, map(line_of, titles)), "")
    printed = next((line_of(one) for tag in ("source-text", "textref") for one in entry.iter(tag)), "")
    return {"doi": doi, "arxiv": arxiv, "title": title} if doi or arxiv or title else {"text": printed}


def _rewrite(article: etree._Element) -> None:
    """Renames elements as in JATS, so that its rules read them."""
    known = {entry.get("id") for entry in article.iter("bib-reference")}
    for node in article.iter("cross-ref", "cross-refs", "glyph", *RENAMED):
        match node.tag:
            case "cross-ref" | "cross-refs":
                targets = (node.get("refid") or "").split()
                if targets and all(t in known or (not known and _CITED.fullmatch(t)) for t in targets):
                    node.set("ref-type", "bibr")
                    node.tag = "xref"
                elif targets and _OF_FOOTNOTE.match(targets[0]):
                    node.tag = "fn"
            case "glyph":
                node.text = GLYPHS.get(node.get("name", ""), " ")
            case tag:
                if tag == "section" and node.get("role"):
                    node.set("sec-type", node.get("role"))
                node.tag = RENAMED[tag]


def _chosen(head: etree._Element, language: str, wanted: tuple[str, ...]) -> tuple[etree._Element | None, str]:
    """(the author's abstract, the language that the article is translated into to be of use, mostly none)."""
    own = [a for a in head.iterfind("abstract") if (a.get("class") or "") in AUTHORS_OWN]
    found = [(one, language_of(one, language)) for one in own]
    return jats.wanted_of(sorted(found, key=lambda one: one[1][:2] != language[:2]), language, wanted)


def _abstract(own: etree._Element | None) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text) of the author's abstract; the moves are its parts where each has a heading."""
    if own is None:
        return (), ""
    parts = [(text_of(part.find("title"), jats.SKIP), list(jats.blocks_of(part))) for part in own.iter("abstract-sec")]
    return labelled(parts or [("", list(jats.blocks_of(own)))])


def _sections(body: etree._Element) -> Iterator[Section]:
    """The sections within `sections`, of which an article may have several, and what stands beside them."""
    flat = etree.Element("body")
    for child in list(body):
        if child.tag == "sections":
            flat.extend(list(child))
        elif child.tag in ("sec", "p"):
            flat.append(child)
    return jats.sections_of(flat)
