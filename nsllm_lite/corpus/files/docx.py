"""A Word document as headings and paragraphs: its main part, a paragraph in memory at a time. The file is not trusted.

Headings are known by the level of their outline, stated in the paragraph, in its style or in one that this is based on,
or by the name of such a style ("heading 1", "Title"), whatever the style is called on the screen; else a short bold
paragraph whose words name a section is one. Left out: tables, captions, footnotes and endnotes, comments, headers, text
boxes and drawings, deleted and moved text, hidden text, instructions of fields, tables of contents. Formulas become
text. What a reference manager's field shows is marked as a citation for `citations.settle`.

Source: ECMA-376 part 1 (Transitional) and ISO/IEC 29500 (Strict), sections 17.3, 17.7 and 22.1.
"""

import re
import zipfile
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO

from lxml import etree

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.archives import refusal
from nsllm_lite.corpus.files.blocks import LOWEST, Block
from nsllm_lite.corpus.files.elements import raised, script
from nsllm_lite.corpus.files.lines import ABSTRACT, RUN_IN, is_caption, is_heading
from nsllm_lite.corpus.files.omml import local, text_of_math
from nsllm_lite.corpus.files.outline import printed_number
from nsllm_lite.formats.headings import Mark, mark

MAX_XML_BYTES = 1 << 26  # of a part; the main part of a thesis has some 10 MB
MAX_HELD = 1 << 18  # elements in memory, as of one paragraph or row of a table
MAX_ALL_TAGS = 1 << 23  # of a part; a thesis has some 2 million
MAX_FIELDS, MAX_INSTRUCTION = 50, 1_000  # fields one in another; characters of what one does, which begin with its kind
MAX_STYLES = 20  # that one is based on, one on the other
MAIN_PART, STYLES_PART = "word/document.xml", "word/styles.xml"
CAPTION, OF_ABSTRACT = "caption", "abstract"  # kinds of styles
_HIDDEN = frozenset(
    ("del", "moveFrom", "drawing", "pict", "object", "Fallback", "txbxContent", "rt", "rPr", "pPr", "sdtPr", "fldData")
)  # fmt: skip
_WATCHED = tuple(f"{{*}}{name}" for name in ("p", "tr", "tbl", "txbxContent", "drawing", "pict", "object", "Fallback"))
_SAFE = {"resolve_entities": False, "no_network": True, "load_dtd": False, "remove_comments": True}
_NUM_BELOW = etree.XPath("count(descendant::node()[not(self::text())])")
_HEADING_NAME = re.compile(r"heading (\d)")
_TITLE_NAME = re.compile(r"(?:.*[\W_])?title")  # "Title", and those of journals: "paper title", "MDPI_1.2_title"
_ABSTRACT_NAME = re.compile(r"(?:.*[\W_])?abstract(?:[\W_]?text)?")
_LEFT_OUT = re.compile(
    r".*caption|(?:table|figure) (?:title|head|copy|footnote)|toc\b.*|table of .*|footnote.*|endnote.*|header|footer"
)
_CITES = re.compile(r"ADDIN\s+(?:ZOTERO_ITEM|EN\.CITE|CSL_CITATION|Mendeley Citation|NE\.Ref)", re.IGNORECASE)
_SYMBOLS = dict(zip(range(0x61, 0x7B), "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", strict=True))
_SYMBOLS |= dict(zip(range(0x41, 0x5B), "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ", strict=True))
_SYMBOLS |= {0xB1: "±", 0xB0: "°", 0xB4: "×", 0xA3: "≤", 0xB3: "≥", 0xD7: "⋅", 0xAE: "→", 0xA5: "∞", 0xB5: "∝"}


class DocxError(ValueError):
    pass


class _Bounded:
    """A part as a stream that fails where it is too long, has too many tags, or more elements than are `cleared`."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._left, self._tags_left, self._held = stream, MAX_XML_BYTES, MAX_ALL_TAGS, 0
        self._begun = False

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, 1 << 15) if size > 0 else 1 << 15)
        self._left -= len(data)
        tags = data.count(b"<")
        self._held += tags - data.count(b"</") - data.count(b"<!")
        self._tags_left -= tags
        if not self._begun and b"<!DOCTYPE" in data[:1024]:
            raise DocxError("a part of the document has a DOCTYPE, which may declare entities")
        self._begun = True
        if self._left < 0:
            raise DocxError(f"a part of the document has over {MAX_XML_BYTES:,} bytes")
        if self._held > MAX_HELD or self._tags_left < 0:
            raise DocxError(f"over {MAX_HELD:,} elements that do not end, or {MAX_ALL_TAGS:,} tags in a part")
        return data

    def clear(self, node: etree._Element) -> None:
        """Empties an element that has been read, and removes those before it."""
        self._held -= int(_NUM_BELOW(node))
        node.clear()
        parent = node.getparent()
        while parent is not None and (before := node.getprevious()) is not None:
            self._held -= 1 + (int(_NUM_BELOW(before)) if len(before) else 0)
            parent.remove(before)


def blocks_in(file: BinaryIO) -> Iterator[Block]:
    """The blocks of a document in order.

    Raises:
        DocxError: it has no main part, or one that is a bomb.
        lxml.etree.XMLSyntaxError, or one of `streams.ERRORS`: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        main = _related(archive, "_rels/.rels", "officeDocument", "") or MAIN_PART
        folder, _, name = main.rpartition("/")
        if main not in archive.namelist():
            raise DocxError(f"no {main} is in the document")
        rels = f"{folder}/_rels/{name}.rels"
        styles = _related(archive, rels, "styles", folder) or STYLES_PART
        kinds = _styles(archive, styles) if styles in archive.namelist() else {}
        with _opened(archive, main) as stream:
            yield from _joined(_paragraphs(_Bounded(stream), kinds))


