r"""unarXive 2022: arXiv papers read from their LaTeX, as JSON lines with sections of paragraphs.

A paragraph holds `{{formula:KEY}}` and the like, whose content stands in `ref_entries`. Formulas become $...$, those on
a line of their own $$...$$; citations are dropped, or become the number of their entry where the sentence needs one
("as in [3]"); figures and tables are dropped. `REF`, in the place of a lost cross-reference, is removed.
"""

import re
from dataclasses import replace
from itertools import groupby, pairwise
from typing import NamedTuple

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.elements import FORMULA
from nsllm_lite.corpus.files.objects import object_in, objects_in, text_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.outline import Outline
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.sources import arxiv
from nsllm_lite.formats.documents import Document, Section

LEVELS = {"chapter": 1, "part": 1, "section": 1, "subsection": 2, "subsubsection": 3}
HEADING = ("section", "sec_number", "sec_type")
MAX_REPEATS = 4  # of a formula; unarXive refers to each once or twice, and a hostile file may not grow without end
MIN_WORDS_CHARS = 8  # of three words that are none of a formula
LOWEST = 4  # headings within a paragraph, whose type unarXive leaves empty

# unarXive adds a space to each. A pattern that begins with a sign is sooner found than one that looks behind first.
_FORMULA = re.compile(r"(?: (?<=^ )\{\{|\{\{)formula:([^{}\n]*)\}\} ?(?=( *$)?)", re.MULTILINE)
_OTHER = re.compile(r"\{\{(cite|figure|table|ref):([^{}\n]*)\}\}")
_TEXT_COMMAND = re.compile(r"\\(?:text\w*|mbox|operatorname\*?|math\w+)\s*\{[^{}]*\}|\\[a-zA-Z]+\*?")
_WORDS = re.compile(r"(?<![\w{])[A-Za-z]{2,}(?:[ ,.]+[a-z]{2,}){2}")
_LOST = re.compile(r"\bREF(?= (?:[\s.,;:()\[\]{}–-]|$)) ")
_BRACKETED = re.compile(r"\s?\([^()\n]{0,120}\)")
_POINTING = re.compile(
    r"\b(?:see|cf|e\.?g|also|and|in|the|of|or|from|by|to|figs?|figures?|tabs?|tables?|eqs?|eqns?|equations?|secs?|"
    r"sections?|appendi(?:x|ces)|app|theorems?|thm|lemmas?|propositions?|corollar(?:y|ies)|definitions?|remarks?|"
    r"examples?|algorithms?|chapters?|REF)\b|[\s.,;:–-]",
    re.IGNORECASE,
)
_SPACE_BEFORE_SIGN = re.compile(r"[ \xa0](?<=\S.)[ \xa0]*(?=[.,;:)]{1,3}(?:\s|$))")
_SPACED_SIGN = re.compile(r"[ \xa0][.,;:)]")  # sooner found
_COMMAS = re.compile(r",(?:[ \xa0]?,)*(?=[.;:)](?:\s|$))|,(?:[ \xa0]?,)+")  # between citations that unarXive lost
_MARK = "\ue004"  # stands for a lost cross-reference until its brackets are known
_SPACED_MARK = re.compile(f"[ \xa0]?{_MARK}")

records = iter_records


def recognise(head: str) -> bool:
    objects = objects_in(head) if '"paper_id"' in head else ()
    return any("paper_id" in keys and {"_source_hash", "_source_name"} & keys.keys() for _, keys in objects)


def document(record: dict, place: Place) -> Document | Unread:
    metadata, body = object_in(record.get("metadata")), record.get("body_text")
    if not isinstance(body, list) and not metadata:
        return place.unread("neither metadata nor body_text in the record")
    own = record.get("abstract")
    abstract = own.get("text") if isinstance(own, dict) else own
    cited = [_cited(entry) for entry in object_in(record.get("bib_entries")).values() if isinstance(entry, dict)]
    stated = {"references": cited} | {key: value for key, value in metadata.items() if value}
    paper = arxiv.document({"id": record.get("paper_id"), "abstract": abstract, **stated}, place)
    paragraphs = [p if isinstance(p, dict) else {"text": p} for p in body] if isinstance(body, list) else []
    return replace(
        paper,
        sections=_sections(paragraphs, _Entries(record)),
        discipline=paper.discipline or text_in(record.get("discipline")),
    )


