"""XML as text: elements are cut out of a stream one at a time, and their content is written in plain Unicode.

Each element is parsed alone, without its file's DOCTYPE. So a broken record does not affect others, several
roots or a truncated file are read to their end, memory holds one record, and a file cannot declare entities.
"""

import html
import re
from collections.abc import Iterator, Sequence
from typing import TextIO

from lxml import etree

from nsllm_lite.corpus.files import citations

CHUNK_CHARS = 1 << 20
MAX_ELEMENT_CHARS = 1 << 26
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"  # the attribute xml:lang
FORMULA = "[formula]"  # stands where a formula was only given as a picture

# The root's name without its prefix, after instructions, comments and a DOCTYPE.
_ROOT = re.compile(
    r"(?>(?:(?:<(?=\?).*?\?>|<!(?=--).*?-->|<!DOCTYPE[^\[>]*+(?:\[[^\]]*+\])?[^>]*+>)\s*){0,99})"
    r"<(?![?!])(?:[\w.-]+:)?([\w.-]+)",
    re.DOTALL,
)
_PARSER = etree.XMLParser(
    resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
)
_WRAP = (
    '<wrap xmlns:tei="http://www.tei-c.org/ns/1.0" '
    'xmlns:mml="http://www.w3.org/1998/Math/MathML" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:ali="http://www.niso.org/schemas/ali/1.0/">'
)
_DECLARED = frozenset(("xml", "xmlns", *re.findall(r"xmlns:(\w+)", _WRAP)))
_PREFIX = re.compile(r"[<\s/]([^\W\d][\w.-]*):[^\W\d]")
_ENTITY = re.compile(r"&(\w+);")
_XML_ID = re.compile(r"""\sxml:id=(?:"[^"<]*"|'[^'<]*')""")  # dropped where it is no name ("0"), which XML forbids
_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎")
_ACCENTS = {"→": "\u20d7", "˙": "\u0307", ".": "\u0307"} | dict.fromkeys("^ˆ\u0302", "\u0302")
_ACCENTS |= dict.fromkeys("~˜", "\u0303") | dict.fromkeys("¯‾", "\u0304")
_NOT_SHOWN = {"specific-use": "suppress-display", "display": "none", "visibility": "hidden"}
_SPACED = frozenset("=<>≤≥≈∼±→∈×≡∝≪≫≠")


def xml_root(head: str) -> str:
    """The name of the root element without its prefix; empty where `head` is no XML."""
    root = _ROOT.match(head)
    return root[1] if root else ""


def iter_elements(stream: TextIO, tags: tuple[str, ...]) -> Iterator[etree._Element | str]:
    """Every element of these tags, with a prefix or without, tags without namespaces; a message in place of one that
    cannot be parsed."""
    plain, prefixed = (re.compile(rf"<(({prefix})(?:{'|'.join(tags)}))(?=[\s>])") for prefix in ("", r"(?:[\w.-]++:)?"))
    opening, buffer, place, ended = plain, "", 0, False
    ends: dict[str, tuple[int, int]] = {}  # of the next end tag in the buffer, so that it is looked for once
    while True:
        start = opening.search(buffer, place)
        if start and 0 <= ends.get(start[1], (0, 0))[0] < start.end():  # -1: none in all of the buffer
            end_tag = re.compile(rf"</{re.escape(start[1])}\s*>").search(buffer, start.end())
            ends[start[1]] = end_tag.span() if end_tag else (-1, -1)
        end, after = ends[start[1]] if start else (-1, -1)
        if end >= 0:
            inner = opening.finditer(buffer, start.end(), end)
            again = next((one for one in inner if one[2] == start[2]), None)
            place = again.start() if again else after
            cut = "the record is cut short: another begins inside it"
            yield cut if again else _parse(buffer[start.start() : place])
            continue
        if start and len(buffer) - start.start() > MAX_ELEMENT_CHARS:
            yield f"no </{start[1]}> within {MAX_ELEMENT_CHARS:,} characters, nothing read from here on"
            return
        if ended and start:
            yield f"the record is cut short: no </{start[1]}> follows"
            place = start.end()
            continue
        if ended:
            return
        buffer = buffer[start.start() if start else max(place, len(buffer) - 64) :]
        chunk = stream.read(max(CHUNK_CHARS, len(buffer)))
        buffer, place, ended = buffer + chunk, 0, not chunk
        opening = prefixed if any(f":{tag}" in buffer for tag in tags) else plain  # which takes a tenth of the time
        ends.clear()


