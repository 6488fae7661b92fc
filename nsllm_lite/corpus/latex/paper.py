r"""A flattened LaTeX paper taken apart: title, abstract and sections, each as text."""

import re
from collections.abc import Callable

from nsllm_lite.corpus.latex import commands
from nsllm_lite.corpus.latex.references import DROP, ITEM
from nsllm_lite.corpus.latex.walk import ENVIRONMENT, SPACE, paragraphs
from nsllm_lite.corpus.latex.words import WORDS, Citing, taking
from nsllm_lite.formats.documents import Section

_LARGE = re.compile(r"\\(?:LARGE|Large|huge|Huge|large|bf|bfseries)(?![A-Za-z])")
_FIRST_HEADING = re.compile(r"\\(?:section|chapter|begin\s*\{abstract)")
_MOVES = ("Context", "Aims", "Methods", "Results", "Conclusions")  # of Astronomy & Astrophysics
_PREAMBLE = re.compile(
    r"\\(title|icmltitle|Title|subtitle|newtheorem|spnewtheorem|abstract|newacronym|acrodef|defcitealias|acmDOI)"
    r"(?![A-Za-z@])"
)


class Paper(Citing):
    """A flat text, walked through once from beginning to end. `read` fills the fields."""

    def __init__(self, text: str, bibliography: Callable[[], str]):
        super().__init__(text, bibliography)
        self.title = self.subtitle = self.abstract = ""
        self.moves: tuple[tuple[str, str], ...] = ()
        self.sections: list[Section] = []
        self.theorems = dict(commands.THEOREMS)
        self.path: list[tuple[int, str]] = []
        self.appendix, self.hidden = False, 0

    def read(self) -> bool:
        """False where there is no \\begin{document}."""
        begin = re.search(r"\\begin\s*\{document\}", self.text)
        if not begin:
            return False
        for found in _PREAMBLE.finditer(self.text, 0, begin.start()):
            self.handlers[found[1]](self, found[1], found.end(), [])
        end = self.text.find("\\end{document}", begin.end())
        end = end if end >= 0 else len(self.text)
        self.walk(begin.end(), end, self.out)
        self._close_section()
        self.title = self.title or self._printed_title(begin.end(), end)
        self.title += f": {self.subtitle}" if self.title and self.subtitle else ""
        own = [s for s in self.sections if s.heading.lower() == "abstract" and not s.parents]
        if own and not self.abstract:
            self.abstract = own[0].text
            self.sections.remove(own[0])
        self.sections = [s for n, s in enumerate(self.sections) if s.text or _has_child(self.sections, n)]
        return True

    def _close_section(self) -> None:
        text, self.out = paragraphs("".join(self.out)), []
        if not self.hidden and (self.path or re.search(r"\w", text)):
            *parents, heading = [heading for _, heading in self.path] or [""]
            above = ["Appendix"] if self.appendix and self.path else []
            self.sections.append(Section(heading, text, (*above, *parents)))

    def open_section(self, level: int, heading: str) -> None:
        self._close_section()
        while self.path and self.path[-1][0] >= level:
            self.path.pop()
        self.path.append((level, heading))
        self.lists = []
        if not self.hidden or level <= self.hidden:
            self.hidden = level if commands.HIDDEN_HEADING.match(heading) else 0

    def _printed_title(self, start: int, end: int) -> str:
        """The first line in large or bold letters, for papers without \\title."""
        heading = _FIRST_HEADING.search(self.text, start, end)
        found = _LARGE.search(self.text, start, min(heading.start() if heading else end, start + 3_000))
        if not found:
            return ""
        opens = self.text.rfind("{", start, found.start())
        close = self.pairs.get(opens, 0)
        if not found.start() < close < found.start() + 400:
            opens, close = found.end(), self.text.find("\\\\", found.end(), found.end() + 300)
        title = self.line(opens + 1, close) if close > opens else ""
        return title if len(title.split()) > 1 else ""

    def _heading(self, command: str, pos: int, out: list[str]) -> int:
        pos = self.skip(pos, "so")
        found = self.argument(pos)
        if not found:
            return pos
        heading = self.line(found[0], found[1])
        if self.depth:
            out.append(f" {heading} ")
        else:
            heading = heading.rstrip(".:") if command.endswith("paragraph") else heading
            self.open_section(commands.LEVELS[command], heading)
        return found[2]

    def _title(self, command: str, text: str) -> str:
        if command == "subtitle":
            self.subtitle = self.subtitle or text
        else:
            self.title = self.title or text
        return ""

    def _front_ends(self, command: str, pos: int, out: list[str]) -> int:
        if not self.path and not self.depth:
            self.out = []
        return pos

    def _abstract(self, command: str, pos: int, out: list[str]) -> int:
        """One argument, or the five of Astronomy & Astrophysics."""
        found = self.argument(self.skip(pos, "so"))
        parts: list[tuple[int, int]] = []
        while found and len(parts) < 5 and self.text[found[0] - 1] == "{":
            parts.append(found[:2])
            found = self.argument(found[2])
        if not parts:
            return pos
        parts = parts if len(parts) == 5 else parts[:1]
        texts = [self.text_of(*part) for part in parts]
        if len(parts) == 5 and not self.abstract:
            self.moves = tuple((label, text) for label, text in zip(_MOVES, texts, strict=True) if text)
        self._set_abstract(" ".join(filter(None, texts)))
        return parts[-1][1] + 1

    def _set_abstract(self, text: str) -> None:
        self.abstract = self.abstract or text
        self._front_ends("abstract", 0, [])

    def _begin(self, command: str, start: int, out: list[str]) -> int:
        opening = ENVIRONMENT.match(self.text, start)
        if not opening:
            return start + len("\\begin")
        name, pos, end = opening[2].strip().rstrip("*"), opening.end(), self.ends.get(start)
        if end and name in commands.FORMULAS:
            out.append(self.formula(pos, end[0], name != "math", name))
        elif end and name in commands.ABSTRACTS:
            self._set_abstract(self.text_of(self.skip(pos, "o"), end[0]))
        elif not (end and name in commands.LEFT_OUT):
            return self.skip(self._open(name, pos, out), commands.ENVIRONMENT_ARGUMENTS.get(name, "o"))
        else:
            out.append(DROP)
        return end[1]

    def _open(self, name: str, pos: int, out: list[str]) -> int:
        if name in commands.LISTS:
            out.append(" " if self.lists else "\n\n")
            self.lists.append(name)
        elif name in self.theorems:
            title = self.option(pos)
            said = f" ({self.line(*title[:2])})" if title else ""
            out.append(f"\n\n{self.theorems[name]}{said}. ")
            return title[2] if title else pos
        elif name in ("appendix", "appendices"):
            self._appendix("appendix", pos, out)
        elif name in commands.BLOCKS:
            out.append("\n\n")
        return pos

    def _end(self, command: str, pos: int, out: list[str]) -> int:
        found = self.argument(pos)
        name = self.text[found[0] : found[1]].strip().rstrip("*") if found else ""
        if name in commands.LISTS and self.lists:
            self.lists.pop()
            out.append(" " if self.lists else "\n\n")
        elif name in commands.BLOCKS or name in self.theorems:
            out.append("\n\n")
        return found[2] if found else pos

    def _item(self, command: str, pos: int, out: list[str]) -> int:
        out.append(ITEM)
        label = self.option(pos)
        if label and self.lists and self.lists[-1] in commands.DESCRIPTIONS:
            text = self.line(*label[:2])
            out.append(f"{text} " if text.endswith((".", ":", ",", ";")) else f"{text}: " if text else "")
        return label[2] if label else pos

    def _appendix(self, command: str, pos: int, out: list[str]) -> int:
        if not self.depth:
            self._close_section()
            self.path, self.appendix, self.hidden = [], True, 0
        return pos

    def _acknowledge(self, command: str, pos: int, out: list[str]) -> int:
        """AASTeX's \\acknowledgments: an argument, or all up to the next heading."""
        found = self.argument(pos) if self.text.startswith("{", SPACE.match(self.text, pos).end()) else None
        if not found and not self.depth:
            self.open_section(commands.LEVELS["section"], "Acknowledgements")
        return found[2] if found else pos

    def _newtheorem(self, command: str, pos: int, out: list[str]) -> int:
        name = self.argument(self.skip(pos, "s"))
        if not name:
            return pos
        shown = self.argument(self.skip(name[2], "o"))
        if not shown:
            return name[2]
        key = self.text[name[0] : name[1]].strip()
        if key not in commands.FORMULAS | commands.LISTS | commands.LEFT_OUT:
            self.theorems[key] = self.line(*shown[:2])
        return self.skip(shown[2], "o")

    def _break(self, command: str, pos: int, out: list[str]) -> int:
        out.append(" " if self.lists else "\n\n")
        return pos


def _has_child(sections: list[Section], n: int) -> bool:
    path = (*sections[n].parents, sections[n].heading)
    return n + 1 < len(sections) and sections[n + 1].parents[: len(path)] == path


Paper.handlers = {
    **WORDS,
    **dict.fromkeys(commands.LEVELS, Paper._heading),
    **dict.fromkeys((*commands.TITLES, "subtitle"), taking(1, Paper._title, "so", as_text=True)),
    **dict.fromkeys(("maketitle", "IEEEmaketitle"), Paper._front_ends),
    **dict.fromkeys(("abstract", "abst", "Abstract"), Paper._abstract),
    **dict.fromkeys(("appendix", "appendices", "APPENDICES"), Paper._appendix),
    **dict.fromkeys(("acknowledgments", "acknowledgements", "acknowledgment", "ack"), Paper._acknowledge),
    **dict.fromkeys(("newtheorem", "spnewtheorem", "declaretheorem"), Paper._newtheorem),
    **dict.fromkeys(commands.PARAGRAPH_BREAKS, Paper._break),
    "begin": Paper._begin,
    "end": Paper._end,
    "item": Paper._item,
}
