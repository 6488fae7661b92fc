"""JATS full text, as PMC, PLOS and eLife publish it: title, abstract, and the sections with their headings.

Kept: all text of the body that is not named below: paragraphs, lists, quotations, statements, code, formulas as text
(or `[formula]` where only a picture is given), citations by name, numbered citations that the sentence needs ("as in
[3]"), "Figure 2" and "Table 1" where the text says so. Left out, always: figures and tables with their captions,
notes and all, footnotes, boxes, supplementary files, appendices, acknowledgements and other back matter, references,
other numbered citations, equation numbers; abstracts in other languages, and author summaries, digests, highlights;
sub-articles (reviews, replies, translations), but where the article has no body of its own and one of them has it.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import LANGUAGE, formula, iter_elements, text_of, xml_root
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.formats.documents import Document, Section

FIGURES = frozenset(("fig", "fig-group", "table-wrap", "table-wrap-group", "graphic", "inline-graphic", "media"))
EXTRAS = frozenset(("fn", "fn-group", "supplementary-material", "inline-supplementary-material", "boxed-text"))
SKIP = FIGURES | EXTRAS | {"object-id", "label", "caption", "sec"}
NO_BLOCKS = SKIP | {"title", "subtitle", "sec-meta", "ref-list", "sig-block", "permissions", "back", "ack", "app-group"}
ABSTRACTS = ("", "structured", "unstructured", "main", "abstract", "full", "scientific")  # types of the abstract proper
REVIEWS = frozenset(
    ("decision-letter", "reply", "referee-report", "reviewer-report", "editor-report", "author-comment", "response")
)

records = partial(iter_elements, tags=("article",))


def recognise(head: str) -> bool:
    return xml_root(head) in ("article", "pmc-articleset")


def document(article: etree._Element, place: Place) -> Document | Unread:
    """The paper of one `article`, whatever it was wrapped in."""
    meta = article.find("front/article-meta")
    if meta is None:
        return place.unread("the article has no front matter (article-meta)")
    language = (article.get(LANGUAGE) or "").strip().lower()
    moves, abstract = _abstract(meta, language)
    ids = identity.ids_of({"ids": {e.get("pub-id-type"): (e.text or "").strip() for e in meta.iterfind("article-id")}})
    papers = (article, *(s for s in article.iterfind("sub-article") if s.get("article-type") not in REVIEWS))
    body = next((b for p in papers if (b := p.find("body")) is not None), None)
    return place.paper(
        **ids._asdict(),
        title=text_of(meta.find("title-group/article-title"), SKIP | {"xref"}),
        abstract=abstract,
        sections=tuple(_sections(body)) if body is not None else (),
        moves=moves,
        language=language,
    )


def _abstract(meta: etree._Element, language: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text) of the abstract proper in the article's own language."""
    found = [a for a in meta.iterfind("abstract") if (a.get("abstract-type") or "").lower() in ABSTRACTS]
    found.sort(key=lambda a: (bool(a.get("abstract-type")), (a.get(LANGUAGE) or language).lower() != language))
    if not found:
        return (), ""
    moves = []
    for section in found[0].iterfind("sec"):
        text = " ".join(block for part in section.iter("sec") for block in _blocks(part))
        if text:
            moves.append((text_of(section.find("title"), SKIP).rstrip(":"), text))
    return tuple(moves), "\n\n".join([*_blocks(found[0]), *([" ".join(t for _, t in moves)] if moves else [])])


def _sections(parent: etree._Element, path: tuple[str, ...] = (), kind: str = "") -> Iterator[Section]:
    """Sections in reading order, each before its own subsections, which inherit its kind (sec-type). A title that
    stands alone among paragraphs begins a section beside the one it stands in."""
    own_title = parent.find("title") if parent.tag == "sec" else None
    own_heading = text_of(own_title, SKIP)
    parts: list[tuple[str, list[str]]] = [(own_heading, [])]
    for child in parent:
        if child.tag == "title" and child is not own_title:
            parts.append((text_of(child, SKIP), []))
        else:
            parts[-1][1].extend(_blocks([child]))
    for number, (heading, blocks) in enumerate(parts):
        if blocks or (number == 0 and parent.tag == "sec" and parent.find("sec") is not None):
            yield Section(heading, "\n\n".join(blocks), path, kind)
    for section in parent.iterfind("sec"):
        above = (*path, own_heading) if parent.tag == "sec" else path
        yield from _sections(section, above, section.get("sec-type") or kind)


def _blocks(elements: Iterable[etree._Element]) -> Iterator[str]:
    """The texts of those that are blocks and have any, as a section's children; a list gives one line an item."""
    for element in elements:
        if element.tag in NO_BLOCKS:
            continue
        if element.tag == "list":
            text = "\n".join(_items(element))
        else:
            text = formula(element) if element.tag == "disp-formula" else text_of(element, SKIP)
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
