"""Lines of print -> paragraphs, with marks at line ends, where `linebreaks` joins the words that print has broken."""

import re
from collections.abc import Iterator, Sequence

from nsllm_lite.corpus.files.linebreaks import BREAK
from nsllm_lite.corpus.files.pdf.blocks import Block, Measures
from nsllm_lite.corpus.files.pdf.lines import Line
from nsllm_lite.corpus.texts.scripts import EASTERN

INDENT = 0.5  # of the size
SHORT = 0.12  # of the column's width: a last line ends before that
_ENDED = re.compile(r"[.!?:。！？：][\"'”’)\]\ue001]*$")
_BULLET = re.compile(r"[•●▪■◦‣∙\uf0b7\uf0a7]\s*")
_CHINESE = re.compile(rf"(?<={EASTERN.pattern}){BREAK} (?={EASTERN.pattern})")


def joined(lines: Sequence[Line]) -> str:
    """One paragraph of the lines, with marks where they ended; no blank between two Chinese characters."""
    return _CHINESE.sub("", f"{BREAK} ".join(line.text for line in lines))


class Paragraphs:
    """Takes lines and blocks of one section; a paragraph goes on behind a column, a page or a figure."""

    def __init__(self, measures: Measures):
        self._measures = measures
        self._open: list[Line] = []
        self.done: list[str] = []

    def add(self, block: Block) -> None:
        for place, line in enumerate(block.lines):
            if self._open and self._begins(line, place == 0):
                self._close()
            self._open.append(line)

    def finish(self) -> list[str]:
        if self._open:
            self._close()
        return self.done

    def _close(self) -> None:
        text = joined(self._open)
        self._open = []
        if bullet := _BULLET.match(text):
            text = f"- {text[bullet.end() :]}"
            if self.done and self.done[-1].startswith("- "):
                self.done[-1] += f"\n{text}"
                return
        self.done.append(text)

    def _begins(self, line: Line, is_first: bool) -> bool:
        """Whether a paragraph begins with the line: indented, or apart, and no sentence is left open before it."""
        above = self._open[-1]
        if _BULLET.match(line.text):
            return True
        is_apart = self._measures.is_apart(above, line)
        ended = bool(_ENDED.search(above.text))
        if is_apart or is_first:
            same_column = above.page == line.page and above.column == line.column
            if line.text[:1].islower() or (not ended and not same_column):
                return False
        left, right = self._measures.edges(line)
        indent = line.left > left + INDENT * line.size
        was_indented = above.left > self._measures.edges(above)[0] + INDENT * above.size
        if indent and not (was_indented and len(self._open) > 1):
            return ended or not was_indented
        if is_apart:
            same_column = above.page == line.page and above.column == line.column
            if same_column:
                return ended
        above_left, above_right = self._measures.edges(above)
        return ended and above.right < above_right - SHORT * (above_right - above_left)


def texts_of(blocks: Sequence[Block], measures: Measures) -> Iterator[str]:
    paragraphs = Paragraphs(measures)
    for block in blocks:
        paragraphs.add(block)
    yield from paragraphs.finish()
