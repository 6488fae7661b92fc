r"""LaTeX as text: words, accents, formulas and the arguments of commands, walked through from left to right.

Commands with a meaning of their own have handlers. A handler takes the position after its command (for \\begin its own)
and returns the position to continue at; it may append to `out`, and read arguments by `line` and `text_of`.
"""

import re
from collections.abc import Callable

from nsllm_lite.corpus.latex import notation
from nsllm_lite.corpus.latex.commands import SKIPPED
from nsllm_lite.corpus.latex.references import DROP, ITEM, MARK, settle
from nsllm_lite.corpus.latex.verbatim import SHIELDED, UNSHIELD

MAX_DEPTH = 12  # of arguments in arguments that are turned to text one by one; deeper ones are stripped of commands
MAX_FORMULA = 4_000  # characters between dollars; five times as many where displayed

_TOKEN = re.compile(r"\\(?:([A-Za-z@]+)(?:[ \t]*\n(?![ \t]*\n)[ \t]*|[ \t]+)?|[\s\S])|[$~&]")
_BRACKET = re.compile(r"\\[\s\S]|[\[\]{}]")
ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^{}\n]{0,60})\}")
_IN_MATHS = re.compile(r"\\[\s\S]|[${}]|\n[ \t]*\n")
_DISPLAY = re.compile(r"\\[\s\S]|\$\$|\n[ \t]*\n")
_CHEMISTRY = re.compile(r"\s*\\(?:ce|ch)\s*\{")
_BLANK = re.compile(r"\n[ \t]*\n\s*")
SPACE = re.compile(r"[ \t]*(?:\n(?![ \t]*\n)[ \t]*)?")
_GLUE = re.compile(
    r"\s*=?\s*(?:-?\s*[\d.]*\s*(?:true)?\s*(?:pt|in|cm|mm|em|ex|pc|bp|sp|dd|cc|mu|\\[A-Za-z@]+)\b|-?\d+)"
    r"(?:\s*(?:plus|minus)\s*-?[\d.]+\s*(?:pt|in|cm|mm|em|ex|fill?l?|\\[a-z]+))*"
)

Handler = Callable[["Walker", str, int, list[str]], int]


