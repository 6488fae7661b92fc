"""Text to text: repairs characters and normalises white space, and leaves scientific symbols as they are.

Every function here is idempotent and takes linear time. Slow steps (ftfy, the tables) run only where a cheap test
shows that they could change something.
"""

import re
import unicodedata
from itertools import chain

import ftfy
from ftfy.badness import is_bad
from ftfy.chardata import CHARMAP_ENCODINGS

from nsllm_lite.corpus.latex.inline import resolve_commands
from nsllm_lite.corpus.texts.boilerplate import once, without_boilerplate, without_label
from nsllm_lite.corpus.texts.glyphs import LOST, may_hold_glyphs, resolve_glyphs
from nsllm_lite.corpus.texts.hyphens import rejoin_broken_lines, rejoin_broken_words, settle_soft_hyphens
from nsllm_lite.corpus.texts.markup import (
    decode_entities,
    resolve_accents,
    resolve_signs,
    resolve_tags,
    unwrap_formulas,
)
from nsllm_lite.formats.documents import TERMS, Document, Section, with_changes

MAX_PASSES = 8  # a repair may uncover the next ("&amp;#38;lt;i&gt;"); real text needs two, only a contrived one more

_SEPARATORS = dict.fromkeys(range(0x1C, 0x20), " ")  # of files and records: white space to Python, to no pattern here
_LINE_BREAK = re.compile("\r\n?|[\u2028\u2029\x0b\x0c]")
_PARAGRAPH = re.compile(r"\n\s*\n")
_MANY_BACKSLASHES = re.compile(r"\\{5,}")  # a line break to LaTeX, of which each pass would take one


def _mojibake() -> re.Pattern:
    """Finds every text that ftfy could change by reading it as UTF-8: a lead byte and what may follow it.

    ftfy's own test (`is_bad`) takes 200 µs on an abstract, this one 4. It accepts more, so it misses nothing.
    """

    def characters(first: int, last: int, encodings: list[str]) -> str:
        several = (bytes(range(first, last + 1)).decode(name, errors="ignore") for name in encodings)
        return re.escape("".join(sorted(set("".join(several)))))

    # "–" and "’" are lead bytes in macroman, where ftfy takes no space for a lost no-break space.
    spaced = [name for name in CHARMAP_ENCODINGS if name != "macroman"]
    two, three, four = (characters(*r, CHARMAP_ENCODINGS) for r in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7)))
    follow = characters(0x80, 0xBF, CHARMAP_ENCODINGS) + "\ufffd\x1a"
    return re.compile(
        f"[{two}{three}{four}](?:(?<=[{two}])[{follow}]|(?<=[{characters(0xC0, 0xDF, spaced)}])[ ?]"
        f"|(?<=[{three}])[{follow} ?]{{2}}|(?<=[{four}])[{follow} ?]{{3}})"
    )


_MOJIBAKE = _mojibake()
# What ftfy looks for has at most seven characters, one of them beyond ASCII: the middle of long ASCII holds none of it.
_LONG_ASCII = re.compile("([\x00-\x7f]{8})[\x00-\x7f]+(?=[\x00-\x7f]{8})")
_FTFY = ftfy.TextFixerConfig(explain=False, fix_c1_controls=False)
# ftfy reads "Å±" as the UTF-8 bytes of "ű", and "Å³" or "Ø±" likewise, where a paper means an ångström or a diameter.
# "Å" before one of the signs excepted here means neither: "Å‚" is "ł", "Å¡" is "š".
_SHIELDED = re.compile("Å(?![‚„†‡ˆ‰Š‹ŒŽ•˜™š›œžŸ¡¤¦¨©ª¬®¯´¶¸º¼½¾¿])|[Øß]")
_SHIELD = {"Å": "\ue001", "Ø": "\ue002", "ß": "\ue003"}
_UNSHIELD = str.maketrans({mark: letter for letter, mark in _SHIELD.items()})

_MISSED = re.compile("â(?:‚[€\x81‚ƒ„…†‡ˆ‰]|„¢)")  # ₀ to ₉ and ™, of which ftfy is not sure in "COâ‚‚"

# What Word and PDF makers take from the Symbol font, where nothing but Greek letters and these signs is certain.
_SYMBOL = dict(zip("abcdefghijklmnopqrstuvwxyz", "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", strict=True))
_SYMBOL |= dict(zip("DFGLPQSUWXY", "ΔΦΓΛΠΘΣΥΩΞΨ", strict=True))
_SYMBOL |= dict(zip("\xa3\xa5\xae\xb0\xb1\xb3\xb4\xb6\xb7\xb9\xbb\xd1\xd6\xe5\xf2", "≤∞→°±≥×∂•≠≈∇√∑∫", strict=True))
_PRIVATE_USE = {chr(0xF000 + ord(c)): sign for c, sign in _SYMBOL.items()}
_PRIVATE_USE |= dict(zip("\uf6d9\uf8e9\uf6da\uf8e8\uf6db\uf8ea", "©©®®™™", strict=True))
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_IN_NAMES = re.compile("[\ud800-\udfff\x00-\x1f\x7f-\x9f]")
_NO_MEANING = re.compile("[\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]")

