"""JATS full text, as PMC, PLOS and eLife publish it: title, abstract, and the sections with their headings.

Kept: paragraphs, lists, quotations, formulas as text, citations by name, numbered citations that the sentence needs
("as in [3]"), "Figure 2" and "Table 1" where the text says so. Left out: figures and tables with their captions,
footnotes, boxes, supplementary files, appendices, references, other numbered citations, equation numbers.
"""

from collections.abc import Iterator
from typing import TextIO

from lxml import etree

from nsllm_lite.corpus.files.elements import iter_elements, text_of
from nsllm_lite.corpus.files.opening import UNREADABLE, Unread, read_each
from nsllm_lite.corpus.files.sniff import xml_root
from nsllm_lite.document import Document, Section

FIGURES = frozenset(("fig", "fig-group", "table-wrap", "table-wrap-group", "graphic", "inline-graphic", "media"))
EXTRAS = frozenset(("fn", "fn-group", "supplementary-material", "inline-supplementary-material", "boxed-text"))
SKIP = FIGURES | EXTRAS | {"object-id", "label", "caption", "sec"}
BLOCKS = frozenset(
    ("p", "list", "disp-quote", "disp-formula", "disp-formula-group", "def-list", "statement", "verse-group", "speech")
)


def recognise(head: str) -> bool:
    return xml_root(head) in ("article", "pmc-articleset")


def read(stream: TextIO, source: str, file: str) -> Iterator[Document | Unread]:
    def make(article: etree._Element, origin: str) -> Document | Unread:
        meta = article.find("front/article-meta")
        if meta is None:
            return Unread(origin, UNREADABLE, "the article has no front matter (article-meta)")
        moves, abstract = _abstract(meta)
        body = article.find("body")
        return Document(
            id=_name(meta) or f"{source}:{origin}",
            source=source,
            origin=origin,
            title=text_of(meta.find("title-group/article-title"), SKIP | {"xref"}),
            abstract=abstract,
            sections=tuple(_sections(body, (), "")) if body is not None else (),
            moves=moves,
        )

    return read_each(iter_elements(stream, ("article",)), file, make)


def _name(meta: etree._Element) -> str:
    """PMID first, since PubMed's own records of the same paper carry it."""
    ids = {e.get("pub-id-type"): (e.text or "").strip() for e in meta.iterfind("article-id")}
    if ids.get("pmid"):
        return f"pmid:{ids['pmid']}"
    if ids.get("doi"):
        return f"doi:{ids['doi'].lower()}"
    pmc = ids.get("pmc") or ids.get("pmcid")
    return f"pmc:{pmc.removeprefix('PMC')}" if pmc else ""


def _abstract(meta: etree._Element) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text) of the main abstract: the one without a type, so not the author summary or the digest."""
    main = next((a for a in meta.iterfind("abstract") if not a.get("abstract-type")), None)
    if main is None:
        return (), ""
    moves = []
    for section in main.iterfind("sec"):
        text = " ".join(_blocks(section))
        if text:
            moves.append((text_of(section.find("title"), SKIP).rstrip(":"), text))
    return tuple(moves), "\n\n".join([*_blocks(main), *([" ".join(t for _, t in moves)] if moves else [])])


def _sections(parent: etree._Element, path: tuple[str, ...], kind: str) -> Iterator[Section]:
    """Sections in reading order, each before its own subsections, which inherit its kind (sec-type)."""
    if parent.tag == "body" and (loose := list(_blocks(parent))):
        yield Section("", "\n\n".join(loose))
    for section in parent.iterfind("sec"):
        heading = text_of(section.find("title"), SKIP)
        own_kind = section.get("sec-type") or kind
        text = "\n\n".join(_blocks(section))
        if text or section.find("sec") is not None:
            yield Section(heading, text, path, own_kind)
        yield from _sections(section, (*path, heading), own_kind)


def _blocks(parent: etree._Element) -> Iterator[str]:
    """The paragraphs that stand directly in a section; a list gives one line an item."""
    for child in parent:
        if child.tag not in BLOCKS:
            continue
        text = "\n".join(_items(child)) if child.tag == "list" else text_of(child, SKIP)
        if text:
            yield text


def _items(parent: etree._Element) -> Iterator[str]:
    """A line for each item of a list and of the lists within it."""
    for item in parent.iterfind("list-item"):
        text = text_of(item, SKIP | {"list"})
        if text:
            yield f"- {text}"
        for inner in item.iterfind("list"):
            yield from _items(inner)