class Walker:
    """One text with its braces and environments matched.

    `out` is where text goes at depth 0; a handler may put a new list there. `lists` are the lists it stands in.
    """

    handlers: dict[str, Handler] = {}  # noqa: RUF012 (each kind of walker has its own)

    def __init__(self, text: str):
        self.text = text
        self.pairs, self.ends = _pairs(text), _ends(text)
        self.out: list[str] = []
        self.depth, self.lists = 0, []

    def walk(self, pos: int, end: int, out: list[str]) -> None:
        """Appends the text of a stretch to `out`; at depth 0 to `self.out`, which a heading may begin anew."""
        text, handlers, own = self.text, self.handlers, self.depth == 0
        while pos < end:
            found = _TOKEN.search(text, pos, end)
            if own:
                out = self.out
            if not found:
                out.append(self._plain(text[pos:end]))
                return
            if found.start() > pos:
                out.append(self._plain(text[pos : found.start()]))
            pos, command, token = found.end(), found[1], found[0]
            if command is None:
                pos = self._symbol(token, found.start(), pos, out)
            elif command in handlers:
                pos = handlers[command](self, command, pos if command != "begin" else found.start(), out)
            elif command in SKIPPED:
                pos = self.skip(pos, SKIPPED[command])
                out.append(" " if command in ("hspace", "hskip") and "-" not in text[found.end() : pos] else DROP)
            elif command in notation.SYMBOLS:
                out.append(notation.SYMBOLS[command])
            elif text.startswith(("*", "["), pos):
                pos = self.skip(pos, "so")
            elif text.startswith("=", pos):
                pos = self.skip(pos, "g")

    def line(self, start: int, end: int) -> str:
        return " ".join(self.text_of(start, end).split())

    def text_of(self, start: int, end: int) -> str:
        if self.depth == MAX_DEPTH:
            return re.sub(r"\\[A-Za-z@]+|[{}\\]", "", self.text[start:end])
        self.depth, lists, self.lists = self.depth + 1, self.lists, []
        out: list[str] = []
        self.walk(start, end, out)
        self.depth, self.lists = self.depth - 1, lists
        return paragraphs("".join(out))

    def _plain(self, run: str) -> str:
        if "{" in run or "}" in run:
            run = run.replace("{", "").replace("}", "")
        if "`" in run or "''" in run:
            run = run.replace("``", "“").replace("''", "”").replace("`", "'")
        if "--" in run:
            run = run.replace("---", "—").replace("--", "–")
        if "\n" in run:
            run = " ".join(_BLANK.split(run)) if self.lists else "\f".join(_BLANK.split(run))
            run = run.replace("\n", " ").replace("\f", "\n\n")
        return run

    def _symbol(self, token: str, start: int, pos: int, out: list[str]) -> int:
        if token == "$":
            return self._dollar(start, out)
        char = token[-1]
        if token in ("~", "&") or char in " \n\t,;:\\":
            out.append(" ")
            return self.skip(pos, "so") if token == "\\\\" else pos
        if char in "([":
            close = self._closing(pos, "\\)" if char == "(" else "\\]")
            if close < 0:
                return pos
            out.append(self.formula(pos, close, char == "["))
            return close + 2
        if char in "'`^\"~=.":
            return self.accent(char, pos, out)
        if char not in "!/-@])>":
            out.append(char)
        return pos

    def accent(self, mark: str, pos: int, out: list[str]) -> int:
        found = self.argument(pos)
        if not found or found[1] - found[0] >= 40:
            return pos
        out.append(notation.accent(mark, self.text_of(found[0], found[1])))
        return found[2]

    def _dollar(self, start: int, out: list[str]) -> int:
        """A formula between dollars; a dollar that is not closed within its paragraph is text."""
        text = self.text
        if text.startswith("$$", start):
            close = self._closing(start + 2, "$$")
            if close < 0:
                return start + 2
            out.append(self.formula(start + 2, close, True))
            return close + 2
        pos = start + 1
        while found := _IN_MATHS.search(text, pos, start + MAX_FORMULA):
            pos = found.end()
            if found[0] == "$":
                out.append(self.formula(start + 1, found.start(), False))
                return pos
            if found[0] == "{":
                close = self.pairs.get(found.start(), 0)
                pos = close + 1 if found.start() < close < start + MAX_FORMULA else pos
            elif found[0] == "}" or found[0][0] == "\n":
                break
        out.append("$")
        return start + 1

    def _closing(self, pos: int, token: str) -> int:
        """Where a formula open at `pos` ends; -1 where another begins, or an inline one's paragraph ends, before."""
        for found in _DISPLAY.finditer(self.text, pos, pos + 5 * MAX_FORMULA):
            if found[0] == token:
                return found.start()
            if found[0] in ("\\[", "$$") or (token == "\\)" and (found[0] == "\\(" or found[0][0] == "\n")):
                break
        return -1

    def formula(self, start: int, end: int, displayed: bool, environment: str = "") -> str:
        raw = self._without_ensuremath(start, end)
        if displayed:
            return f" {notation.display(environment, raw)} "
        chemical = _CHEMISTRY.match(self.text, start, end)
        if chemical and not self.text[self.pairs.get(chemical.end() - 1, start) + 1 : end].strip():
            return notation.chemistry(self.text[chemical.end() : self.pairs[chemical.end() - 1]])
        plain = notation.as_text(raw, self.text[end + 1 : end + 2])
        if plain is not None:
            return plain
        body = notation.formula(raw)
        return f"${body}$" if body else ""

    def _without_ensuremath(self, start: int, end: int) -> str:
        raw = self.text[start:end]
        if "\\ensuremath" not in raw:
            return raw
        cuts: list[tuple[int, int]] = []
        for found in re.finditer(r"\\ensuremath\s*", raw):
            opens = start + found.end()
            close = self.pairs.get(opens, -1)
            twice = self.text[start + found.start() - 1] == "{" and self.text.startswith("}}", close)
            cuts.append((found.start(), found.end() + twice))
            if twice:
                cuts.append((close - start, close - start + 1))
        parts, pos = [], 0
        for cut, after in sorted(cuts):
            parts.append(raw[pos:cut])
            pos = after
        return "".join([*parts, raw[pos:]])

    def argument(self, pos: int) -> tuple[int, int, int] | None:
        """Where the next argument begins and ends, and where the text goes on after it."""
        pos = SPACE.match(self.text, pos).end()
        char = self.text[pos : pos + 1]
        if char == "{":
            close = self.pairs.get(pos)
            return (pos + 1, close, close + 1) if close else None
        if char == "\\":
            end = _TOKEN.match(self.text, pos).end() if pos + 1 < len(self.text) else pos + 1
            return pos, end, end
        return (pos, pos + 1, pos + 1) if char and char not in "}]\n$&" else None

    def option(self, pos: int) -> tuple[int, int, int] | None:
        start = SPACE.match(self.text, pos).end()
        close = self.pairs.get(start) if self.text.startswith("[", start) else None
        if not close or close - start > 2_000 or "\n\n" in self.text[start:close]:
            return None
        return start + 1, close, close + 1

    def skip(self, pos: int, arguments: str) -> int:
        """The position after a star (s), options (o), arguments (m), or a length (g), where present."""
        for kind in arguments:
            if kind == "s":
                pos += self.text.startswith("*", pos)
            elif kind == "g":
                glue = _GLUE.match(self.text, pos, pos + 100)
                pos = glue.end() if glue else pos
            else:
                found = self.option(pos) if kind == "o" else self.argument(pos)
                pos = found[2] if found else pos
        return pos


def paragraphs(raw: str) -> str:
    """Paragraphs on a line each with blank lines between, items of a list on lines of their own; marks are settled."""
    written: list[str] = []
    for paragraph in _BLANK.split(raw):
        text = " ".join(paragraph.split())
        if MARK.search(text):
            text = " ".join(settle(text).split())
        if ITEM in text:
            first, *items = text.split(ITEM)
            lines = [first.strip(), *(f"- {item.strip()}" for item in items if item.strip())]
            text = "\n".join(filter(None, lines))
        if text:
            written.append(text)
    whole = "\n\n".join(written)
    return whole if whole.isascii() or not SHIELDED.search(whole) else whole.translate(UNSHIELD)


def _pairs(text: str) -> dict[int, int]:
    """Where each brace and bracket closes; a bracket never closes beyond the braces it stands in."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for found in _BRACKET.finditer(text):
        char = found[0]
        if char in "{[":
            opened.append(found.start())
        elif char == "}":
            while opened and text[opened[-1]] == "[":
                opened.pop()
            if opened:
                pairs[opened.pop()] = found.start()
        elif char == "]" and opened and text[opened[-1]] == "[":
            pairs[opened.pop()] = found.start()
    return pairs


def _ends(text: str) -> dict[int, tuple[int, int]]:
    """Where the \\end of each \\begin begins and ends; those without one are not in it."""
    ends: dict[int, tuple[int, int]] = {}
    opened: dict[str, list[int]] = {}
    for found in ENVIRONMENT.finditer(text):
        if found[1] == "begin":
            opened.setdefault(found[2], []).append(found.start())
        elif opened.get(found[2]):
            ends[opened[found[2]].pop()] = found.span()
    return ends