# C1 controls are Windows-1252 read as Latin-1. Letters, quotes and dashes may stand between two letters; another sign
# there is a glyph lost from a PDF ("classi\x80cation").
_C1_LOST = re.compile("[\x80\x82\x84\x86-\x89\x8b\x91\x93-\x95\x98\x99\x9b](?<=[A-Za-z].)(?=[a-z])")
_C1 = re.compile("[\x80-\x9f]")
_CONTROLS = "\x00-\x08\x0e-\x1b\x7f"
_INVISIBLE = "\u00ad\u034f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufffe"
_REMOVED = re.compile(  # a row of joiners only behind Latin and the like: Arabic and Indian scripts need them
    f"[{_CONTROLS}{_INVISIBLE}\u200c\u200d](?:(?<![\u200c\u200d])|(?<![\u0590-\U0010ffff].)[\u200c\u200d]*)"
)
_ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
# NFC alone would make these bra and ket into CJK quotation marks.
_REWRITTEN = _LIGATURES | {"\u2329": "⟨", "\u232a": "⟩", "\ufffc": LOST}


def clean_text(text: str, evidence: str = "") -> str:
    """NFC text whose paragraphs stand on one line each, with one blank line between them.

    Lines of a list (beginning "- ") stay lines. Mojibake is repaired where ftfy is sure of it. NFKC is not applied: it
    would turn 10⁻⁵ into 10-5 and µ into μ. Entities, tags and LaTeX accents become the characters they mean, maths
    stays TeX. Lost characters (U+FFFD) stay, to be counted. `evidence` is other text of the same paper, whose words
    help to decide whether a hyphen at the end of a line is part of a compound.
    """
    if _is_clean(text):
        return text.strip()
    if "\r" in text or "\x0b" in text or "\x0c" in text or "\u2028" in text or "\u2029" in text:
        text = _LINE_BREAK.sub("\n", text)
    if "\x1c" in text or "\x1d" in text or "\x1e" in text or "\x1f" in text:
        text = text.translate(_SEPARATORS)
    text = rejoin_broken_lines(text, evidence)
    if not text.isascii():
        text = _characters(text, evidence)
    for _ in range(MAX_PASSES):
        text = _collapse_space(text)
        repaired = _repair(text, evidence)
        if repaired == text:
            return text
        text = repaired
    return _collapse_space(text)


def clean_line(text: str, evidence: str = "") -> str:
    """`clean_text` on one line: titles, headings, labels."""
    text = clean_text(text, evidence)
    while "\n" in text:  # what two paragraphs kept apart may need cleaning again
        text = clean_text(" ".join(text.split()), evidence)
    return text


def clean_abstract(text: str, evidence: str = "") -> str:
    """`clean_text` without the label before an abstract and the notices and keywords after it."""
    text = clean_text(without_label(text), evidence)  # a label on a line of its own is seen before lines are joined
    for _ in range(MAX_PASSES):
        bare = once(without_boilerplate(text))
        if bare == text:
            break
        text = clean_text(bare, evidence)
    return text


def clean_name(text: str) -> str:
    """An id or an origin, with characters replaced that UTF-8 cannot encode or that control a terminal."""
    return text if text.isascii() and text.isprintable() else _NOT_IN_NAMES.sub(LOST, text)


def clean_document(document: Document) -> Document:
    """Every text field cleaned."""
    sections = document.sections
    texts = (document.title, document.abstract, document.text, *(s.text for s in sections))
    together = "\n".join(texts)
    evidence = together if _is_broken(together) else ""
    return with_changes(
        document,
        id=clean_name(document.id),
        origin=clean_name(document.origin),
        title=clean_line(document.title, evidence),
        abstract=clean_abstract(document.abstract, evidence),
        text=clean_text(document.text, evidence),
        discipline=clean_line(document.discipline),
        sections=tuple(
            Section(clean_line(s.heading), clean_text(s.text, evidence), tuple(map(clean_line, s.parents)), s.kind)
            for s in sections
        ),
        moves=tuple((clean_line(m), clean_abstract(clean_line(t, evidence), evidence)) for m, t in document.moves),
        **_clean_stated(document),
    )


