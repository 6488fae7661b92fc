r"""LaTeX notation as plain Unicode: symbols, accents, units (siunitx), chemistry (mhchem); and formulas made tidy."""

import re
import unicodedata

from nsllm_lite.corpus.files.elements import script
from nsllm_lite.corpus.latex.commands import TABLES
from nsllm_lite.corpus.latex.inline import resolve_commands

SYMBOLS, ABBREVIATIONS, SIGNS = (dict(TABLES[name]) for name in ("symbols", "abbreviations", "signs"))
GREEK = dict(zip(TABLES["greek"].split(), "αβγδεζηθικλμνξπρστυφχψω", strict=True))
GREEK |= {n.capitalize(): letter.upper() for n, letter in GREEK.items()}
SYMBOLS |= {f"{lead}{n}": letter for n, letter in GREEK.items() for lead in ("", "text", "up")}
ACCENTS = TABLES["accents"]
_PREFIXES, _UNITS = TABLES["prefixes"], TABLES["units"]
_POWERS = {"squared": 2, "cubed": 3}
_POWERS_BEFORE = {"square": 2, "cubic": 3}
_TIGHT = ("°", "′", "″", "%")
_UNIT_TOKEN = re.compile(
    r"\\(?:(tothe|raiseto)\s*\{(-?\d+)\}|(?:of|qualifier)\s*\{[^{}]*\}|([A-Za-z]+))|\^\s*\{?\s*\\?([-+−]?\d+)\}?"
    r"|([A-Za-zµμΩÅ°%'′″]+)|(/)"
)
_ARROWS = {"<=>": "⇌", "<->": "↔", "->": "→", "<-": "←", "<=>>": "⇌", "<<=>": "⇌"}
_CHEMISTRY = re.compile(
    r"(\$[^$]*\$)|\s*(<<?=>>?|<->|->|<-)(?:\[[^\]]{0,80}\]){0,2}\s*"
    r"|\^(?:\{([^{}]*)\}|(\d*[+-]|\w))|_(?:\{([^{}]*)\}|(\d+|\w))"
    r"|(?<=[A-Za-z)\]}])(\d+)|(?<=[A-Za-z0-9)\]}])([+-])(?=$|[\s)\],;.^]|->)|(?<=\w)([*.])(?=[\dA-Z])|\\([A-Za-z]+)\s*|[{}]"
)
_SPACING = re.compile(r"(?:\\[,;: ]|~)*")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*(?:\s*\\?%)?")
_BARE_SCRIPT = re.compile(
    r"(?:\{\})?\s*([\^_])\s*(?:(\w)|\{\s*(?:\\(?:rm|text|mathrm|textrm|scriptsize)\b\s*\{?)?([^\\{}$^_]{1,12})\}?\s*\})"
)
_NO_FORMULA = re.compile(
    r"\\label\s*\{[^{}]*\}|\\(?:nonumber|notag|xspace|protect|allowbreak|nobreak|noindent|hfill)(?![A-Za-z])"
    r"|\\tag\*?\s*\{[^{}]*\}|\\l?eqno\s*\([^()]*\)|\\[vh]space\*?\s*\{\s*-[^{}]*\}|\\vspace\*?\s*\{[^{}]*\}"
)
_TAIL = re.compile(r"(?:\s|\\quad|\\qquad|\\[,;:!> ]|~|\\\\)*([.,;:]?)(?:\s|\\quad|\\qquad|\\[,;:! ]|~|\\\\)*$")
_QUANTITY = re.compile(r"\\(SI|qty|num|si|unit)(?![A-Za-z])\s*(?:\[[^\]{}]*\])?\s*\{([^{}]*)\}(?:\s*\{([^{}]*)\})?")
_CELL = re.compile(r"\\\\(?:\s*\[[^\]]{0,20}\])?|\\(begin|end)(?![A-Za-z])|\\[\s\S]|[{}&]")
ALIGNED = {"align", "alignat", "flalign", "eqnarray", "IEEEeqnarray", "xalignat", "aligned", "split"}
GATHERED = {"gather", "multline"}
# Of titles and abstracts of other formats: single quotes are typographic, the micro sign is its own.
_PLAIN_SYMBOLS = SYMBOLS | {"textquoteleft": "‘", "textquoteright": "’", "textmu": "µ", "textdollar": "$"}
_STYLES = (
    "emph|textit|textbf|textsc|textrm|textsf|texttt|textsl|textup|textnormal|text|mbox|ensuremath|"
    "it|em|bf|sc|rm|sf|tt|sl|itshape|bfseries|scshape|noopsort|relax|protect"
)
_TEX = re.compile(
    r"(?P<math>\$\$[^$]*\$\$|\$[^$]*\$)"
    r"|\\(?P<accent>[\"'`^~=.]|[uvHcdbrk](?![A-Za-z]))\s{0,2}"
    r"(?:(?P<open>\{)\s{0,2}\\?(?P<inner>[^\W\d_])\s{0,2}\}|\\?(?P<letter>[^\W\d_]))"
    r"|\\(?P<bare>[\"'`^~=.])\s?\{\s{0,2}\}"
    r"|\\text(?P<raised>super|sub)script\s?\{(?P<script>[^{}\\$]*)\}"
    rf"|\\(?:{_STYLES})(?![A-Za-z])\s*"
    r"|\\(?P<word>[A-Za-z]{1,20})(?![A-Za-z])(?:\{\}|[ \t\r\n]*)"
    r"|\\(?P<sign>[&%_#${}])"
    r"|\\(?P<space>[ ,;:\\\r\n])|\\[-/!]"
    r"|(?P<dash>(?<!-)-{2,3})(?!-)|(?P<quote>``|'')"
    r"|(?P<tie>(?<=[^\s/])~(?=\S))"
    r"|[{}]"
)
_TO_WRITE = re.compile(r"[\\{}$~`]|--|''")
_SINGLE_QUOTES = re.compile(r"(?<![\w`\\$])`(?!`)((?:[^`'$\n]|'(?=\w)){1,400})'(?!')")
_BARE = {"~": "~", "^": "^", "'": "'", '"': '"', "`": "`"}  # an accent over nothing is its own sign


