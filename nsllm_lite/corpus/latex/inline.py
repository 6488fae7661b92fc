r"""LaTeX's commands of text in titles and abstracts: \emph{x} is x, {\it x} is x, \footnote{x} is nothing.

Maths stays as it is, so do commands of unknown meaning and braces that protect. Every function takes linear time.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from nsllm_lite.corpus.files.citations import needs_citation
from nsllm_lite.corpus.files.elements import script
from nsllm_lite.corpus.latex.commands import TABLES

_ENVIRONMENTS = "equation|align|alignat|flalign|eqnarray|math|displaymath|gather|multline|IEEEeqnarray|dmath"
OPENING = re.compile(rf"\\\\|\\\$|\$\$?|\\[(\[]|\\begin\{{({_ENVIRONMENTS})(\*?)\}}")
_CLOSING = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]", r"\\": "", r"\$": ""}
_LONE_DOLLAR = re.compile(r"^[ \t]*\$[ \t]*$", re.MULTILINE)
_BREAK = re.compile(r"\n\s*\n\s*|\n {2,}(?=\S)")  # arXiv indents a new paragraph of an abstract

_INLINE = TABLES["inline"]
_UNWRAPPED, _REMOVED, _DECLARED, _CITED = (
    "|".join(_INLINE[name].split()) for name in ("unwrapped", "removed", "declared", "cited")
)
_WORDS = {name: (TABLES["symbols"] | TABLES["abbreviations"])[name] for name in _INLINE["words"].split()}
_WORDS |= dict.fromkeys(_INLINE["breaks"].split(), "\n\n") | dict.fromkeys(_INLINE["nothing"].split(), "")
_WORDS |= {"textquoteleft": "‘", "textquoteright": "’", "lq": "‘", "rq": "’", "textmu": "µ"}
_CITE = rf"\\(?:{_CITED})\*?\s?(?:\[[^\[\]{{}}]{{0,200}}\]\s?){{0,2}}\{{[^{{}}]{{0,500}}\}}"
_COMMAND_END = re.compile(r"\\[A-Za-z]+\Z")
_KEYS = re.compile(r"\{([^{}]*)\}")
_TEXT_BLOCKS = "itemize|enumerate|quote|quotation|center|abstract|flushleft"
_BLOCK = re.compile(rf"\\(?:begin|end)\{{(?:{_TEXT_BLOCKS})\}}")
_WITH_KEY = "href|textcolor|colorbox|texorpdfstring|foreignlanguage"  # whose second argument is the text
_MAY_BE_COMMAND = re.compile(
    rf"\\(?:(?:{_UNWRAPPED}|{_REMOVED}|{_DECLARED}|{_CITED}|{_WITH_KEY}|{'|'.join(_WORDS)}"
    rf"|textsubscript|textsuperscript|item|underline|(?:page|auto|c|C|eq)?ref)(?![A-Za-z])"
    rf"|(?:begin|end)\{{(?:{_TEXT_BLOCKS})\}}|[%&#_ ,;:/!\\])"
)
_MARK = re.compile(r"[\\{}$]")  # what every token begins with
# Scripts of formulas without dollars (T_{\rm c}) are no groups of text, nor is what \underline is nested in there.
_TOKEN = re.compile(
    rf"\{{\s?\\(?P<braced>{'|'.join(_WORDS)})\s?\}}"
    rf"|(?P<group>(?<![_^])\\(?:(?P<unwrapped>{_UNWRAPPED})|(?P<removed>{_REMOVED})"
    r"|(?P<script>textsuperscript|textsubscript)|(?<!{\\)underline)(?![A-Za-z])\*?\s?(?:\[[^\[\]{}]{0,200}\]\s?)?\{"
    rf"|\\(?:{_WITH_KEY})\s?\{{[^{{}}]{{0,500}}\}}\s?\{{"
    rf"|(?<![_^])\{{\s?\\(?:{_DECLARED})(?![A-Za-z])\s{{0,9}}"
    r"|\{)"
    rf"|(?P<cites>{_CITE}(?:[\s,;~]{{0,9}}{_CITE})*)(?P<behind>[\])]|[,;]\s)?"
    r"|(?P<reference>\\(?:page|auto|c|C|eq)?ref\s?\{[^{}]{0,200}\})(?P<after>\))?"
    r"|\\item(?![A-Za-z])\s?(?:\[(?P<label>[^\[\]]{0,80})\])?\s{0,9}"
    rf"|(?P<block>{_BLOCK.pattern})"
    r"|\\(?P<sign>[%&#_])|(?P<space>(?<=\S)\\ |\\[,;:]|\\\\(?:\[\d[^\[\]]{0,9}\]|(?=\s|$)))|\\[/!]"
    r"|(?P<maths>" + OPENING.pattern + r")"
    r"|\\(?P<word>[A-Za-z]{1,24})(?![A-Za-z])(?:\{\}|[ \t]{1,9}|\n(?![ \t]{0,9}\n))?"
    r"|\\[{}]|(?P<close>\})"
)


class _Group(NamedTuple):
    """An open brace: what is done with its content at its end, and where in the output that begins."""

    kind: str
    start: int


def closing_of(opening: str) -> str:
    r"""What closes maths that begins with `opening`, such as \[ or \begin{align}; "" where nothing does."""
    return _CLOSING[opening] if opening in _CLOSING else opening.replace("\\begin", "\\end", 1)


def maths_end(text: str, opening: str, place: int, unclosed: set[str]) -> int:
    """Where maths ends whose `opening` ends at `place`; -1 where it does not. `unclosed` remembers what never does."""
    closing = closing_of(opening)
    end = text.find(closing, place) if closing and closing not in unclosed else -1
    if end < 0:
        unclosed.add(closing)
        return -1
    return end + len(closing)


def paragraphs(abstract: str) -> str:
    r"""An abstract of arXiv with a blank line between its paragraphs, which arXiv indents.

    A displayed formula, whose lines authors indent too, stays in the paragraph of its sentence.
    """
    text, displays = abstract.strip(), []
    if "\n" not in text or not _BREAK.search(text):
        return text
    if "\\[" in text or "$" in text or "\\begin{" in text:
        displays = list(_displays(text))
    starts, parts, place, current = {start for start, _ in displays}, [], 0, 0
    for found in _BREAK.finditer(text):
        while current < len(displays) and displays[current][1] <= found.start():
            current += 1
        inside = current < len(displays) and displays[current][0] < found.start()
        last = displays[current - 1] if current else (0, 0)
        tail = text[last[1] : found.start()].strip() if last[1] else "-"
        goes_on = tail in ("", ".", ",", ";", ":") and not (
            text[found.end() : found.end() + 1].isupper() and _ends_sentence(text, last, tail)
        )
        parts += [text[place : found.start()], " " if inside or goes_on or found.end() in starts else "\n\n"]
        place = found.end()
    return "".join((*parts, text[place:]))


def _ends_sentence(text: str, display: tuple[int, int], tail: str) -> bool:
    inner = re.sub(r"(?:\\end\{[^{}]*\}|\\\]|\$|\\right\s?\.|[\s}])+$", "", text[display[0] : display[1]][-200:])
    return (tail or inner).endswith(".")


def _displays(text: str) -> Iterator[tuple[int, int]]:
    """Where displayed formulas begin and end; dollars that stand alone on their lines are a display too."""
    lone = [found.span() for found in _LONE_DOLLAR.finditer(text)]
    spans = [(text.index("$", first[0]), second[1]) for first, second in zip(lone[::2], lone[1::2], strict=False)]
    unclosed: set[str] = set()
    place = 0
    while found := OPENING.search(text, place):
        place = found.end()
        if found[0] in ("$", r"\(") or closing_of(found[0]) == "":
            continue
        end = maths_end(text, found[0], place, unclosed)
        if end >= 0:
            spans.append((found.start(), end))
            place = end
    yield from sorted(spans)


def resolve_commands(text: str) -> str:
    r"""Text without LaTeX's commands of text outside maths; with them in maths, and with unknown ones.

    Styles and links leave their text, footnotes and labels nothing, citations their keys in brackets where the sentence
    needs them ("as in [Ito98]"). Items of a list begin lines. A group that is never closed stays open.
    """
    if not _MAY_BE_COMMAND.search(text):
        return text
    out: list[str] = []
    groups: list[_Group] = []
    unclosed: set[str] = set()
    search_from = place = 0
    while mark := _MARK.search(text, search_from):
        found = _TOKEN.match(text, mark.start())
        if not found:
            search_from = mark.end()
            continue
        out.append(text[place : found.start()])
        search_from = place = found.end()
        if found["maths"]:
            end = maths_end(text, found["maths"], place, unclosed)
            out.append(text[found.start() : max(end, place)])
            search_from = place = max(end, place)
        elif found["group"]:
            groups.append(_Group(_kind(found), len(out)))
            out.append("{" if groups[-1].kind == "kept" else "")
        elif found["close"]:
            _close(groups, out)
        else:
            _write(found, out)
    return _joined([*out, text[place:]])


def _joined(parts: list[str]) -> str:
    r"""The text of parts, with a blank between a command and a word that nothing parts now: of \cdot\text{kg}."""
    written: list[str] = []
    for part in filter(None, parts):
        if part[0].isalpha() and written and _COMMAND_END.search(written[-1]):
            written.append(" ")
        written.append(part)
    return "".join(written)


def _kind(found: re.Match) -> str:
    if found["removed"]:
        return "removed"
    if found["script"]:
        return found["script"]
    if found["unwrapped"] == "enquote":
        return "enquote"
    return "kept" if found[0] == "{" else "unwrapped"


def _close(groups: list[_Group], out: list[str]) -> None:
    if not groups:
        out.append("}")
        return
    kind, start = groups.pop()
    if kind == "kept":
        out.append("}")
    elif kind != "unwrapped":
        inner = _joined(out[start:])
        del out[start:]
        if kind == "enquote":
            out.append(f"“{inner}”")
        elif kind != "removed":
            out.append(script(inner, raised=kind == "textsuperscript"))


def _write(found: re.Match, out: list[str]) -> None:
    """What stands for one command without text of its own."""
    if found["cites"]:
        _cite(found["cites"], found["behind"] or "", out, found.string[found.end() : found.end() + 1])
        out.append(_gap(found))
    elif found["block"]:
        out.append("\n\n")
    elif found["word"]:
        word = found["word"]
        gap = found[0][len(word) + 1 :].removeprefix("{}") if word in _INLINE["abbreviations"].split() else ""
        out.append(_WORDS[word] + gap if word in _WORDS else found[0])
    elif found["sign"] or found["space"]:
        is_array = found[0].startswith("\\\\") and "\\begin{" in found.string
        out.append(found[0] if is_array else found["sign"] or " ")
    elif found[0].startswith("\\item"):
        out.append(f"\n- {found['label'] or ''}{' ' if found['label'] else ''}")
    elif found[0] in ("\\{", "\\}"):
        out.append(found[0])
    elif found["braced"]:
        out.append(_WORDS[found["braced"]])
    elif found["reference"]:  # its number is not known
        if found["reference"].startswith("\\eqref"):
            out.append(f"({_KEYS.search(found['reference'])[1]}){found['after'] or ''}")
        else:
            _take_out(found["after"] or "", out)
        out.append(_gap(found))


def _gap(found: re.Match) -> str:
    """A blank where the word behind would run into the one before."""
    return " " if found.string[found.end() : found.end() + 1].isalnum() else ""


def _cite(cites: str, behind: str, out: list[str], after: str) -> None:
    """Citations as their keys where the sentence needs them, else nothing; `behind` them a bracket or a comma."""
    before = "".join(out[-4:])[-40:]
    textual = re.match(r"\\(?:cite[tA]|[tT]extcite|newcite)", cites)
    if not textual and not needs_citation(before.rstrip(" ~\n([")):
        _take_out(behind, out, after)
        return
    keys = " ".join(", ".join(", ".join(key.split(",")) for key in _KEYS.findall(cites)).split())
    out.append((keys if before[-1:] == "[" and behind == "]" else f"[{keys}]") + behind)


def _take_out(behind: str, out: list[str], after: str = "") -> None:
    """Ends the output where a citation or reference stood, without brackets that held it alone, and without the comma
    before it where `after` it the sentence ends."""
    opened = next((part[-1] for part in reversed(out[-4:]) if part), "") in ("(", "[")
    if opened and behind in (")", "]"):
        _drop_space(out, 1)
        _drop_comma(out, after)
    elif not opened:
        _drop_space(out)
        _drop_comma(out, behind or after)
        out.append(behind)


def _drop_comma(out: list[str], after: str) -> None:
    last = next((n for n in range(len(out) - 1, max(-1, len(out) - 5), -1) if out[n]), None)
    if after and after[0] in ".,;:)]" and last is not None and out[last].endswith(","):
        out[last] = out[last][:-1]


def _drop_space(out: list[str], num: int = 0) -> None:
    """The output without its last `num` characters, and without blanks and ties at its end, a blank line but kept."""
    for n in range(len(out) - 1, max(-1, len(out) - 5), -1):
        if num and out[n]:
            out[n], num = out[n][:-num], 0
        out[n] = out[n].rstrip(" ~")
        if out[n].endswith("\n") and not out[n].endswith("\n\n"):
            out[n] = out[n][:-1]
        if out[n]:
            return
