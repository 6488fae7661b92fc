r"""LaTeX in titles and abstracts written as plain characters: {\"o}, \'e, \ss, \&, --, braces that only protect.

Formulas between dollars stay as they are, but for single signs ($<$, $\alpha$); commands of unknown meaning stay too.
One pass of one expression, so no input takes long (pylatexenc is far slower, and 20,000 braces end its recursion).
"""

import re
import unicodedata

from nsllm_lite.corpus.files.elements import script
from nsllm_lite.corpus.latex.notation import ACCENTS, SYMBOLS

# Of titles and abstracts: single quotes are typographic, the micro sign is its own.
_SYMBOLS = SYMBOLS | {"textquoteleft": "‘", "textquoteright": "’", "textmu": "µ", "textdollar": "$"}
_STYLES = (
    "emph|textit|textbf|textsc|textrm|textsf|texttt|textsl|textup|textnormal|text|mbox|ensuremath|"
    "it|em|bf|sc|rm|sf|tt|sl|itshape|bfseries|scshape|noopsort|relax|protect"
)
_TEX = re.compile(
    r"(?P<math>\$\$[^$]*\$\$|\$[^$]*\$)"
    r"|\\(?P<accent>[\"'`^~=.]|[uvHcdbrk](?![A-Za-z]))\s{0,2}"
    r"(?:(?P<open>\{)\s{0,2}\\?(?P<inner>[^\W\d_])\s{0,2}\}|\\?(?P<letter>[^\W\d_]))"
    r"|\\text(?P<raised>super|sub)script\s?\{(?P<script>[^{}\\$]*)\}"
    rf"|\\(?:{_STYLES})(?![A-Za-z])\s*"
    r"|\\(?P<word>[A-Za-z]{1,20})(?![A-Za-z])(?:\{\}|[ \t\r\n]*)"
    r"|\\(?P<sign>[&%_#${}])"
    r"|\\(?P<space>[ ,;:\\\r\n])|\\[-/!]"
    r"|(?P<dash>(?<!-)-{2,3})(?!-)|(?P<quote>``|'')"
    r"|(?P<tie>(?<=\S)~(?=\S))"
    r"|[{}]"
)
_TO_WRITE = re.compile(r"[\\{}$~]|--|``|''")


def plain(tex: str) -> str:
    """The text without LaTeX's way of writing it."""
    return _TEX.sub(_written, tex) if _TO_WRITE.search(tex) else tex


def _written(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "math":
            inner = found[0][1:-1].strip()
            if inner.startswith("\\"):
                return _SYMBOLS.get(inner[1:], found[0])
            return inner if inner in ("<", ">", "=", "+", "-", "|") else found[0]
        case "inner" | "letter":
            letter = found["inner"] or found["letter"]
            composed = unicodedata.normalize("NFC", letter + ACCENTS[found["accent"]])
            return composed if len(composed) == 1 or found["open"] else found[0]
        case "script":
            return script(found["script"], raised=found["raised"] == "super")
        case "word":
            return _SYMBOLS.get(found["word"], found[0])
        case "sign":
            return found["sign"]
        case "space" | "tie":
            return " "
        case "dash":
            return "–" if len(found[0]) == 2 else "—"
        case "quote":
            return "“" if found[0] == "``" else "”"
    return ""
