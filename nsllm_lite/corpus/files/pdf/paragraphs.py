"""Lines of print -> paragraphs, with marks at line ends, where `linebreaks` joins the words that print has broken."""

import re
from collections.abc import Iterable, Sequence

from nsllm_lite.corpus.files.linebreaks import BREAK
from nsllm_lite.corpus.files.pdf.blocks import Block, Measures
from nsllm_lite.corpus.files.pdf.lines import Line
from nsllm_lite.formats.scripts import EASTERN

INDENT = 0.5  # of the size
SHORT = 0.12  # of the column's width: a last line ends before that
_ENDED = re.compile(r"[.!?:。！？：][\"'”’)\]\ue001]*$")
_BULLET = re.compile(r"[•●▪■◦‣∙\uf0b7\uf0a7]\s*")
_CHINESE = re.compile(rf"(?<={EASTERN.pattern}){BREAK} (?={EASTERN.pattern})")


def joined(lines: Sequence[Line]) -> str:
    """One paragraph of the lines, with marks where they ended; no blank between two Chinese characters."""
    return _CHINESE.sub("", f"{BREAK} ".join(line.text for line in lines))


class _Paragraphs:
    """Takes the blocks of one section; a paragraph goes on behind a column, a page or a figure."""

    def __init__(self, measures: Measures):
        self._measures = measures
        self._open: list[Line] = []
        self._done: list[str] = []

    def add(self, block: Block) -> None:
        for place, line in enumerate(block.lines):
            if self._open and self._begins(line, place == 0):
                self._close()
            self._open.append(line)

    def finish(self) -> list[str]:
        if self._open:
            self._close()
        return self._done

    def _close(self) -> None:
        text = joined(self._open)
        self._open = []
        if bullet := _BULLET.match(text):
            text = f"- {text[bullet.end() :]}"
            if self._done and self._done[-1].startswith("- "):
                self._done[-1] += f"\n{text}"
                return
        self._done.append(text)

    def _begins(self, line: Line, is_first: bool) -> bool:
        """Whether a paragraph begins with the line: indented, or apart, and no sentence is left open before it."""
        above = self._open[-1]
        if _BULLET.match(line.text):
            return True
        same_column = above.page == line.page and above.column == line.column
        is_apart = is_first or self._measures.is_apart(above, line)
        ended = bool(_ENDED.search(above.text))
        if is_apart and (line.text[:1].islower() or not (ended or same_column)):
            return False
        left, _ = self._measures.edges(line)
        above_left, above_right = self._measures.edges(above)
        was_indented = above.left > above_left + INDENT * above.size
        if line.left > left + INDENT * line.size and not (was_indented and len(self._open) > 1):
            return ended or not was_indented
        if is_apart and same_column:
            return ended
        return ended and above.right < above_right - SHORT * (above_right - above_left)


def texts_of(blocks: Iterable[Block], measures: Measures) -> list[str]:
    """The paragraphs of one section."""
    paragraphs = _Paragraphs(measures)
    for block in blocks:
        paragraphs.add(block)
    return paragraphs.finish()
