"""Markdown as converters of PDF write it (MinerU, Marker, Docling, Nougat), as headings and paragraphs of plain text.

Left out: pictures, tables (of pipes and of HTML), code, comments, marks of pages, footnotes. Emphasis and links leave
their words, raised and lowered numbers become Unicode, maths stays TeX between dollars, what is displayed on a line of
its own. A link or a raised number that is a citation is marked for `citations.settle`.
"""

import re
from collections.abc import Iterator

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.blocks import Block
from nsllm_lite.corpus.files.elements import raised, script
from nsllm_lite.corpus.files.lines import is_caption

MAX_LINE_CHARS = 1 << 18  # a longer one is no text
HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*)")
_FENCE = re.compile(r"(?:(`{3,})[^`]*|(~{3,}).*)")  # what is behind backticks holds none, else it is code within a line
MAX_FENCE_CHARS = 9  # a longer one is as one of so many
_NO_END = "\n"  # which no line holds
_PAGE = re.compile(r"\{\d{1,5}\}-{3,}|(?:[-*_] ?){3,}|<!--.*-->|\[MISSING_PAGE.*|!\[[^\]]*\]\([^)]*\)")
_ITEM = re.compile(r"(?:[-*+•]|\d{1,3}[.)])\s+(?=\S)")
_FOOTNOTE = re.compile(r"\[\^[\w-]{1,20}\]:")
_IMAGE = re.compile(r"!\[[^\]\n]{0,500}\]\([^()\n]{0,2000}\)")
_LINK = re.compile(r"\[((?>(?:[^\[\]\\\n]|\\.){1,300}))\]\((?:[^()\n]|\([^()\n]{0,200}\)){0,500}\)")
_NOTE_MARK = re.compile(r"\[\^[\w-]{1,20}\]")
_SCRIPT = re.compile(r"<(su[pb])>([^<>\n]{0,200})</su[pb]>")
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,500}>")
_MATH = re.compile(
    r"\$\$[^$]{1,20000}\$\$|\$[^$\n]{1,5000}\$|\\\((?:[^\\\n]|\\[^()\n]){1,5000}\\\)|\\\[(?:[^\\]|\\[^\[\]]){1,20000}\\\]"
)
_STRONG = re.compile(
    r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]{1,2000}?)(?<=\S)\1(?![\w*])|(?<![\w_])(_{1,3})(?=[^\s_])([^_\n]{1,2000}?)(?<=\S)\3(?![\w_])"
)
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+.!<>|~-])")
_TABLE_HTML = re.compile(r"<table\b", re.IGNORECASE)


def blocks_in(text: str) -> Iterator[Block]:
    """The blocks of a text in order."""
    lines: list[str] = []
    for line in (*_kept_lines(text), ""):
        heading = HEADING.fullmatch(line)
        if heading or not line:
            if lines:
                yield from _paragraph(lines)
            lines = []
            if heading and (words := plain(heading[2].rstrip("# "))):
                yield Block(len(heading[1]), words)
        else:
            lines.append(line)


def _kept_lines(text: str) -> Iterator[str]:
    """Lines without those of tables, code, pages and pictures; a displayed formula on one line between empty ones."""
    until = ""  # the end of what is being left out, or of a formula
    formula: list[str] = []
    never_closed: set[str] = set()  # fences
    lines = text.split("\n")
    for place, raw in enumerate(lines, start=1):
        line = raw.strip() if len(raw) <= MAX_LINE_CHARS else ""
        if until in ("$$", "\\]"):
            formula.append(line.removesuffix(until))
            if line.endswith(until):
                yield from ("", f"$${' '.join(' '.join(formula).split())}$$", "")
                until, formula = "", []
            elif not line:  # which ends a paragraph: its other sign is missing
                yield from (*formula, "")
                until, formula = "", []
        elif until in ("</table>", _NO_END) and HEADING.fullmatch(line):  # whose end is missing
            until = ""
            yield line
        elif until[:1] in ("`", "~"):
            until = "" if _closes(line, until) else until
        elif until:
            until = "" if until in line.lower() else until
        elif line in ("$$", "\\["):
            until = "$$" if line == "$$" else "\\]"
        elif fence := _FENCE.fullmatch(line):
            until = fence[fence.lastindex][:MAX_FENCE_CHARS]
            if until in never_closed or not any(_closes(lines[n], until) for n in range(place, len(lines))):
                never_closed.add(until)
                until = _NO_END
        elif _TABLE_HTML.search(line):
            until = "" if "</table>" in line.lower() else "</table>"
            yield ""
        elif line.startswith("|") or _PAGE.fullmatch(line) or _FOOTNOTE.match(line):
            yield ""
        else:
            yield line
    yield from formula


def _closes(line: str, fence: str) -> bool:
    line = line.strip()
    return line.startswith(fence) and not line.strip(fence[0])


def _paragraph(lines: list[str]) -> Iterator[Block]:
    if len(lines) == 1 or not any(map(_ITEM.match, lines)):
        text = plain(" ".join(lines))
        if text and not is_caption(text):
            yield Block(0, text)
        return
    items: list[str] = []
    for line in lines:
        if items and not _ITEM.match(line):
            items[-1] += f" {line}"
        else:
            items.append(line)
    written = (plain(_ITEM.sub("", item, count=1)) for item in items)
    yield Block(0, "\n".join(f"- {item}" for item in written if item))


def plain(text: str) -> str:
    """The words of a line or paragraph, with its formulas as they are."""
    parts, place = [], 0
    for found in _MATH.finditer(text):
        if found[0][0] == "\\" and ("](" in found[0] or not re.search(r"[\^_=\\]", found[0][2:-2])):
            continue  # brackets that Markdown escapes: \\[3\\]
        parts += [_words(text[place : found.start()]), _tex(found[0])]
        place = found.end()
    return " ".join("".join([*parts, _words(text[place:])]).split())


def _tex(formula: str) -> str:
    if formula.startswith("\\"):
        sign = "$" if formula[1] == "(" else "$$"
        return f"{sign}{formula[2:-2].strip()}{sign}"
    return formula


def _words(text: str) -> str:
    if not any(sign in text for sign in "[<*_\\!"):
        return text
    text = _IMAGE.sub("", text)
    text = _NOTE_MARK.sub("", text)
    text = _SCRIPT.sub(_scripted, text)
    text = _TAG.sub("", text)
    text = _LINK.sub(_linked, text) if "](" in text else text
    for _ in range(2):  # bold within italic
        text = _STRONG.sub(lambda found: found[2] or found[4], text)
    return _ESCAPED.sub(r"\1", text)


def _scripted(found: re.Match) -> str:
    inner = _ESCAPED.sub(r"\1", found[2])
    if found[1] == "sub":
        return script(inner, raised=False)
    return raised(inner, found.string[max(0, found.start() - 1) : found.start()])


def _linked(found: re.Match) -> str:
    inner = _ESCAPED.sub(r"\1", found[1])
    return citations.mark(inner) if re.search(r"\d", inner) and citations.is_numbered(inner) else found[1]