def _opened(archive: zipfile.ZipFile, part: str) -> BinaryIO:
    if refused := refusal(archive.getinfo(part)):
        raise DocxError(f"{part} is {refused}")
    return archive.open(part)


def _parsed(archive: zipfile.ZipFile, part: str) -> etree._Element:
    with _opened(archive, part) as stream:
        bounded = _Bounded(stream)
        return etree.parse(bounded, etree.XMLParser(**_SAFE)).getroot()


def _related(archive: zipfile.ZipFile, rels: str, kind: str, folder: str) -> str:
    """The part of this kind that a list of relationships names; "" where it names none."""
    if rels not in archive.namelist():
        return ""
    for one in _parsed(archive, rels):
        if (one.get("Type") or "").endswith(f"/{kind}") and one.get("TargetMode") != "External":
            target = one.get("Target") or ""
            return target.lstrip("/") if target.startswith("/") or not folder else f"{folder}/{target}"
    return ""


def _value(node: etree._Element | None, *path: str) -> str | None:
    """The attribute `val` of the element at the path, whatever its namespace; None where it is not there."""
    for name in path:
        node = None if node is None else next((child for child in node if local(child) == name), None)
    return None if node is None else next((v for key, v in node.attrib.items() if key.rpartition("}")[2] == "val"), "")


def _level(stated: str | None) -> int | None:
    """The level of a heading; 0 of what is stated to be none."""
    if stated is None or not stated.isdecimal():
        return None
    return int(stated[:2]) + 1 if int(stated[:2]) < 9 else 0


def _styles(archive: zipfile.ZipFile, part: str) -> dict[str, int | str]:
    """By a style's id its level (1 of the document's title, 0 of body text), OF_ABSTRACT, or CAPTION: left out."""
    styles: dict[str, tuple[str, str, int | None]] = {}
    for style in _parsed(archive, part):
        if local(style) == "style":
            key = next((v for k, v in style.attrib.items() if k.rpartition("}")[2] == "styleId"), "")
            properties = next((child for child in style if local(child) == "pPr"), None)
            level = _level(_value(properties, "outlineLvl")) if properties is not None else None
            styles[key] = (_value(style, "basedOn") or "", (_value(style, "name") or "").lower(), level)
    return {key: found for key in styles if (found := _kind(styles, key)) is not None}


def _kind(styles: dict[str, tuple[str, str, int | None]], key: str) -> int | str | None:
    for _ in range(MAX_STYLES):
        if key not in styles:
            return None
        key, name, level = styles[key]
        if _LEFT_OUT.fullmatch(name):
            return CAPTION
        if _TITLE_NAME.fullmatch(name):
            return 1
        if _ABSTRACT_NAME.fullmatch(name):
            return OF_ABSTRACT
        if named := _HEADING_NAME.fullmatch(name):
            return int(named[1]) if level is None else level
        if level is not None:
            return level
    return None


def _paragraphs(stream: _Bounded, kinds: dict[str, int | str]) -> Iterator[tuple[Block, bool]]:
    """(a block, whether it is an item of a list) for each paragraph of the body that has text."""
    events = etree.iterparse(stream, ("start", "end"), tag=_WATCHED, **_SAFE)
    fields = _Fields()
    left_out = 0
    for event, node in events:
        name = local(node)
        if name not in ("p", "tr"):
            left_out += 1 if event == "start" else -1
        if event == "start":
            continue
        if name == "p" and len(node) and not left_out and (found := _block(node, kinds, fields)):
            yield found
        if name in ("p", "tr", "tbl"):
            stream.clear(node)


def _joined(paragraphs: Iterator[tuple[Block, bool]]) -> Iterator[Block]:
    """Items of a list that follow each other make one block."""
    items: list[str] = []
    for block, is_item in paragraphs:
        if is_item:
            items.append(f"- {block.text}")
            continue
        if items:
            yield Block(0, "\n".join(items))
            items = []
        yield block
    if items:
        yield Block(0, "\n".join(items))


