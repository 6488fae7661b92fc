r"""Handlers of commands that stand for words: citations, references, quantities, chemistry, acronyms."""

import re
from collections.abc import Callable

from nsllm_lite.corpus.files.elements import script
from nsllm_lite.corpus.latex import notation
from nsllm_lite.corpus.latex.commands import ACRONYMS, CITES, REFERENCES, TEXTUAL_CITES
from nsllm_lite.corpus.latex.references import CITED, Citations, kind_of
from nsllm_lite.corpus.latex.verbatim import UNSHIELD
from nsllm_lite.corpus.latex.walk import Handler, Walker
from nsllm_lite.formats.documents import as_doi

_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI")
_SIUNITX = {1: "num si unit ang numlist", 2: "SI qty numrange SIlist qtylist", 3: "SIrange qtyrange"}  # by arguments


def taking(num: int, written: Callable[..., str], before: str = "", as_text: bool = False) -> Handler:
    """The handler of a command that stands for `written(paper, command, *arguments)` of its `num` arguments.

    `before` are the stars and options that may stand before each argument, as `Walker.skip` has them; the arguments are
    LaTeX as it stands, or `as_text`. A command that lacks one is left out.
    """

    def handle(paper: Walker, command: str, pos: int, out: list[str]) -> int:
        start, values = pos, []
        for _ in range(num):
            found = paper.argument(paper.skip(pos, before))
            if not found:
                return start
            values.append(paper.line(*found[:2]) if as_text else paper.text[found[0] : found[1]])
            pos = found[2]
        out.append(written(paper, command, *values))
        return pos

    return handle


class Citing(Walker):
    r"""A walker that knows what its commands cite and abbreviate; `bibliography` gives text with more \bibitem."""

    def __init__(self, text: str, bibliography: Callable[[], str]):
        super().__init__(text)
        self.doi = ""
        self.acronyms: dict[str, str] = {}
        self.citations = Citations(lambda: f"{text}\n{bibliography()}", lambda label: Walker(label).line(0, len(label)))

    def _citation(self, command: str, keys: str) -> str:
        if command in TEXTUAL_CITES:
            return self.citations.in_words(keys, command)
        return f"({self.citations.in_words(keys, command)})" if command == "citepalias" else CITED

    def _acronym_in_text(self, command: str, label: str) -> str:
        plural = "s" if command in ("glspl", "Glspl", "acp", "acsp") else ""
        return self.acronyms.get(label.strip(), label.strip()) + plural

    def _doi(self, command: str, doi: str) -> str:
        self.doi = self.doi or as_doi(doi.translate(UNSHIELD))
        return ""

    def _ensuremath(self, command: str, pos: int, out: list[str]) -> int:
        found = self.argument(pos)
        if not found:
            return pos
        out.append(self.formula(found[0], found[1], False))
        return found[2]

    def _ion(self, command: str, element: str, stage: str) -> str:
        is_number = stage.isascii() and stage.isdigit() and 0 < int(stage[:4]) < len(_ROMAN)
        return f"{element} {_ROMAN[int(stage)] if is_number else stage.upper()}"

    def _citation_alias(self, command: str, key: str, alias: str) -> str:
        self.citations.aliases[key] = alias
        return ""

    def _new_acronym(self, command: str, pos: int, out: list[str]) -> int:
        r"""\newacronym{key}{short}{long} and \acrodef{key}[short]{long}."""
        key = self.argument(self.skip(pos, "o"))
        if not key:
            return pos
        label = self.text[key[0] : key[1]].strip()
        short = self.argument(key[2]) if command == "newacronym" else self.option(key[2])
        self.acronyms[label] = self.line(*short[:2]) if short else label
        return self.skip(short[2] if short else key[2], "m")

    def _xspace(self, command: str, pos: int, out: list[str]) -> int:
        r"""\xspace, or an abbreviation that a class file defines, mostly with a space after it where one is needed."""
        out.append(notation.ABBREVIATIONS.get(command, ""))
        following = self.text[pos : pos + 2]
        if not re.match(r"[.,;:!?'/)\]}\-~\s]|\\[ ,/]|$", following):
            out.append(" ")
        return pos


WORDS: dict[str, Handler] = {
    **dict.fromkeys((*CITES, *TEXTUAL_CITES, "citepalias"), taking(1, Citing._citation, "soo")),
    **dict.fromkeys((*REFERENCES, "pageref"), taking(1, lambda _, command, label: kind_of(label, command), "soo")),
    **dict.fromkeys(ACRONYMS, taking(1, Citing._acronym_in_text, "soo")),
    **dict.fromkeys(("newacronym", "acrodef", "newacro"), Citing._new_acronym),
    **dict.fromkeys(("ce", "ch", "chem", "cee"), taking(1, lambda _, __, tex: notation.chemistry(tex), "soo")),
    **{
        command: taking(num, lambda _, command, *values: notation.siunitx(command, *values), "o")
        for num, commands in _SIUNITX.items()
        for command in commands.split()
    },
    **dict.fromkeys(
        ("textsuperscript", "textsubscript"),
        taking(1, lambda _, command, text: script(text, raised=command == "textsuperscript"), as_text=True),
    ),
    **dict.fromkeys((mark for mark in notation.ACCENTS if mark.isalpha()), Citing.accent),
    **dict.fromkeys((*notation.ABBREVIATIONS, "xspace"), Citing._xspace),
    "ensuremath": Citing._ensuremath,
    "texorpdfstring": taking(2, lambda _, __, for_tex, ___: for_tex, as_text=True),
    "ion": taking(2, Citing._ion, as_text=True),
    "defcitealias": taking(2, Citing._citation_alias, as_text=True),
    "acmDOI": taking(1, Citing._doi, "soo"),
}
