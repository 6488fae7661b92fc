r"""A LaTeX paper as one flat text: comments and listings removed, inputs inserted, the author's own macros expanded.

What is expanded: \newcommand and its kin with plain or one optional argument, \def with #1#2, \let, \newif,
\DeclareMathOperator and \newenvironment. Not expanded, so that the command stays for the caller to judge: delimited
arguments, xparse beyond "m", and bodies that program TeX (\csname, \expandafter, names with @).

A loop over a stack of texts, so depth needs no recursion. All work spends a budget: a macro whose expansion grows
without bound stays unexpanded, and when the budget is spent nothing more is expanded.
"""

import posixpath
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from nsllm_lite.corpus.latex.commands import KEEP
from nsllm_lite.corpus.latex.reading import COMMAND, ENDS_IN_WORD, PLACE, Macro, Reading, Text, filled
from nsllm_lite.corpus.latex.verbatim import without_comments

MAX_INPUT_DEPTH = 10
MAX_INPUTS = 1_000  # inputs and styles, those that are not there too
MAX_CHARS = 1 << 23  # of a paper with all its inputs
MAX_STYLE_CHARS = 200_000  # a longer style file is a publisher's, not the author's macros
CALL_CHARS = 100_000  # what one call may expand to, beside CALL_GROWTH times its arguments
CALL_GROWTH = 30
FREE_CHARS, TOTAL_GROWTH = 500_000, 3  # what all calls of one paper may expand to

BEGIN = "begin "  # before an environment's name, among the names of macros
Sibling = Callable[[str], str | None]

_LINE_END = re.compile(r"(?:[ \t]*\n)?")
_PARAMETERS = re.compile(r"\s*((?:#\d)*)\s*(?=\{)")
_PROGRAMS = re.compile(r"@[A-Za-z]|[A-Za-z]@|\\(?:csname|expandafter|futurelet|catcode|afterassignment|halign)\b|##")
_WANTS_ARGUMENT = re.compile(
    r"\\(?:[dt]?frac|sqrt|(?:wide)?(?:hat|tilde)|bar|vec|d?dot|(?:over|under)line|math[a-z]+|boldsymbol|bm|check|breve)\s*$"
)
_BRANCH = re.compile(r"\\(?:(?:newif\s*)?\\?(if[A-Za-z@]*)|(else|fi)(?![A-Za-z@]))")
_NO_BRANCH = re.compile(  # commands of packages that take arguments and have no \fi
    r"iff$|if(?:thenelse|toggle|bool|(?:un)?def$|cs(?:un)?def|blank|str|package|class|file|"
    r"(?:num|dim)(?:comp|equal|greater|less|odd))"
)
_MEANING = re.compile(r"\s*=?\s*(?:\\([A-Za-z@]+|[\s\S])|([^\s\\{}]))")
_FILE = re.compile(r'\{\s*"?([^{}"]{1,300}?)"?\s*\}|"?([^\s{}\\"]{1,300})')


class _Call(NamedTuple):
    """The outermost macro call under way: where to go back to if it grows without bound."""

    name: str
    depth: int
    caller: Text
    pos: int
    num_out: int
    limit: int


