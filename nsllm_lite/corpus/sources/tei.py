"""TEI full text: GROBID's output and its training files, and papers that archives publish as TEI.

GROBID sets its sections side by side and numbers their headings (`n="2.1"`); its training files and other flat texts
have the number in the heading or none. Nested divisions nest. Kept and left out as in JATS (see `jats`): no figures,
tables, notes, references or back matter; formulas stay, as the letters GROBID found or as TeX. Lines of print (`lb`)
are joined, and paragraphs that a formula, a figure or a page cut in two. A text without a title in its header takes
the title of its front, or has none.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import LANGUAGE, in_language, iter_elements, raw_text, text_of, xml_root
from nsllm_lite.corpus.files.linebreaks import BREAK, NO_BREAK, Lines
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.outline import Outline, printed_number
from nsllm_lite.corpus.stated.dates import first_date
from nsllm_lite.corpus.stated.moves import labelled
from nsllm_lite.corpus.stated.names import as_name
from nsllm_lite.corpus.stated.terms import as_references, as_terms
from nsllm_lite.formats.documents import Document, Section

ROOTS = ("TEI", "tei", "TEI.2", "teiCorpus", "teiCorpus.2")
DIVISIONS = frozenset(("div", *(f"div{n}" for n in range(8))))
CONTAINERS = frozenset(("text", "body", "group", "floatingText"))
PARAGRAPHS = frozenset(("p", "ab", "formula", "quote", "cit", "lg", "sp", "argument", "epigraph"))
OUT = frozenset(("figure", "table", "listBibl", "biblStruct", "biblFull", "back", "front", "facsimile"))
SKIP = OUT | {"note", "label", "fw", "graphic", "figDesc"}
BLOCKS = DIVISIONS | CONTAINERS | PARAGRAPHS | OUT | {"head", "list", "list-item"}
RENAMED = {"s": "p", "l": "p", "item": "list-item"}  # as `text_of` sets them apart; GROBID's sentences touch each other
_EMPTY_BRACKETS = re.compile(r" ?\( ?\) ?[,.]?$")  # where the number of a formula stood
_BULLET = re.compile(r"^[-–—•●▪■◦‣·*] +")

records = partial(iter_elements, tags=("TEI", "tei", r"TEI\.2"))


def recognise(head: str) -> bool:
    return xml_root(head) in ROOTS


def document(tei: etree._Element, place: Place) -> Document | Unread:
    header, text = tei.find("teiHeader"), tei.find("text")
    if header is None and text is None:
        return place.unread("neither a header (teiHeader) nor a text is in the TEI record")
    header = etree.Element("teiHeader") if header is None else header
    text = etree.Element("text") if text is None else text
    _rewrite(tei)
    lines = Lines(raw_text(tei))
    language = _language(tei, header, text)
    moves, abstract = _abstract(header, text, language, lines)
    stated = {idno.get("type") or "": (idno.text or "").strip() for idno in header.iter("idno")}
    ids = identity.ids_of({"ids": stated})
    return place.paper(
        **ids._asdict(),
        title=lines.join(_title(header, text, language)),
        abstract=abstract,
        sections=_Writer(lines).sections(text),
        moves=moves,
        language=language,
        **_stated(header, text),
    )


def _line(element: etree._Element | None) -> str:
    return " ".join(raw_text(element).replace(BREAK, " ").replace(NO_BREAK, "").split())


def _stated(header: etree._Element, text: etree._Element) -> dict[str, Any]:
    """What the header, or else the front, says of the paper, and the list of its references."""
    source = header.find("fileDesc/sourceDesc//biblStruct")
    places = [place for place in (source, header.find("fileDesc/titleStmt")) if place is not None]
    authors = next((found for place in places if (found := tuple(_authors(place)))), ())
    dates = [] if source is None else source.findall(".//date")
    dates += header.findall("fileDesc/publicationStmt//date")
    words = header.findall("profileDesc/textClass/keywords")
    own = [term for group in words for term in group.iter("term")] or words
    cited = (one for group in text.iter("listBibl") for one in group.iterchildren("biblStruct", "bibl", "biblFull"))
    return {
        "date": first_date(value for date in dates for value in (date.get("when"), _line(date))),
        "authors": authors,
        "venue": _line(None if source is None else source.find("monogr/title")),
        "categories": as_terms(*map(_line, header.iterfind("profileDesc/textClass/classCode")), parted=";"),
        "keywords": as_terms(*map(_line, own), parted=";,"),
        "references": as_references([_reference(one) for one in cited]),
    }


def _authors(place: etree._Element) -> Iterator[str]:
    for author in place.iter("author"):
        name = author.find("persName")
        name = author if name is None else name
        parts = {
            tag: " ".join(_line(part) for part in name.iterfind(tag)) for tag in ("surname", "forename", "genName")
        }
        written = as_name(*parts.values()) or _line(author.find("orgName")) or (_line(name) if not len(name) else "")
        if written:
            yield written


def _reference(entry: etree._Element) -> dict[str, str]:
    ids = {(idno.get("type") or "").lower(): _line(idno) for idno in entry.iter("idno")}
    for title in entry.iterfind("analytic/title"), entry.iterfind("monogr/title"), entry.iterfind("title"):
        if found := next(filter(None, map(_line, title)), ""):
            return ids | {"title": found}
    note = next((note for note in entry.iterfind("note") if note.get("type") == "raw_reference"), entry)
    return ids | {"text": _line(note)}


def _rewrite(tei: etree._Element) -> None:
    """Renames elements as in JATS, so that `text_of` writes them; ends of lines become marks."""
    for node in tei.iter("ref", "hi", "lb", "pb", "cb", "formula", *RENAMED):
        kind = (node.get("type") or node.get("rend") or "").lower()
        match node.tag:
            case "ref":
                if kind.startswith("bib"):
                    node.tag = "xref"
                    node.set("ref-type", "bibr")
                elif kind.startswith("foot"):
                    node.tag = "note"
                if node.tail and node.tail.lstrip()[:1] in tuple(".,;:)]"):
                    node.tail = node.tail.lstrip()  # GROBID sets a space after each
            case "hi":
                node.tag = "sup" if kind.startswith("sup") else "sub" if kind.startswith("sub") else "hi"
            case "lb" | "pb" | "cb":
                node.text = NO_BREAK if node.get("break") == "no" else BREAK if node.getparent().tag != "xref" else " "
            case "formula":
                tex = " ".join(raw_text(node).split())
                if (node.get("notation") or "").lower() in ("tex", "latex") and "$" not in tex:
                    node[:] = []
                    node.text = f"${tex}$"
            case tag:
                node.tag = RENAMED[tag]


def _language(tei: etree._Element, header: etree._Element, text: etree._Element) -> str:
    usage = [language.get("ident") for language in header.findall("profileDesc/langUsage/language")[:1]]
    stated = (text.get(LANGUAGE), tei.get(LANGUAGE), *usage, header.get(LANGUAGE))
    return next(filter(None, stated), "").strip().lower()


def _title(header: etree._Element, text: etree._Element, language: str) -> str:
    titles = [t for t in header.iterfind("fileDesc/titleStmt/title") if text_of(t)]
    main = [t for t in titles if t.get("type") in (None, "main")]
    if not titles:
        front = text.iterfind("front[1]//*")
        titles = [t for t in front if t.tag in ("titlePart", "docTitle", "title", "head") and text_of(t)]
    if not titles and text.find("body[1]/div") is not None:
        titles = text.findall("body[1]/head")  # above the divisions, so of the whole
    return text_of(next(iter(in_language(main or titles, language)), None), SKIP | {"xref"})


def _abstract(
    header: etree._Element, text: etree._Element, language: str, lines: Lines
) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text); the moves are the parts of an abstract with headings of their own."""
    found = header.findall("profileDesc/abstract")
    if not found:
        front = text.iterfind("front[1]//*")
        found = [d for d in front if d.tag == "abstract" or (d.tag in DIVISIONS and d.get("type") == "abstract")]
    abstract = next(iter(in_language(found, language)), None)
    parts = _Writer(lines).sections(abstract) if abstract is not None else ()
    return labelled((part.heading, [part.text]) for part in parts)


