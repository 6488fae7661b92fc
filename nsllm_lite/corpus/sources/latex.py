r"""Papers as LaTeX, the way arXiv keeps them: title, abstract, and full text in sections.

Kept: paragraphs, headings, lists (a line an item), theorems under their names, maths as LaTeX (`$..$`, and `$$..$$` on
one line for what is displayed, rows in `aligned`), chemistry and quantities in Unicode (H₂O, 10 K), bare scripts too
(10$^{-5}$ is 10⁻⁵). Double quotes and dashes become “ ” – —; single quotes stay ASCII.

Left out of the text: figures, tables and their captions, footnotes, algorithms and listings, authors and affiliations,
keywords, acknowledgements, the bibliography, equation numbers, and what stands before the abstract or \maketitle; of
these `latex.front` keeps what the paper says about itself.

Citations are removed with their brackets unless the sentence needs them: those in its grammar (\citet, "as in \cite")
become "Ito et al. (1998)" where the bibliography states it, else "[citation]". Of a reference the word stays and the
number is removed ("Figure shows"), also a parenthesis with nothing else in it. Sections of an appendix have "Appendix"
above them.
"""

import posixpath
import re
from typing import TextIO

from nsllm_lite.corpus.files.opening import NOT_A_PAPER, UNREADABLE, Place, Unread, read_all
from nsllm_lite.corpus.identity import arxiv_id_in_name
from nsllm_lite.corpus.latex.commands import NO_PAPER_CLASSES
from nsllm_lite.corpus.latex.flatten import MAX_CHARS, Flattener, Sibling
from nsllm_lite.corpus.latex.front import stated_by
from nsllm_lite.corpus.latex.paper import Paper
from nsllm_lite.formats.documents import Document

LATEX_PART = "latex_part"
MISSING_INPUT = "missing_input"

_CLASS = re.compile(r"\\document(?:class|style)\s*(?:\[[^\]]{0,500}\])?\s*\{([^{}\n]{0,100})\}")
_BEGIN = re.compile(r"\\begin\s*\{document\}")
_PACKAGE = re.compile(r"\\(?:ProvidesPackage|ProvidesClass|NeedsTeXFormat)\b")
_PLAIN_TEX = re.compile(r"\\(?:bye|magnification|enddocument|endtopmatter|input\s+amstex)\b")
_RESPONSE = re.compile(
    r"(?is)\W*(?:(?:\S+\s+)?(?:response|reply|replies|rebuttal|answers?)s?\s+(?:letter\s+)?(?:to|for)\b.{0,40}"
    r"\b(?:referee|reviewer|editor)|rebuttal\b|cover letter\b|dear\s+(?:editor|referee|reviewer|sir|dr|prof))"
)
_STRUCTURE = re.compile(
    r"(?m)^[ \t]*\\(?:(?:sub)*section|chapter|paragraph|begin|(?:re)?newcommand|def|usepackage|input|include|label"
    r"|title)\b"
)
_FOREIGN = re.compile(r'[<\["@#`]|\{\s*["}]|---\s|import\s|from\s+\w+\s+import')
_ENDING = re.compile(r"\.(?:tex|ltx|latex|txt|gz|tgz|tar|zip|bz2|xz|zst|src)$", re.IGNORECASE)
_ASIDE = re.compile(r"(?i)^(?:supp|si$|si[-_]|appendi|response|reply|rebuttal|cover|sm$|esm)|supplement|supporting")
_BABEL = re.compile(r"\\usepackage\s*\[([^\]{}]{1,200})\]\s*\{babel\}")


def recognise(head: str) -> bool:
    if "\\" not in head or _FOREIGN.match(head):
        return False
    if any(_stated(command, head, alone=True) for command in (_CLASS, _BEGIN, _PACKAGE)):
        return True
    if head[0] in "\\%" and _stated(_PLAIN_TEX, head):
        return True
    first = next((line for line in head.splitlines() if line.strip() and not line.lstrip().startswith("%")), "")
    found = _STRUCTURE.findall(head)
    return bool(found) and (first.lstrip()[:1] in ("\\", "{") or len(found) > 1)