class Flattener(Reading):
    """Flattens one paper. `sibling(name)` gives the text of a file by its path from the paper's folder, or None."""

    def __init__(self, sibling: Sibling):
        super().__init__()
        self.sibling = sibling
        self.macros: dict[str, Macro] = {}
        self.environments: dict[str, tuple[Macro, str]] = {}
        self.switches: dict[str, bool] = {"iftrue": True, "iffalse": False}
        self.out: list[str] = []
        self.call: _Call | None = None
        self.missing: dict[str, int] = {}
        self.num_inputs, self.call_chars, self.num_chars = 0, 0, 0
        self.styles: set[str] = set()
        define = {"newcommand", "renewcommand", "providecommand", "DeclareRobustCommand", "newcommandx"}
        self.actions: dict[str, Callable[[], None]] = {
            **dict.fromkeys(define, self._newcommand),
            **dict.fromkeys(("def", "gdef", "edef", "xdef"), self._def),
            **dict.fromkeys(("newenvironment", "renewenvironment"), self._newenvironment),
            **dict.fromkeys(("NewDocumentCommand", "RenewDocumentCommand"), self._xparse),
            **dict.fromkeys(("input", "include", "subfile", "@input"), self._input),
            **dict.fromkeys(("import", "subimport", "inputfrom", "includefrom"), self._import),
            **dict.fromkeys(("usepackage", "RequirePackage"), self._style),
            "DeclareMathOperator": self._operator,
            "let": self._let,
            "newif": self._newif,
            "ifmmode": lambda: self._branch(True, "\\ensuremath{{{}}}", cost=20),
            "endinput": self._endinput,
        }

    def run(self, text: str) -> tuple[str, tuple[str, ...]]:
        """(the flat text, inputs of the body that there is no file for)."""
        self._push(without_comments(text), file="")
        while self.stack:
            self._advance(self.stack[-1])
        begin = next((n for n, part in enumerate(self.out) if "\\begin{document}" in part), 0)
        return "".join(self.out), tuple(name for name, place in self.missing.items() if place > begin)

    def _push(self, text: str, file: str | None = None, folder: str = "") -> None:
        self.stack.append(Text(text, file, folder))
        if file is not None:
            self.num_chars += len(text)
            self.budget += TOTAL_GROWTH * len(text) + (FREE_CHARS if len(self.stack) == 1 else 0)
            self.call = None

    def _advance(self, top: Text) -> None:
        """Copies up to the next command with an action, and executes it; or ends this text."""
        text, start = top.text, top.pos
        if start and text[start : start + 1].isspace() and self.out and self.out[-1].rstrip(" \t").endswith("\n"):
            start = _LINE_END.match(text, start).end()  # a removed command alone on its line leaves no blank line
        if self.call and len(self.stack) <= self.call.depth:
            self.call = None
        for found in COMMAND.finditer(text, start):
            name = found[1]
            if name is None or self.budget < 0:
                continue
            action = self.actions.get(name)
            if action or name in self.macros or name in self.switches:
                if found.start() > start:
                    self.out.append(text[start : found.start()])
                top.pos = found.end()
                if name in self.macros:
                    self._expand(name, top)
                elif action:
                    action()
                else:
                    self._branch(self.switches[name])
                return
        if start < len(text):
            self.out.append(text[start:])
        self.stack.pop()
        if ENDS_IN_WORD.search(text, max(start, len(text) - 40)):
            below = next((t.text[t.pos] for t in reversed(self.stack) if t.pos < len(t.text)), "")
            if below == "\\" or below.isalpha():
                self.out.append(" ")  # so that \alpha does not join with the letters after it

    def _expand(self, name: str, caller: Text) -> None:
        macro = self.macros[name]
        pos, depth = caller.pos, len(self.stack)
        arguments: list[str] = []
        if macro.default is not None:
            option = self.option()
            arguments.append(macro.default if option is None else option)
        while len(arguments) < macro.num:
            argument = self.argument()
            if argument is None:
                self.out.append(_call(name))
                return
            arguments.append(argument)
        given = sum(map(len, arguments))
        if self.call is None:
            limit = CALL_CHARS + CALL_GROWTH * given
            self.call, self.call_chars = _Call(name, depth, caller, pos, len(self.out), limit), 0
        cost = len(macro.body) + 8 + given
        if arguments and len(macro.body) < CALL_CHARS:
            cost += sum(len(arguments[int(n) - 1]) for n in PLACE.findall(macro.body) if int(n) <= macro.num)
        self.call_chars += cost
        self.budget -= cost
        if self.call_chars > self.call.limit or self.budget < 0:
            self._give_up(name)
        elif macro.is_meaning:
            self.out.append(macro.body)
        elif not macro.num and self.out and _WANTS_ARGUMENT.search(self.out[-1], max(0, len(self.out[-1]) - 20)):
            self._push(f"{{{macro.body}}}")  # \hat\x is \hat{\mathbf{x}}
        else:
            self._push(filled(macro.body, arguments))

    def _give_up(self, name: str) -> None:
        """Back to before the outermost call, which stays as it was written, as do all later calls."""
        call, self.call = self.call, None
        self.macros.pop(call.name, None)
        self.macros.pop(name, None)
        if len(self.stack) >= call.depth and self.stack[call.depth - 1] is call.caller:
            del self.stack[call.depth :]
            del self.out[call.num_out :]
            call.caller.pos = call.pos
            self.out.append(_call(call.name))

    def _begin(self) -> None:
        name = self.argument() or ""
        if name in self.environments:
            self.macros[f"{BEGIN}{name}"] = self.environments[name][0]
            self._expand(f"{BEGIN}{name}", self.stack[-1])
        else:
            self.out.append(f"\\begin{{{name}}}")

    def _end(self) -> None:
        name = self.argument() or ""
        if name in self.environments:
            self.budget -= 8 + len(self.environments[name][1])
            self._push(self.environments[name][1])
        else:
            self.out.append(f"\\end{{{name}}}")

    def _define(self, name: str, macro: Macro) -> None:
        r"""Redefinitions of commands in KEEP are ignored: \section keeps its meaning."""
        if name in KEEP or name in self.actions or not name.replace("@", "").isalpha():
            return
        if _PROGRAMS.search(macro.body) or "@" in name:
            self.macros.pop(name, None)
        else:
            self.macros[name] = macro

    def _newcommand(self) -> None:
        name, num, default = self.defined_name(), self.option(), self.option()
        body = self.argument() if name else None
        if body is not None:
            self._define(name, _macro(num, default, body))

    def _def(self) -> None:
        name, top = self.defined_name(), self.stack[-1]
        plain = _PARAMETERS.match(top.text, top.pos)
        if not plain:  # delimited arguments: passed over with its body
            top.pos = max(top.pos, top.text.find("{", top.pos, top.pos + 200))
            self.argument()
            self.macros.pop(name, None)
            return
        top.pos = plain.end()
        body = self.argument()
        if body is not None:
            self._define(name, Macro(len(plain[1]) // 2, None, body))

    def _xparse(self) -> None:
        name, given, body = self.defined_name(), self.argument(), self.argument()
        if name and body is not None and given is not None and not given.replace(" ", "").strip("m"):
            self._define(name, Macro(given.count("m"), None, body))

    def _operator(self) -> None:
        star = self.star()
        name, body = self.defined_name(), self.argument()
        if name and body is not None:
            self._define(name, Macro(0, None, f"\\operatorname{star}{{{body}}}"))

    def _let(self) -> None:
        name, top = self.defined_name(), self.stack[-1]
        found = _MEANING.match(top.text, top.pos)
        if not name or not found:
            return
        top.pos = found.end()
        if found[1] in self.macros:
            self._define(name, self.macros[found[1]])
        elif found[1] in ("relax", "undefined", "empty"):
            self._define(name, Macro(0, None, ""))
        elif found[1] != name:
            meaning = f"\\{found[1]}" + " " * found[1].isalpha() if found[1] else found[2]
            self._define(name, Macro(0, None, meaning, is_meaning=True))

    def _newenvironment(self) -> None:
        self.star()
        name, num, default = self.argument(), self.option(), self.option()
        begin, end = self.argument(), self.argument()
        whole = name and begin is not None and end is not None
        if whole and name not in KEEP and not _PROGRAMS.search(begin + end):
            self.environments[name] = _macro(num, default, begin), end
            self.actions |= {"begin": self._begin, "end": self._end}

    def _newif(self) -> None:
        name = self.defined_name()
        if name.startswith("if") and name[2:]:
            self.switches[name] = False
            for value in (True, False):
                self.actions[name[2:] + str(value).lower()] = partial(self.switches.__setitem__, name, value)

    def _branch(self, value: bool, written: str = "{}", cost: int = 8) -> None:
        """The side of a conditional that holds is read, the other passed over; one without \\fi is no conditional."""
        top = self.stack[-1]
        depth, otherwise = 0, None
        for found in _BRANCH.finditer(top.text, top.pos):
            word = found[1] or found[2]
            if word == "fi" and depth == 0:
                break
            if word == "fi":
                depth -= 1
            elif word == "else":
                otherwise = otherwise or (found.span() if depth == 0 else None)
            elif not found[0].startswith("\\newif") and not _NO_BRANCH.match(word):
                depth += 1
        else:
            self.budget -= len(top.text) - top.pos
            return
        end, after = otherwise or found.span()
        chosen = top.text[top.pos : end] if value else top.text[after : found.start()]
        self.budget -= len(chosen) + cost
        top.pos = found.end()
        self._push(written.format(chosen))

    def _input(self) -> None:
        top = self.stack[-1]
        found = _FILE.match(top.text, top.pos)
        if found:
            top.pos = found.end()
            self._read_in((found[1] or found[2]).strip(), "")

    def _import(self) -> None:
        self.star()
        folder, name = self.argument(), self.argument()
        if folder is not None and name:
            self._read_in(name, folder)

    def _read_in(self, name: str, folder: str) -> None:
        open_files = [text for text in self.stack if text.file is not None]
        folders = (posixpath.join(open_files[-1].folder, folder), folder)
        for path in dict.fromkeys(posixpath.normpath(posixpath.join(f, name)) for f in folders):
            if len(open_files) > MAX_INPUT_DEPTH or self.num_inputs >= MAX_INPUTS or self.num_chars > MAX_CHARS:
                break
            if path in (text.file for text in open_files):
                return
            self.num_inputs += 1
            names = (path,) if path.endswith(".tex") else (f"{path}.tex", path)
            text = next((text for text in map(self.sibling, names) if text is not None), None)
            if text is not None:
                if len(text) > MAX_CHARS - self.num_chars:
                    break
                body = without_comments(text)
                start = body.find("\\begin{document}")
                if start >= 0:  # a subfile that can also stand alone
                    end = body.find("\\end{document}", start)
                    body = body[start + len("\\begin{document}") : end if end >= 0 else None]
                at = posixpath.dirname(path) if folder or start >= 0 else open_files[-1].folder
                self._push(body, path, at)
                return
        self.missing[name] = len(self.out)

    def _style(self) -> None:
        """The author's own macros are often in a style file beside the paper; its text is never the paper's."""
        self.option()
        for name in map(str.strip, (self.argument() or "").split(",")):
            if name in self.styles or self.num_inputs >= MAX_INPUTS or not re.fullmatch(r"[\w./-]{1,100}", name):
                continue
            self.styles.add(name)
            self.num_inputs += 1
            text = self.sibling(f"{name}.sty")
            if text is None or len(text) > MAX_STYLE_CHARS:
                continue
            reader = Flattener(lambda _: None)
            reader.run(text)
            self.macros.update(reader.macros)
            self.environments.update(reader.environments)
            if self.environments:
                self.actions |= {"begin": self._begin, "end": self._end}

    def _endinput(self) -> None:
        if self.stack[-1].file is not None:
            self.stack[-1].pos = len(self.stack[-1].text)


def _call(name: str) -> str:
    return f"\\begin{{{name.removeprefix(BEGIN)}}}" if name.startswith(BEGIN) else f"\\{name} "


def _macro(num: str | None, default: str | None, body: str) -> Macro:
    """Of the options and the body that \\newcommand gives it."""
    num_arguments = int(num) if num and num.strip() in tuple("123456789") else 0
    return Macro(num_arguments, default if num_arguments else None, body)
