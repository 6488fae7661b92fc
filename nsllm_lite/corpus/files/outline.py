"""Sections from a flat list of headings and paragraphs. Their nesting follows from the numbers of headings ("2.1" under
"2", "A" under "III") or from their levels.
"""

import re

from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.documents import Section

MAX_NUMBER_CHARS = 24
_MAIN = re.compile(rf"({PATTERNS['main_headings']})[.:]?", re.IGNORECASE)
_ROMAN = re.compile(r"[IVX]{1,6}")
_LETTER = re.compile(r"[A-Z]")
_ARABIC = re.compile(r"(?:\d{1,3}|[A-Z])(?:\.\d{1,3}){0,5}")
# Before a heading's words: "2.1 ", "2.", "IV. ", "A. ", but no letter without its point ("A new method").
_PRINTED = re.compile(r"(\d{1,2}(?:\.\d{1,3}){0,5}\.?|[A-Z](?:\.\d{1,3}){1,5}\.?|[IVX]{1,6}\.|[A-Z]\.)\s+(?=\S)")


def printed_number(heading: str) -> str:
    """The number that a heading begins with, or ""."""
    found = _PRINTED.match(heading[: 2 * MAX_NUMBER_CHARS])
    return found[1] if found else ""


class Outline:
    """Takes headings and paragraphs in reading order; `sections` returns the sections.

    A heading without a text of its own becomes a section only where another lies under it.
    """

    def __init__(self) -> None:
        self._sections: list[tuple[str, tuple[str, ...], list[str], str]] = []
        self._numbered: dict[tuple[str, ...], tuple[str, ...]] = {}  # number to heading path
        self._levels: list[tuple[int, str]] = []  # the headings around the present place
        self._roman = ""
        self._letter = ""
        self._main = ""  # the main heading above unnumbered ones

    def begin(
        self, heading: str, number: str = "", level: int = 0, parents: tuple[str, ...] | None = None, kind: str = ""
    ) -> tuple[str, ...]:
        """Opens a section and returns its path. Its parents are `parents`, or follow from `level` (1 is the top) or
        `number`."""
        if parents is None and level:
            self._levels = [open_ for open_ in self._levels if open_[0] < level]
            parents = tuple(text for _, text in self._levels)
            self._levels.append((level, heading))
        elif parents is None:
            parents = self._parents_of(number, heading)
        self._sections.append((heading, parents, [], kind))
        return (*parents, heading)

    def add(self, paragraph: str) -> None:
        if not self._sections:
            self.begin("", parents=())
        if paragraph:
            self._sections[-1][2].append(paragraph)

    def sections(self) -> tuple[Section, ...]:
        paths = {parents[:n] for _, parents, *_ in self._sections for n in range(1, len(parents) + 1)}
        return tuple(
            Section(heading, "\n\n".join(paragraphs), parents, kind)
            for heading, parents, paragraphs, kind in self._sections
            if paragraphs or (*parents, heading) in paths
        )

    def _parents_of(self, number: str, heading: str) -> tuple[str, ...]:
        key = self._key(number)
        if not key:
            return self._under_main(heading)
        self._main = ""
        above = next((self._numbered[key[:n]] for n in range(len(key) - 1, 0, -1) if key[:n] in self._numbered), ())
        self._numbered[key] = (*above, heading)
        return above

    def _under_main(self, heading: str) -> tuple[str, ...]:
        if _MAIN.fullmatch(heading):
            self._main = heading
            return ()
        if self._sections and self._sections[-1][0] == self._main and self._sections[-1][2]:
            self._main = ""
        return (self._main,) if self._main else ()

    def _key(self, number: str) -> tuple[str, ...]:
        """The steps of a number: ("2", "1"), ("III",), and ("III", "A") for a letter that follows on in III."""
        number = number.strip().strip("()").rstrip(".") if len(number) <= MAX_NUMBER_CHARS else ""
        if self._roman and _LETTER.fullmatch(number):
            if number == (chr(ord(self._letter) + 1) if self._letter else "A"):
                self._letter = number
                return (self._roman, number)
            if not _ROMAN.fullmatch(number):
                self._roman = ""  # the appendices begin
        if _ROMAN.fullmatch(number):
            self._roman, self._letter = number, ""
            return (number,)
        return tuple(number.split(".")) if _ARABIC.fullmatch(number) else ()