def _parse(fragment: str, declared: str = "") -> etree._Element | str:
    fragment = _ENTITY.sub(_character, fragment)
    try:
        element = etree.fromstring(f"{_WRAP[:-1]}{declared}>{fragment}</wrap>", _PARSER)[0]
    except (etree.XMLSyntaxError, ValueError) as error:
        if "Namespace prefix" in str(error) and not declared:  # the file's root may declare it
            prefixes = sorted({*_PREFIX.findall(fragment)} - _DECLARED)
            return _parse(fragment, " " + "".join(f'xmlns:{prefix}="urn:{n}" ' for n, prefix in enumerate(prefixes)))
        if "xml:id" in str(error) and _XML_ID.search(fragment):
            return _parse(_XML_ID.sub("", fragment), declared)
        return f"not well-formed XML: {error}"
    for node in element.iter("*"):
        if node.tag[0] == "{":
            node.tag = node.tag.rpartition("}")[2]
    return element


def _character(entity: re.Match) -> str:
    """A named entity as its character; those of XML itself stay, unknown ones become literal text."""
    if entity[1] in ("lt", "gt", "amp", "quot", "apos"):
        return entity[0]
    return html.entities.html5.get(f"{entity[1]};", f"&amp;{entity[1]};")


def text_of(element: etree._Element | None, skip: frozenset[str] = frozenset()) -> str:
    """The element's text on one line, without the elements in `skip`.

    Superscripts and subscripts become Unicode ones where those exist (10⁻⁵, CO₂, ¹³C), plain letters where short
    (Vmax), and else `10^3.5`, `CD11b^high`, `LUV_control`. Numbered citations are removed with their brackets unless
    the sentence needs them ("as in [3]"), citations by name stay. Formulas are TeX if given, or MathML on one line,
    or `[formula]`.
    """
    if element is None:
        return ""
    parts: list[str] = []
    _collect(element, skip, parts)
    return " ".join(citations.settle("".join(parts)).split())


def _collect(element: etree._Element, skip: frozenset[str], parts: list[str]) -> None:
    parts.append(element.text or "")
    for child in element:
        if any(child.get(name) == value for name, value in _NOT_SHOWN.items()):
            parts.append(child.tail or "")
            continue
        match child.tag:
            case "sup" | "sub" | "inf":
                inner: list[str] = []
                _collect(child, skip, inner)
                parts.append(script("".join(inner), raised=child.tag == "sup"))
            case "issn" | "isbn" | "coden":
                pass  # identifiers within a citation, which are for machines
            case "pub-id" if child.get("pub-id-type") == "coden":
                pass
            case "xref" if child.get("ref-type") == "bibr" and citations.is_numbered(raw_text(child)):
                parts.append(citations.mark(raw_text(child)))
            case "inline-formula" | "disp-formula" | "math" | "tex-math":
                parts.append(f" {formula(child)} " if child.tag == "disp-formula" else formula(child))
            case "break" | "p" | "list-item" | "title":
                parts.append(" ")
                _collect(child, skip, parts)
                parts.append(" ")
            case tag if tag not in skip:
                _collect(child, skip, parts)
        parts.append(child.tail or "")


def language_of(element: etree._Element, default: str = "") -> str:
    """Its own language in small letters, else `default`."""
    return (element.get(LANGUAGE) or default).strip().lower()


def in_language(elements: Sequence[etree._Element], language: str) -> Sequence[etree._Element]:
    """Those that are in the language or state none; where there are none, the first alone."""
    own = [one for one in elements if language_of(one, language)[:2] == language[:2]]
    return own or elements[:1]


def raw_text(element: etree._Element | None) -> str:
    """All text in the element as it stands, with its line breaks."""
    if element is None:
        return ""
    return "".join(element.itertext()) if len(element) else element.text or ""


