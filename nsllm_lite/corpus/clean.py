"""Text to text: characters repaired and white space settled, symbols of science left as they are."""

import html
import re
import unicodedata
from dataclasses import replace

import ftfy

from nsllm_lite.document import Document, Section

LOST = "\ufffd"
NOT_TEXT_CHARS = 20_000  # a table or a listing shows itself this early

_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n?|[\u2028\u2029\x0b\x0c\x85]")
_SPACE = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_ENTITY = re.compile(r"&(?:amp;)?(lt|gt|amp|quot|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_NO_LETTERS = re.compile(r"[\W\d_]+")
_WITHDRAWN = re.compile(
    r"\b(paper|article|submission|manuscript|preprint|work)\b.{0,40}\b(withdrawn|retracted)\b|^(withdrawn|retracted)\b",
    re.IGNORECASE,
)
# ftfy reads "Å±" as the UTF-8 bytes of "ű", and "Å³" or "Ø±" likewise, where a paper means an ångström or a diameter.
_SHIELD = str.maketrans({"Å": "\ue001", "Ø": "\ue002", "ß": "\ue003"})
_UNSHIELD = str.maketrans({"\ue001": "Å", "\ue002": "Ø", "\ue003": "ß"})


def clean_line(text: str) -> str:
    """`clean_text` on one line: titles, headings, labels."""
    return " ".join(clean_text(text).split())


def clean_text(text: str) -> str:
    """NFC text whose paragraphs stand on one line each, with one blank line between them.

    Lines of a list (beginning "- ") stay lines. Mojibake is repaired where ftfy is sure of it. NFKC is not applied: it
    would turn 10⁻⁵ into 10-5 and µ into μ. Lost characters (U+FFFD) stay, to be counted.
    """
    if not text.isascii():
        text = _SURROGATE.sub(LOST, text)
        text = ftfy.fix_encoding(text.translate(_SHIELD)).translate(_UNSHIELD)
        text = unicodedata.normalize("NFC", text)
    if "&" in text:
        text = _ENTITY.sub(lambda m: html.unescape(f"&{m[1]};"), text)
    text = _REMOVED.sub("", _SPACE.sub(" ", _LINE_BREAK.sub("\n", text)))
    paragraphs = (_lines(p) for p in re.split(r"\n[ \n]*\n", text))
    return "\n\n".join(p for p in paragraphs if p)


def _lines(paragraph: str) -> str:
    return re.sub(r"\n(?!- )", " ", re.sub(" *\n *", "\n", re.sub(" {2,}", " ", paragraph)).strip())


def clean_document(document: Document) -> Document:
    """Every text field cleaned; ids and origins only lose what cannot be written as UTF-8."""
    return replace(
        document,
        id=_SURROGATE.sub(LOST, document.id),
        origin=_SURROGATE.sub(LOST, document.origin),
        title=clean_line(document.title),
        abstract=clean_text(document.abstract),
        text=clean_text(document.text),
        discipline=clean_line(document.discipline),
        sections=tuple(
            Section(clean_line(s.heading), clean_text(s.text), tuple(map(clean_line, s.parents)), s.kind)
            for s in document.sections
        ),
        moves=tuple((clean_line(label), clean_line(sentence)) for label, sentence in document.moves),
    )


def reason_to_drop(document: Document) -> str:
    """Why a cleaned document is of no use to any phase; empty where it is of use. Length is `render`'s to judge."""
    general = bool(document.text)
    if not general and not document.title:
        return "no_title"
    if not general and (_WITHDRAWN.search(document.title[:40]) or _is_withdrawal(document)):
        return "withdrawn"
    body = document.text or document.abstract + "".join(s.text for s in document.sections)
    solid = "".join(body[:NOT_TEXT_CHARS].split())
    return "not_text" if len(_NO_LETTERS.sub("", solid)) < 0.5 * len(solid) else ""


def _is_withdrawal(document: Document) -> bool:
    """An abstract that is a short notice of withdrawal; a long abstract may study retracted papers."""
    return len(document.abstract) < 400 and bool(_WITHDRAWN.search(document.abstract[:200]))