class _Writer:
    """Walks a text and fills an outline; holds back the last paragraph, which may continue after an interruption."""

    def __init__(self, lines: Lines):
        self._outline = Outline()
        self._lines = lines
        self._held: list[str] = []
        self._goes_on = False  # after a formula the sentence does, whatever sign it ends with

    def sections(self, parent: etree._Element) -> tuple[Section, ...]:
        self._walk(parent, ())
        self._flush()
        return self._outline.sections()

    def _walk(self, parent: etree._Element, path: tuple[str, ...]) -> None:
        headed = False
        for node in _blocks(parent):
            match node.tag:
                case "head":
                    own = self._begin(node, parent, path if not headed else path[:-1])
                    path, headed = (own, True) if parent.tag in DIVISIONS else (path, False)
                case "list" | "list-item":
                    self._add_list(node)
                case tag if tag in DIVISIONS or tag in CONTAINERS:
                    self._walk(node, path)
                case tag if tag in PARAGRAPHS:
                    self._add(node)

    def _flush(self) -> None:
        if self._held:
            self._outline.add("\n".join(map(self._lines.join, self._held)))
        self._held, self._goes_on = [], False

    def _begin(self, head: etree._Element, parent: etree._Element, path: tuple[str, ...]) -> tuple[str, ...]:
        self._flush()
        heading = self._lines.join(text_of(head, SKIP))
        level = head.get("level") or ""
        number = head.get("n") or parent.get("n") or printed_number(heading)
        return self._outline.begin(heading, number, int(level) if re.fullmatch("[1-9]", level) else 0, path or None)

    def _add(self, node: etree._Element) -> None:
        text = text_of(node, SKIP)
        is_formula = node.tag == "formula"
        if is_formula and node.find("label") is not None:
            text = _EMPTY_BRACKETS.sub("", text.rstrip(f" {BREAK}"))
        if not text.strip(BREAK):
            return
        before = self._held[-1].rstrip(f" {BREAK}") if self._held and not self._held[0].startswith("- ") else ""
        cut = text[0].islower() and (self._goes_on or before[-1:] not in tuple(".!?:;"))
        if before and (is_formula or cut):
            self._held[-1] = f"{before}{BREAK} {text}"
        else:
            self._flush()
            self._held = [text]
        self._goes_on = is_formula

    def _add_list(self, node: etree._Element) -> None:
        """Each item on a line of its own; items that follow each other without a list around them make one."""
        if not self._held or not self._held[0].startswith("- "):
            self._flush()
        for item in node.iter("list-item"):
            text = _BULLET.sub("", text_of(item, SKIP | {"list"}))
            if text.strip(BREAK):
                self._held.append(f"- {text}")


def _blocks(parent: etree._Element) -> Iterator[etree._Element]:
    """The blocks that stand directly in `parent`; words between them are set in a paragraph."""
    loose = etree.Element("p")
    loose.text = parent.text
    for child in list(parent):
        if child.tag not in BLOCKS:
            loose.append(child)
            continue
        yield loose
        loose = etree.Element("p")
        loose.text, child.tail = child.tail, None
        yield child
    yield loose
