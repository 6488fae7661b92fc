r"""TeX's reading state: a stack of texts, each an expansion within the one below; arguments are read from its top."""

import re
from typing import NamedTuple

MAX_OPTION_CHARS = 2_000

COMMAND = re.compile(r"\\(?:([A-Za-z@]+)(?:[ \t]*\n(?![ \t]*\n)[ \t]*|[ \t]+)?|[\s\S])")
SPACE = re.compile(r"[ \t]*(?:\n[ \t]*)?")
PLACE = re.compile(r"#([1-9])")
ENDS_IN_WORD = re.compile(r"\\[A-Za-z@]+$")
_BRACE = re.compile(r"\\[\s\S]|[{}]")
_OPTION = re.compile(r"\\[\s\S]|[{}\]]")
_NAME = re.compile(r"\{?\s*\\([A-Za-z@]+|[^A-Za-z\s])\s*\}?")


class Macro(NamedTuple):
    num: int  # of arguments
    default: str | None  # of the first, where it is optional
    body: str
    is_meaning: bool = False  # \let to a command of LaTeX itself: not looked at again


class Text:
    """A text being read; the lowest of the stack is the paper."""

    __slots__ = ("file", "folder", "pos", "text")

    def __init__(self, text: str, file: str | None = None, folder: str = ""):
        self.text, self.pos, self.file, self.folder = text, 0, file, folder


class Reading:
    """The stack, and the budget that a search without result spends."""

    def __init__(self):
        self.stack: list[Text] = []
        self.budget = 0

    def _group(self, top: Text, pos: int) -> str | None:
        """What is in the balanced braces that begin at `pos`."""
        depth = 0
        for brace in _BRACE.finditer(top.text, pos):
            depth += (brace[0] == "{") - (brace[0] == "}")
            if depth == 0:
                top.pos = brace.end()
                return top.text[pos + 1 : brace.start()]
        self.budget -= len(top.text) - pos  # searched without result
        return None

    def argument(self) -> str | None:
        """The next braces or single character; a macro's text without one left is popped, a file's is not."""
        while True:
            top = self.stack[-1]
            pos = SPACE.match(top.text, top.pos).end()
            if pos < len(top.text):
                break
            if top.file is not None:
                return None
            self.stack.pop()
        if top.text[pos] == "{":
            return self._group(top, pos)
        if top.text[pos] in "}\n":
            return None
        single = COMMAND.match(top.text, pos)
        top.pos = single.end() if single else pos + 1
        return (single[0].rstrip() if single else top.text[pos]) or None

    def option(self) -> str | None:
        top = self.stack[-1]
        pos = SPACE.match(top.text, top.pos).end()
        if not top.text.startswith("[", pos):
            return None
        depth = 0
        for found in _OPTION.finditer(top.text, pos, pos + MAX_OPTION_CHARS):
            depth += (found[0] == "{") - (found[0] == "}")
            if found[0] == "]" and depth == 0:
                top.pos = found.end()
                return top.text[pos + 1 : found.start()]
        self.budget -= MAX_OPTION_CHARS
        return None

    def star(self) -> str:
        """The star after a command's name, or ""."""
        top = self.stack[-1]
        found = top.text.startswith("*", top.pos)
        top.pos += found
        return "*" * found

    def defined_name(self) -> str:
        self.star()
        top = self.stack[-1]
        found = _NAME.match(top.text, SPACE.match(top.text, top.pos).end())
        if not found:
            return ""
        top.pos = found.end()
        return found[1]


def filled(body: str, arguments: list[str]) -> str:
    """The macro's body with its arguments in place; `\\alpha` given before a letter keeps a space after it."""
    if not arguments or "#" not in body:
        return body
    pieces, given = PLACE.split(body), dict(enumerate(arguments, start=1))
    pieces[1::2] = [given.get(int(number), "") for number in pieces[1::2]]
    for n in range(len(pieces) - 1):
        if pieces[n + 1][:1].isalpha() and ENDS_IN_WORD.search(pieces[n], max(0, len(pieces[n]) - 40)):
            pieces[n] += " "
    return "".join(pieces)