def _cited(entry: dict) -> dict:
    """An entry of the bibliography, as printed without the formulas whose content unarXive keeps elsewhere."""
    printed = text_in(entry.get("bib_entry_raw"))
    return {**entry, "bib_entry_raw": _FORMULA.sub("", printed)} if "{{" in printed else entry


class _Entries:
    """What the placeholders of one record stand for."""

    def __init__(self, record: dict):
        entries = object_in(record.get("ref_entries")).items()
        self._latex = {key: text_in(entry.get("latex")) for key, entry in entries if isinstance(entry, dict)}
        self._chars_left = MAX_REPEATS * sum(map(len, self._latex.values()))
        self._numbers = {key: n for n, key in enumerate(object_in(record.get("bib_entries")), start=1)}

    def resolve(self, text: str) -> str:
        text = citations.settle(_OTHER.sub(self._other, text) if "{{" in text else text)
        text = _LOST.sub(_MARK, text) if "REF" in text else text
        if _MARK in text or "()" in text:
            text = _SPACED_MARK.sub("", _BRACKETED.sub(_without_pointers, text))
        if _SPACED_SIGN.search(text):
            text = _SPACE_BEFORE_SIGN.sub("", text)
        text = _COMMAS.sub(lambda run: "" if run.string[run.end() : run.end() + 1] in tuple(".;:)") else ",", text)
        return _FORMULA.sub(self._formula, text) if "{{formula:" in text else text

    def _other(self, place: re.Match) -> str:
        number = f"[{self._numbers[place[2]]}]" if place[2] in self._numbers else ""
        return citations.mark(number) if place[1] == "cite" else ""

    def _formula(self, place: re.Match) -> str:
        """TeX between dollars. Words between two formulas that unarXive took for a formula become words again."""
        latex = self._latex.get(place[1])
        self._chars_left -= len(latex or "")
        if latex is None or self._chars_left < 0:
            return FORMULA
        bare = " ".join(latex.split())
        if not bare.strip("_^{}"):
            return ""  # an author's own command that unarXive did not know
        if len(latex) >= MIN_WORDS_CHARS and _WORDS.search(_TEXT_COMMAND.sub(" ", latex)):
            return latex
        begins_line = place.string[max(0, place.start() - 1) : place.start()] in ("", "\n")
        return f"$${bare}$$" if begins_line and place[2] is not None else f"${bare}$"


def _without_pointers(bracketed: re.Match) -> str:
    """A bracket is removed where it contains only lost cross-references and the words that introduce them."""
    inner = bracketed[0].strip()[1:-1]
    is_lost = _MARK in inner or (not inner and bracketed[0][0].isspace())
    return "" if is_lost and not _POINTING.sub("", inner.replace(_MARK, " ")) else bracketed[0]


def _sections(paragraphs: list[dict], entries: _Entries) -> tuple[Section, ...]:
    runs = [(h, list(run)) for h, run in groupby(paragraphs, lambda p: _Heading(*(text_in(p.get(k)) for k in HEADING)))]
    followed = dict(pairwise(heading.number for heading, _ in runs if heading.level == 1))
    outline = Outline()
    around: list[tuple[_Heading, str]] = []
    for heading, run in runs:
        title = " ".join(entries.resolve(heading.text).split())
        while around and around[-1][0].level >= heading.level:
            around.pop()
        if around and not heading.lies_under(around[-1][0], followed):
            around = []
        outline.begin(title, parents=tuple(text for _, text in around))
        around.append((heading, title))
        for paragraph in run:
            outline.add(_block(paragraph, entries))
    return outline.sections()


class _Heading(NamedTuple):
    text: str
    number: str
    kind: str

    @property
    def level(self) -> int:
        return LEVELS.get(self.kind, LOWEST if self.text else 1)

    def lies_under(self, above: "_Heading", followed: dict[str, str]) -> bool:
        """A section without a text of its own is not listed: its subsections must not go to the one before it."""
        if "." in self.number:
            return self.number.rpartition(".")[0] == above.number
        after = followed.get(above.number, "")
        gap = above.number.isdecimal() and after.isdecimal() and int(after) != int(above.number) + 1
        return not (gap and above.level == 1)


def _block(paragraph: dict, entries: _Entries) -> str:
    """A paragraph, or a line for each item of a list."""
    text = entries.resolve(text_in(paragraph.get("text"))).strip()
    if paragraph.get("content_type") != "list":
        return text
    items = (" ".join(item.split()) for item in re.split(r"\n\s*\n", text))
    return "\n".join(f"- {item}" for item in items if item)