def _is_broken(text: str) -> bool:
    """Whether there are words in it that the rest of the paper helps to settle."""
    return "-\n" in text or "- " in text or "‐" in text or "\u00ad" in text or "(cid:173)" in text


def _clean_stated(document: Document) -> dict[str, str | tuple[str, ...]]:
    """Those of what a paper states that cleaning can change: names and the like are nearly always plain."""
    terms = (document.authors, document.categories, document.keywords, document.references)
    if _is_plain("".join((document.venue, *chain.from_iterable(terms)))):
        return {}
    stated = {name: terms for name in TERMS if (terms := getattr(document, name))}
    stated |= {"venue": (document.venue,)} if document.venue else {}
    stated = {name: terms for name, terms in stated.items() if not _is_plain("".join(terms))}
    stated = {name: tuple(t if _is_plain(t) else clean_line(t) for t in terms) for name, terms in stated.items()}
    return {name: " ".join(t) if name == "venue" else tuple(filter(None, t)) for name, t in stated.items()}


def _is_plain(text: str) -> bool:
    """Whether it is ASCII without anything that `clean_line` looks for."""
    marked = "&" in text or "<" in text or "\\" in text or "  " in text or "(cid:" in text
    return not marked and text.isascii() and text.isprintable()


def _is_clean(text: str) -> bool:
    """Whether it is one line of ASCII in which nothing is looked for: most titles, and many abstracts."""
    marked = "\\" in text or "/" in text or "- " in text or "&" in text or "<" in text or "  " in text
    marked = marked or ")over" in text or ") over" in text or "(cid:" in text
    return not marked and text.isascii() and text.isprintable()


def _collapse_space(text: str) -> str:
    """White space alone: paragraphs, lines of lists, single spaces."""
    if "\n" not in text:
        return _on_one_line(text)
    return "\n\n".join(filter(None, map(_collapse_paragraph, _PARAGRAPH.split(text))))


def _on_one_line(text: str) -> str:
    """The words with one blank between two; most texts have nothing but blanks and line ends, and never two of them."""
    line = text.replace("\n", " ")
    return line.strip() if line.isprintable() and "  " not in line else " ".join(text.split())


def _collapse_paragraph(paragraph: str) -> str:
    if "- " not in paragraph:
        return _on_one_line(paragraph)
    lines: list[list[str]] = []
    for line in paragraph.split("\n"):
        words = line.split()
        if not lines or (words[:1] == ["-"] and len(words) > 1):
            lines.append(words)
        else:
            lines[-1] += words
    return "\n".join(" ".join(words) for words in lines if words)


def _repair(text: str, evidence: str) -> str:
    """All but white space, on text of collapsed space. What is plain already comes back as it is."""
    if "&" in text:
        text = decode_entities(text)
    if "<" in text or ")over" in text or ") over" in text:
        text = resolve_tags(resolve_signs(text))
    if "\\" in text:
        text = _MANY_BACKSLASHES.sub(r"\\\\", text)
        text = resolve_accents(unwrap_formulas(text) if "\\documentclass" in text else text)
        text = resolve_commands(text)
    if may_hold_glyphs(text):
        text = resolve_glyphs(text)
    if "- " in text:
        text = rejoin_broken_words(text, evidence)
    return _characters(text, evidence)


def _characters(text: str, evidence: str) -> str:
    """Mojibake, characters that stand for nothing, odd spaces, ligatures, NFC."""
    printable = text.isprintable() or text.replace("\n", "").isprintable()
    if text.isascii():
        return text if printable else _REMOVED.sub("", text)
    if not printable:
        if _SURROGATE.search(text):  # pairs become the character they stand for
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = _NO_MEANING.sub(lambda m: _PRIVATE_USE.get(m[0], LOST), text)
    if _MOJIBAKE.search(text):
        text = _SHIELDED.sub(lambda m: _SHIELD[m[0]], text)
        if is_bad(_LONG_ASCII.sub(r"\1", text)):
            text = ftfy.fix_encoding(text, _FTFY)
        text = text.translate(_UNSHIELD)
        text = _MISSED.sub(lambda m: m[0].encode("sloppy-windows-1252").decode(), text)
    if not printable:
        if "\u00ad" in text or "\ufffe" in text:
            text = settle_soft_hyphens(text, evidence)
        text = _C1.sub(lambda m: m[0].encode("latin-1").decode("cp1252", "replace"), _C1_LOST.sub(LOST, text))
        text = _ODD_SPACE.sub(" ", _REMOVED.sub("", text))
    for character, written in _REWRITTEN.items():
        if character in text:
            text = text.replace(character, written)
    return unicodedata.normalize("NFC", text)