def line_of(element: etree._Element | None) -> str:
    """`raw_text` on one line."""
    return " ".join(raw_text(element).split())


def script(text: str, raised: bool) -> str:
    """Text set above or below the line."""
    short = "".join(text.split())
    if not short or citations.OPEN in text:
        return text
    written = _translated(short, _SUPERSCRIPTS if raised else _SUBSCRIPTS)
    if written:
        return written
    if len(short) <= 3 and not (raised and any(c.isdigit() for c in short)):
        return text
    return f"{'^' if raised else '_'}{short}"


def raised(text: str, before: str) -> str:
    """Raised text of a source that does not mark citations: a number behind a word or a stop (`before`) is one."""
    is_number = re.search(r"\d", text) and citations.is_numbered(text) and text.strip()[:1].isdigit()
    is_citation = is_number and (before.isalpha() or before in tuple(".,;)”"))
    return citations.mark(text) if is_citation else script(text, raised=True)


def _translated(text: str, table: dict[int, int]) -> str:
    """The text in Unicode scripts, or "" where a character has none."""
    return text.translate(table) if text and all(ord(c) in table for c in text) else ""


def formula(element: etree._Element) -> str:
    """A formula as TeX, or MathML on one line, or FORMULA where there is only a picture."""
    tex = element if element.tag == "tex-math" else element.find(".//tex-math")
    if tex is not None:
        before, begun, body = raw_text(tex).partition(r"\begin{document}")
        return " ".join((body.partition(r"\end{document}")[0] if begun else before).split())
    math = element if element.tag == "math" else element.find(".//math")
    if math is not None:
        return " ".join(_linear(math).split()) or FORMULA
    parts: list[str] = []
    _collect(element, frozenset(("graphic", "inline-graphic", "label")), parts)
    text = " ".join("".join(parts).split())
    return text if re.search(r"\w", text) else FORMULA


def _linear(node: etree._Element) -> str:
    """MathML on one line: x² = (a + b)/c."""
    parts = [_linear(child) for child in node if isinstance(child.tag, str)]
    match node.tag, parts:
        case (("mi" | "mn" | "mtext" | "ms"), _):
            return " ".join(raw_text(node).split())
        case "mo", _:
            sign = re.sub("[\u2061-\u2064]", "", raw_text(node).strip())
            return f" {sign} " if sign in _SPACED else sign
        case "mover", [base, accent] if accent.strip() in _ACCENTS:
            return base + _ACCENTS[accent.strip()]
        case "msup" | "mover", [base, raised]:
            return base + _mark(raised, "^", _SUPERSCRIPTS)
        case "msub" | "munder", [base, lowered]:
            return base + _mark(lowered, "_", _SUBSCRIPTS)
        case "msubsup" | "munderover" | "mmultiscripts", [base, lowered, raised, *_]:
            return base + _mark(lowered, "_", _SUBSCRIPTS) + _mark(raised, "^", _SUPERSCRIPTS)
        case "mfrac", [above, below]:
            return f"{_grouped(above)}/{_grouped(below)}"
        case "msqrt", _:
            return f"√({''.join(parts)})"
        case "mroot", [base, degree]:
            return f"({base})^(1/{degree})"
        case "mfenced", _:
            mark = node.get("separators", ",")[:1]
            return node.get("open", "(") + (f"{mark} " if mark else "").join(parts) + node.get("close", ")")
        case "semantics", [first, *_]:
            return first
        case (("annotation" | "annotation-xml" | "maligngroup" | "malignmark"), _):
            return ""
        case "mtd" | "mtr" | "mspace", _:
            return "".join(parts) + " "
    line = ""
    for part in parts:  # a^b c is not a^bc
        line += f" {part}" if re.search(r"[\^_]\w+$", line[-64:]) and part[:1].isalnum() else part
    return line


def _mark(text: str, mark: str, table: dict[int, int]) -> str:
    short = "".join(text.split())
    return _translated(short, table) or (f"{mark}{_grouped(short)}" if short else "")


def _grouped(text: str) -> str:
    short = text.strip()
    return short if len(short) == 1 or re.fullmatch(r"\w+", short) else f"({short})"