def accent(mark: str, base: str) -> str:
    """The letter with its accent; an accent without a letter is removed."""
    base = {"ı": "i", "ȷ": "j"}.get(base[:1], base[:1]) + base[1:]
    return unicodedata.normalize("NFC", base[:1] + ACCENTS[mark] + base[1:]) if base[:1].strip() else base


def number(tex: str) -> str:
    r"""siunitx's \num: 1.2e-5 is 1.2 × 10⁻⁵."""
    text = re.sub(r"\\pm|\+-", " ± ", tex.strip())
    text = re.sub(r"\\times|(?<=[\d\s])x(?=[\s\d])", " × ", text)
    text = re.sub(r"[eEdD]([-+]?\d+)", lambda e: f" × 10{script(e[1].lstrip('+'), raised=True)}", text)
    return " ".join(text.replace("\\", "").split()).removeprefix("× ")


def _factors(tex: str) -> list[tuple[str, int]]:
    factors: list[tuple[str, int]] = []
    prefix, power, sign = "", 1, 1
    for found in _UNIT_TOKEN.finditer(tex):
        raised, exponent, word, above, letters, slash = found.groups()
        if raised == "raiseto":
            power = int(exponent[:4])
        elif word in _POWERS_BEFORE:
            power = _POWERS_BEFORE[word]
        elif word == "per" or slash:
            sign = -1
        elif word in _PREFIXES and not (word == "micro" and not tex[found.end() :].strip()):
            prefix = _PREFIXES[word]
        elif factors and (above or exponent or word in _POWERS):
            value = int((above or exponent or str(_POWERS[word])).replace("−", "-")[:4])
            factors[-1] = (factors[-1][0], (-1 if factors[-1][1] < 0 else 1) * value)
        elif letters or word:
            name = letters or _UNITS.get(word) or re.sub(r"^u(?=[A-Za-z])", "µ", word)
            if word not in ("mathrm", "text", "rm", "cdot", "highlight", "cancel"):
                factors.append((prefix + name, sign * power))
                prefix, power, sign = "", 1, 1
    return factors


