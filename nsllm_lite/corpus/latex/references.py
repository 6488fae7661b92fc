"""Citations and references as prose: removed where the sentence is complete without them, else put in words.

While a text is collected each is one marker character; `settle` decides when the neighbours are known.
"""

import re
from collections.abc import Callable

from nsllm_lite.corpus.files.citations import needs_citation
from nsllm_lite.corpus.latex.commands import TABLES

CITATION = "[citation]"  # stands where a sentence needs a citation whose authors the source does not state
CITED, DROP, ITEM, PAGE = "\ue010", "\ue011", "\ue012", "\ue013"
_WORDS = ("", *TABLES["reference_prefixes"])
_MARKS = {word: chr(0xE020 + n) for n, word in enumerate(_WORDS)}
_PREFIXES = {prefix: word for word, prefixes in TABLES["reference_prefixes"].items() for prefix in prefixes.split()}
MARK = re.compile("[\ue010-\ue013\ue020-\ue02f]")
_R = "[\ue020-\ue02f]"
_REF = re.compile(_R)
_SECTION_SIGN = re.compile(rf"§§?\s*(?={_R})")
_DROPS = re.compile(rf"{DROP}[ {DROP}]*{DROP}")
_DROPPED = re.compile(rf"(?<!\s)\s*+{DROP}\s*(?=[.,;:)\]])|{DROP}")  # before a stop with the spaces around it
_CITES = re.compile(rf"{CITED}(?:[\s,;–—-]*(?:and\s+)?{CITED})+")
_REFS = re.compile(rf"({_R})(?:[\s,;–—-]*(?:(?:and|or|to|through|&)\s+)?(?:\(\s*\1\s*\)|\1))+")
_ENCLOSED_REF = re.compile(rf"[(\[]\s*({_R})\s*[)\]]")
_PARENTHESIS = re.compile(r"[(\[]([^()\[\]]{0,150})[)\]]")
_FILLERS, _FILLER_REFERENCES, _REF_WORDS = (
    TABLES[name].strip("\n").replace("\n", "|") for name in ("fillers", "filler_references", "reference_words")
)
_FILLER = re.compile(
    rf"(?>(?:[\s.,:;~&§/–—-]|\b(?:{_FILLERS}|"
    rf"(?:{_FILLER_REFERENCES})\b(?:[.\s~]*\d[\d.–-]*)?)(?!\w))*)",
    re.IGNORECASE,
)
_REF_WORD = re.compile(rf"(?:{_REF_WORDS})\.?", re.IGNORECASE)
_WORD_BEFORE = re.compile(r"(?<![\w§])(?:[A-Za-z]{1,14}\.?|§§?)$")
_PAGES = re.compile(rf",?\s*(?:\bstarting\s)?\s*\b(?:on\s)?(?:pages?|pp?\.)\s*{PAGE}|\s*{PAGE}")
_BIBITEM = re.compile(r"\\bibitem\s*\[((?:[^\[\]]|\[[^\[\]]{0,200}\]){1,600})\]\s*\{([^{}]{1,100})\}")
_LABEL = re.compile(r"(\S.{0,100}?)\s*\(([^()]{2,30})\)")


def kind_of(label: str, command: str) -> str:
    """The mark for a reference; the prefix of its label gives the word that is needed where the source writes none."""
    if command == "pageref":
        return PAGE
    if command in ("eqref", "secref", "figref", "tabref"):
        return _MARKS[_PREFIXES[command.removesuffix("ref")]]
    prefix = re.match(r"\s*([A-Za-z]+)[\d*]*[:_.-]", label)
    return _MARKS[_PREFIXES.get(prefix[1].lower(), "") if prefix else ""]


class Citations:
    """Authors and years by citation key, as far as the bibliography has labels of authors and years."""

    def __init__(self, bibliography: Callable[[], str], plain: Callable[[str], str]):
        self._bibliography, self._plain = bibliography, plain
        self._labels: dict[str, str] | None = None
        self.aliases: dict[str, str] = {}

    def in_words(self, keys: str, command: str) -> str:
        if self._labels is None:
            text = self._bibliography()
            self._labels = {m[2].strip(): m[1] for m in _BIBITEM.finditer(text)} if "\\bibitem" in text else {}
        written = [self._one(key.strip(), command.lower()) for key in keys.split(",")[:50]]
        return " and ".join(dict.fromkeys(written))

    def _one(self, key: str, command: str) -> str:
        if key in self.aliases and command.endswith("alias"):
            return self.aliases[key]
        label = _LABEL.match(self._plain(self._labels.get(key, "")[:600]))
        if not label or not re.search(r"[A-Za-z]{2}", label[1]):
            return CITED if command.startswith(("citeal", "citeyear")) else CITATION
        if "author" in command:
            return label[1]
        if "year" in command:
            return label[2]
        return f"{label[1]} {label[2]}" if command.startswith("citeal") else f"{label[1]} ({label[2]})"


def settle(paragraph: str) -> str:
    """The paragraph, on one line, with all marks but those of list items turned into words or nothing."""
    text = paragraph
    if PAGE in text:
        text = _PAGES.sub("", text)
    if CITED in text:
        text = _CITES.sub(CITED, text)
    if _REF.search(text):
        text = _REFS.sub(r"\1", _ENCLOSED_REF.sub(r"\1", _REFS.sub(r"\1", text)))
    text = _PARENTHESIS.sub(_parenthesis, text)
    if _REF.search(text):
        text = _REF.sub(_reference, _SECTION_SIGN.sub("Section ", text))
    if CITED in text:
        text = re.sub(CITED, _citation, text.replace(f" {CITED}", CITED))
    return _DROPPED.sub("", _DROPS.sub(DROP, text)) if DROP in text else text


def _parenthesis(found: re.Match) -> str:
    inner = found[1]
    if not MARK.search(inner):
        return found[0]
    if _FILLER.fullmatch(MARK.sub(" ", inner)):
        return DROP if inner.strip(f"{DROP} ") else found[0].replace(DROP, "")
    inner = re.sub(rf"^{CITED}[\s,;]*|[\s,;]*{CITED}(?=[\s,;]*$)", "", inner.strip())
    return f"{found[0][0]}{inner.strip(' ,;')}{found[0][-1]}"


def _reference(found: re.Match) -> str:
    kind = _WORDS[ord(found[0]) - 0xE020]
    before = found.string[max(0, found.start() - 20) : found.start()].rstrip()
    word = _WORD_BEFORE.search(before)
    return DROP if not kind or (word and _REF_WORD.fullmatch(word[0])) else kind


def _citation(found: re.Match) -> str:
    text = found.string
    before = text[max(0, found.start() - 16) : found.start()].rstrip()
    after = text[found.end() : found.end() + 2].lstrip()
    opens = not before or before[-1] in ".!?:"
    if needs_citation(before) or (opens and after[:1].islower()):
        return f" {CITATION}" if before else CITATION
    return ""