def _block(paragraph: etree._Element, kinds: dict[str, int | str], fields: "_Fields") -> tuple[Block, bool] | None:
    text = " ".join(fields.text_of(paragraph).split())
    properties = next((child for child in paragraph if local(child) == "pPr"), None)
    kind = kinds.get(_value(properties, "pStyle") or "")
    if not text or kind == CAPTION or is_caption(text):
        return None
    stated = _level(_value(properties, "outlineLvl"))
    level = stated if stated is not None else kind if isinstance(kind, int) else 0
    if not level and stated is None and is_heading(text) and _is_bold(paragraph):
        level = LOWEST if printed_number(text) or mark(text) is not Mark.NEUTRAL else 0
    if kind == OF_ABSTRACT and not fields.in_abstract:
        has_label = RUN_IN.match(text) or ABSTRACT.fullmatch(text)
        text = text if has_label else f"Abstract: {text}"  # the style may say so alone
    fields.in_abstract = kind == OF_ABSTRACT
    return Block(level, text), not level and _value(properties, "numPr") is not None


def _is_on(properties: etree._Element | None, name: str) -> bool:
    value = _value(properties, name)
    return value is not None and value not in ("0", "false", "off")


def _is_bold(paragraph: etree._Element) -> bool:
    runs = [run for run in paragraph.iter("{*}r") if any(local(one) == "t" and (one.text or "").strip() for one in run)]
    return bool(runs) and all(_is_on(next((o for o in run if local(o) == "rPr"), None), "b") for run in runs)


class _Field:
    """A field of which no end was met."""

    def __init__(self) -> None:
        self._instruction = ""
        self.begun = self.cites = False  # its result; whether this is a citation

    def instruct(self, text: str) -> None:
        if len(self._instruction) < MAX_INSTRUCTION:
            self._instruction += text

    def begin(self) -> None:
        self.begun, self.cites = True, bool(_CITES.search(self._instruction))


class _Fields:
    """Writes paragraphs; knows what earlier ones began: fields, and the abstract."""

    def __init__(self) -> None:
        self._open: list[_Field] = []
        self.in_abstract = False  # whether the last paragraph was of it

    def text_of(self, paragraph: etree._Element) -> str:
        """The text, with raised and lowered runs in Unicode, and citations marked."""
        parts: list[str] = []
        for kind, runs in groupby(self._runs(paragraph), key=itemgetter(0)):
            text = "".join(run[1] for run in runs)
            before = next((part[-1] for part in reversed(parts) if part), "")
            match kind:
                case "superscript":
                    parts.append(raised(text, before))
                case "subscript":
                    parts.append(script(text, raised=False))
                case "citation":
                    parts.append(citations.mark(text) if re.search(r"\d", text) else text)
                case _:
                    parts.append(text)
        return "".join(parts)

    def _runs(self, node: etree._Element) -> Iterator[tuple[str, str]]:
        for child in node:
            name = local(child)
            if name == "r":
                yield from self._run(child)
            elif name == "oMathPara":
                yield "", f" {text_of_math(child)} "
            elif name == "oMath":
                yield "", text_of_math(child)
            elif name == "AlternateContent":
                yield from self._runs(next((one for one in child if local(one) == "Choice"), child))
            elif name == "sdt" and (_value(child, "sdtPr", "tag") or "").startswith("MENDELEY_CITATION"):
                yield "citation", "".join(text for _, text in self._runs(child))
            elif name not in _HIDDEN:
                yield from self._runs(child)

    def _run(self, run: etree._Element) -> Iterator[tuple[str, str]]:
        properties = next((one for one in run if local(one) == "rPr"), None)
        is_hidden = _is_on(properties, "vanish")
        place = _value(properties, "vertAlign") or ""
        for node in run:
            match local(node):
                case "fldChar":
                    self._turn(next((v for k, v in node.attrib.items() if k.endswith("fldCharType")), ""))
                case "instrText" if self._open:
                    self._open[-1].instruct((node.text or "")[:200])
                case name if (text := _text(node, name)) and not is_hidden and all(one.begun for one in self._open):
                    yield ("citation" if any(one.cites for one in self._open) else place), text

    def _turn(self, kind: str) -> None:
        if kind == "begin":
            if len(self._open) == MAX_FIELDS:
                raise DocxError(f"over {MAX_FIELDS} fields, one in another")
            self._open.append(_Field())
        elif kind == "separate" and self._open:
            self._open[-1].begin()
        elif kind == "end" and self._open:
            self._open.pop()


def _text(node: etree._Element, name: str) -> str:
    match name:
        case "t":
            return node.text or ""
        case "tab" | "br" | "cr" | "ptab":
            return " "
        case "noBreakHyphen":
            return "-"
        case "sym":
            values = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
            code = values.get("char", "")
            is_symbol = values.get("font", "").lower() == "symbol" and re.fullmatch("[0-9A-Fa-f]{4}", code)
            return _SYMBOLS.get(int(code, 16) & 0xFF, "") if is_symbol else ""
        case "ruby":
            return "".join((one.text or "") for base in node if local(base) == "rubyBase" for one in base.iter("{*}t"))
    return ""