def unit(tex: str) -> str:
    r"""siunitx's \unit: \kilo\meter\per\second is km s⁻¹; units written out ("m/s", "m.s^{-1}") likewise."""
    return " ".join(n + (script(str(power), raised=True) if power != 1 else "") for n, power in _factors(tex))


def quantity(value: str, units: str) -> str:
    value, units = number(value), unit(units)
    return f"{value}{'' if units.startswith(_TIGHT) and units != '°C' else ' '}{units}".strip()


def siunitx(command: str, *values: str) -> str:
    """What a command of siunitx with these arguments prints."""
    match command:
        case "num":
            return number(values[0])
        case "si" | "unit":
            return unit(values[0])
        case "ang":
            parts = zip(values[0].split(";"), "°′″", strict=False)
            return " ".join(f"{number(part)}{sign}" for part, sign in parts if part.strip())
        case "SIrange" | "qtyrange":
            return f"{number(values[0])}–{quantity(*values[1:])}"
        case "numrange":
            return "–".join(map(number, values))
        case "SIlist" | "qtylist" | "numlist":
            *most, last = map(number, values[0].split(";"))
            listed = f"{', '.join(most)} and {last}" if most else last
            return listed if command == "numlist" else quantity(listed, values[1])
    return quantity(*values)


def chemistry(tex: str) -> str:
    r"""mhchem's \ce: H2O is H₂O, SO4^2- is SO₄²⁻, ^{13}C is ¹³C, 2H2 + O2 -> 2H2O has its arrow."""

    def written(found: re.Match) -> str:
        formula, arrow, above, above_short, below, below_short, count, charge, dot, command = found.groups()
        if formula:
            return formula
        if arrow:
            return f" {_ARROWS[arrow]} "
        raised = above or above_short or charge
        if raised:
            return script(raised.replace("$", ""), raised=True)
        lowered = below or below_short or count
        if lowered:
            return script(lowered.replace("$", ""), raised=False)
        return "·" if dot else GREEK.get(command, "") if command else ""

    return " ".join(_CHEMISTRY.sub(written, tex).split())


def as_text(tex: str, following: str) -> str | None:
    r"""A formula that is mere text: a number, a lone sign, scripts on the word before ("10$^{-5}$"); else None."""
    short = tex.strip()
    spaced = _SPACING.match(short).end()
    if spaced:
        plain = as_text(short[spaced:], following)
        return None if plain is None else f" {plain}"
    if short in SIGNS:
        return SIGNS[short]
    if short == "\\mu" and following[:1].isalpha():
        return "µ"
    if _NUMBER.fullmatch(short):
        return short.replace("\\", "").replace(" ", "")
    bare = _BARE_SCRIPT.fullmatch(short)
    return script(bare[2] or bare[3], raised=bare[1] == "^") if bare else None


def formula(tex: str) -> str:
    """A formula on one line, without its label and number and without trailing space."""
    text = _NO_FORMULA.sub("", tex) if "\\" in tex else tex
    if "\\" in text:
        text = _QUANTITY.sub(_quantity_in_formula, text)
    text = " ".join(text.split())
    tail = _TAIL.search(text, max(0, len(text) - 60))
    return text[: tail.start()] + tail[1]


