r"""LaTeX in titles and abstracts written as plain characters: {\"o}, \'e, \ss, \&, --, braces that only protect.

Formulas between dollars stay as they are, but for single signs ($<$, $\alpha$); commands of unknown meaning stay too.
One pass of one expression, so no input takes long (pylatexenc is far slower, and 20,000 braces end its recursion).
"""

import re
import unicodedata

from nsllm_lite.corpus.files.elements import script

COMBINING = dict(zip("\"'`^~=.uvHcdbrk", map(chr, (
    0x308, 0x301, 0x300, 0x302, 0x303, 0x304, 0x307, 0x306, 0x30C, 0x30B, 0x327, 0x323, 0x331, 0x30A, 0x328,
)), strict=True))  # fmt: skip
_GREEK = "Alpha Beta Gamma Delta Epsilon Zeta Eta Theta Iota Kappa Mu Nu Xi Pi Rho Sigma Tau Upsilon Phi Chi Psi Omega"
_WORDS = {
    "ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å",
    "i": "ı", "j": "ȷ", "dh": "ð", "DH": "Ð", "th": "þ", "TH": "Þ", "dj": "đ", "DJ": "Đ", "ng": "ŋ", "S": "§", "P": "¶",
    "pounds": "£", "euro": "€", "texteuro": "€", "copyright": "©", "textcopyright": "©", "textregistered": "®",
    "texttrademark": "™", "textdegree": "°", "degree": "°", "textmu": "µ", "textpm": "±", "texttimes": "×",
    "textendash": "–", "textemdash": "—", "textquoteleft": "‘", "textquoteright": "’", "textquotedblleft": "“",
    "textquotedblright": "”", "textquotesingle": "'", "textbullet": "•", "textellipsis": "…", "ldots": "…",
    "dots": "…",
    "textless": "<", "textgreater": ">", "textbar": "|", "textbackslash": "\\", "textasciitilde": "~",
    "textunderscore": "_",
    "textasciicircum": "^", "textbraceleft": "{", "textbraceright": "}", "textdollar": "$", "guillemotleft": "«",
    "guillemotright": "»", "lambda": "λ", "Lambda": "Λ",
}  # fmt: skip
for _name in _GREEK.split():
    _WORDS[_name] = unicodedata.lookup(f"GREEK CAPITAL LETTER {_name}")
    _WORDS[_name.lower()] = unicodedata.lookup(f"GREEK SMALL LETTER {_name}")
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
            return inner if inner in ("<", ">", "=", "+", "-", "|") else _WORDS.get(inner.removeprefix("\\"), found[0])
        case "inner" | "letter":
            letter = found["inner"] or found["letter"]
            composed = unicodedata.normalize("NFC", letter + COMBINING[found["accent"]])
            return composed if len(composed) == 1 or found["open"] else found[0]
        case "script":
            return script(found["script"], raised=found["raised"] == "super")
        case "word":
            return _WORDS.get(found["word"], found[0])
        case "sign":
            return found["sign"]
        case "space" | "tie":
            return " "
        case "dash":
            return "–" if len(found[0]) == 2 else "—"
        case "quote":
            return "“" if found[0] == "``" else "”"
    return ""
