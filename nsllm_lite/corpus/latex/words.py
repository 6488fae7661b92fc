r"""Handlers of commands that stand for words: citations, references, quantities, chemistry, acronyms."""

import re
from collections.abc import Callable

from nsllm_lite.corpus.files.elements import script
from nsllm_lite.corpus.latex import notation
from nsllm_lite.corpus.latex.commands import ACRONYMS, CITES, REFERENCES, TEXTUAL_CITES
from nsllm_lite.corpus.latex.references import CITED, PAGE, Citations, kind_of
from nsllm_lite.corpus.latex.verbatim import UNSHIELD
from nsllm_lite.corpus.latex.walk import Handler, Walker
from nsllm_lite.formats.documents import as_doi

_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI")
_NUM_VALUES = {"num": 1, "si": 1, "unit": 1, "ang": 1, "numlist": 1, "SIrange": 3, "qtyrange": 3}  # of siunitx; else 2


class Citing(Walker):
    """A walker that knows what its commands may cite or abbreviate.

    `bibliography` gives more text to look for the labels of \\bibitem in.
    """

    def __init__(self, text: str, bibliography: Callable[[], str]):
        super().__init__(text)
        self.doi = ""
        self.acronyms: dict[str, str] = {}
        self.citations = Citations(lambda: f"{text}\n{bibliography()}", lambda label: Walker(label).line(0, len(label)))


def _of_argument(written: Callable[[Citing, str, str], str]) -> Handler:
    """The handler of a command with one argument, star and options aside: `written(paper, command, argument)`."""

    def handle(paper: Citing, command: str, pos: int, out: list[str]) -> int:
        found = paper.argument(paper.skip(pos, "soo"))
        if not found:
            return pos
        out.append(written(paper, command, paper.text[found[0] : found[1]]))
        return found[2]

    return handle


def _citation(paper: Citing, command: str, keys: str) -> str:
    if command in TEXTUAL_CITES:
        return paper.citations.in_words(keys, command)
    return f"({paper.citations.in_words(keys, command)})" if command == "citepalias" else CITED


def _reference(paper: Citing, command: str, label: str) -> str:
    return PAGE if command == "pageref" else kind_of(label, command)


def _acronym_in_text(paper: Citing, command: str, label: str) -> str:
    return paper.acronyms.get(label.strip(), label.strip()) + (
        "s" if command in ("glspl", "Glspl", "acp", "acsp") else ""
    )


def _doi(paper: Citing, command: str, doi: str) -> str:
    paper.doi = paper.doi or as_doi(doi.translate(UNSHIELD))
    return ""


def _script(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    found = paper.argument(pos)
    if not found:
        return pos
    out.append(script(paper.line(*found[:2]), raised=command != "textsubscript"))
    return found[2]


def _ensuremath(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    found = paper.argument(pos)
    if not found:
        return pos
    paper.formula(found[0], found[1], False, out)
    return found[2]


def _two_lines(paper: Citing, pos: int) -> tuple[str, str, int] | None:
    """Two arguments as text, and the place after them."""
    first = paper.argument(pos)
    second = paper.argument(first[2]) if first else None
    return (paper.line(*first[:2]), paper.line(*second[:2]), second[2]) if second else None


def _first_only(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    r"""Of the two versions in \texorpdfstring, TeX's."""
    found = _two_lines(paper, pos)
    if not found:
        return pos
    out.append(found[0])
    return found[2]


def _ion(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    found = _two_lines(paper, pos)
    if not found:
        return pos
    element, stage, pos = found
    is_number = stage.isascii() and stage.isdigit() and 0 < int(stage[:4]) < len(_ROMAN)
    out.append(f"{element} {_ROMAN[int(stage)] if is_number else stage.upper()}")
    return pos


def _citation_alias(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    found = _two_lines(paper, pos)
    if not found:
        return pos
    paper.citations.aliases[found[0]] = found[1]
    return found[2]


def _quantity(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    start, values = pos, []
    for _ in range(_NUM_VALUES.get(command, 2)):
        found = paper.argument(paper.skip(pos, "o"))
        if not found:
            return start
        values.append(paper.text[found[0] : found[1]])
        pos = found[2]
    out.append(notation.siunitx(command, values))
    return pos


def _new_acronym(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    r"""\newacronym{key}{short}{long} and \acrodef{key}[short]{long}."""
    key = paper.argument(paper.skip(pos, "o"))
    if not key:
        return pos
    label = paper.text[key[0] : key[1]].strip()
    short = paper.argument(key[2]) if command == "newacronym" else paper.option(key[2])
    paper.acronyms[label] = paper.line(*short[:2]) if short else label
    return paper.skip(short[2] if short else key[2], "m")


def _xspace(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    following = paper.text[pos : pos + 2]
    if not re.match(r"[.,;:!?'/)\]}\-~\s]|\\[ ,/]|$", following):
        out.append(" ")
    return pos


def _abbreviation(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    """An abbreviation that a class file defines, mostly with a space after it where one is needed."""
    out.append(notation.ABBREVIATIONS[command])
    return _xspace(paper, command, pos, out)


def _letter_accent(paper: Citing, command: str, pos: int, out: list[str]) -> int:
    return paper.accent(command, pos, out)


WORDS: dict[str, Handler] = {
    **dict.fromkeys((*CITES, *TEXTUAL_CITES, "citepalias"), _of_argument(_citation)),
    **dict.fromkeys((*REFERENCES, "pageref"), _of_argument(_reference)),
    **dict.fromkeys(ACRONYMS, _of_argument(_acronym_in_text)),
    **dict.fromkeys(("newacronym", "acrodef", "newacro"), _new_acronym),
    **dict.fromkeys(("ce", "ch", "chem", "cee"), _of_argument(lambda _, __, tex: notation.chemistry(tex))),
    **dict.fromkeys(("SI", "qty", "num", "si", "unit", "ang", "SIrange", "qtyrange", "numrange"), _quantity),
    **dict.fromkeys(("SIlist", "qtylist", "numlist"), _quantity),
    **dict.fromkeys(("textsuperscript", "textsubscript"), _script),
    **dict.fromkeys((mark for mark in notation.ACCENTS if mark.isalpha()), _letter_accent),
    **dict.fromkeys(notation.ABBREVIATIONS, _abbreviation),
    "ensuremath": _ensuremath,
    "texorpdfstring": _first_only,
    "ion": _ion,
    "xspace": _xspace,
    "defcitealias": _citation_alias,
    "acmDOI": _of_argument(_doi),
}