def _quantity_in_formula(found: re.Match) -> str:
    kind, first, second = found.groups()
    if kind in ("SI", "qty") and second is None:
        return found[0]
    value = "" if kind in ("si", "unit") else re.sub(r"[eE]([-+]?\d+)$", r" \\times 10^{\1}", first.strip())
    units = first if kind in ("si", "unit") else second if kind != "num" else ""
    rest = "" if kind in ("SI", "qty") or second is None else f"{{{second}}}"
    written = "\\,".join(n + (f"^{{{power}}}" if power != 1 else "") for n, power in _factors(units or ""))
    return value + ("\\," if value and written else "") + (f"\\mathrm{{{written}}}" if written else "") + rest


def display(environment: str, tex: str) -> str:
    r"""A displayed formula between $$; one of several rows keeps them in `aligned`, so that it stays valid LaTeX."""
    kind = environment.rstrip("*")
    if kind in ("alignat", "xalignat", "IEEEeqnarray"):
        tex = re.sub(r"^\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}", "", tex)
    if kind not in ALIGNED | GATHERED:
        body = formula(tex)
    else:
        rows = [row for row in map(_row, _rows(tex)) if any(row)]
        if len(rows) == 1 or kind == "multline":
            body = " ".join(cell for row in rows for cell in row if cell)
        else:
            inner = "aligned" if kind in ALIGNED else "gathered"
            lines = " \\\\ ".join(f"{row[0]} &{' '.join(row[1:])}" if len(row) > 1 else row[0] for row in rows)
            body = f"\\begin{{{inner}}} {lines} \\end{{{inner}}}" if rows else ""
    return f"$$ {body} $$" if body.strip(" .,;") else ""


def _row(cells: list[str]) -> list[str]:
    row = [formula(cell) for cell in cells]
    while len(row) > 1 and not row[-1]:
        row.pop()
    return row


def _rows(tex: str) -> list[list[str]]:
    """Rows and cells, those of matrices and cases within a cell left whole."""
    rows: list[list[str]] = [[]]
    depth, start = 0, 0
    for found in _CELL.finditer(tex):
        token = found[0]
        if token == "{" or found[1] == "begin":
            depth += 1
        elif token == "}" or found[1] == "end":
            depth -= 1
        elif depth <= 0 and (token == "&" or token.startswith("\\\\")):
            rows[-1].append(tex[start : found.start()])
            start = found.end()
            if token != "&":
                rows.append([])
    rows[-1].append(tex[start:])
    return rows


def plain(tex: str) -> str:
    r"""A title or abstract in plain characters: {\"o}, \'e, \ss, \&, --, braces that only protect.

    Formulas between dollars stay, but for single signs ($<$, $\alpha$); so do commands of unknown meaning. One pass of
    one expression, so no input takes long (pylatexenc is far slower, and 20,000 braces end its recursion).
    """
    if not _TO_WRITE.search(tex):
        return tex
    text = _TEX.sub(_plainly, resolve_commands(tex))
    return _SINGLE_QUOTES.sub(r"‘\1’", text) if "`" in text else text


def _plainly(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "math":
            inner = found[0][1:-1].strip()
            if inner.startswith("\\"):
                return _PLAIN_SYMBOLS.get(inner[1:], found[0])
            return inner if inner in ("<", ">", "=", "+", "-", "|") else found[0]
        case "inner" | "letter":
            letter = found["inner"] or found["letter"]
            composed = unicodedata.normalize("NFC", letter + ACCENTS[found["accent"]])
            return composed if len(composed) == 1 or found["open"] else found[0]
        case "bare":
            return _BARE.get(found["bare"], "")
        case "script":
            return script(found["script"], raised=found["raised"] == "super")
        case "word":
            return _PLAIN_SYMBOLS.get(found["word"], found[0])
        case "sign":
            return found["sign"]
        case "space" | "tie":
            return " "
        case "dash":
            return "–" if len(found[0]) == 2 else "—"
        case "quote":
            return "“" if found[0] == "``" else "”"
    return ""