def read(stream: TextIO, source: str, file: str, sibling: Sibling) -> list[Document | Unread]:
    """One `Document` for a main file and, where inputs of its body are missing, an `Unread` that names them."""
    place = Place(source, f"{file}#1")
    text = read_all(stream, MAX_CHARS + 1)
    reason, why = _refusal(text)
    if why:
        return [place.unread(why, reason)]
    flat, missing = Flattener(sibling).run(text)
    stem = posixpath.splitext(posixpath.basename(file))[0]
    paper = Paper(flat, lambda: sibling(f"{stem}.bbl") or "")
    if not paper.read():
        return [place.unread("has \\documentclass but no \\begin{document}: cut off, or its body is elsewhere")]
    if _RESPONSE.match(paper.title[:120]) or (paper.sections and _RESPONSE.match(paper.sections[0].text[:120])):
        return [place.unread(f"a letter to an editor or referees: {paper.title[:60]!r}", NOT_A_PAPER)]
    if not paper.abstract and not any(section.text for section in paper.sections):
        return [place.unread(f"no text beside commands, figures and tables; title {paper.title[:60]!r}")]
    found = place.paper(
        arxiv=_arxiv_id(file),
        doi=paper.doi,
        title=paper.title,
        abstract=paper.abstract,
        sections=tuple(paper.sections),
        moves=paper.moves,
        language=_language(text),
        **stated_by(paper, sibling(f"{stem}.bbl") or ""),
    )
    message = f"its text inputs files that are not there: {', '.join(missing)[:300]}"
    return [found, Unread(f"{file}#2", MISSING_INPUT, message)] if missing else [found]


def _refusal(text: str) -> tuple[str, str]:
    """(reason, message) where the beginning shows that there is no paper to read here, else two empty texts."""
    if len(text) > MAX_CHARS:
        return UNREADABLE, f"over {MAX_CHARS:,} characters of LaTeX"
    stated = _stated(_CLASS, text)
    if not stated and _stated(_PACKAGE, text):
        return LATEX_PART, "a class or style file: its macros are read where a document uses them"
    kind = stated[1].strip() if stated else ""
    if (not stated and not _stated(_BEGIN, text)) or kind == "subfiles":
        if _stated(_PLAIN_TEX, text):
            return UNREADABLE, "plain TeX or AMS-TeX, not LaTeX: nothing here reads it"
        return LATEX_PART, "a part of a LaTeX document: read where another file inputs it"
    if kind in NO_PAPER_CLASSES:
        return NOT_A_PAPER, f"a {kind!r} document: slides, a letter or a picture, no paper"
    return "", ""


def _stated(command: re.Pattern, text: str, alone: bool = False) -> re.Match | None:
    """The first place where the command stands outside a comment; if `alone`, on a line that TeX began."""
    for found in command.finditer(text):
        start = max(0, found.start() - 1_000)
        before = text[max(start, text.rfind("\n", start, found.start()) + 1) : found.start()].strip()
        if "%" not in before and (not alone or before[:1] in ("", "\\", "}")):
            return found
    return None


def _language(text: str) -> str:
    """Babel's main language, which is the last one named."""
    stated = _stated(_BABEL, text)
    options = (option.strip().removeprefix("main=") for option in reversed(stated[1].split(","))) if stated else ()
    return next((option for option in options if option.isalpha()), "")


def _arxiv_id(file: str) -> str:
    """The arXiv id in the name of the file or of a folder above it; a supplement is not the paper itself."""
    parts = file.split("/")
    while _ENDING.search(parts[-1]):
        parts[-1] = _ENDING.sub("", parts[-1])
    if len(parts) > 1 and _ASIDE.search(parts[-1]):
        return ""
    names = [_ENDING.sub("", part) for part in parts]
    return next(filter(None, map(arxiv_id_in_name, reversed(names), reversed(["", *parts[:-1]]))), "")
