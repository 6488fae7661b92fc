"""Resolves markup that exports leave in plain text: HTML entities, HTML and JATS tags, LaTeX accents.

What only looks like markup stays: "a < b", "<10 mm", the mean "<p>" of a momentum p, everything within TeX maths.
"""

import html
import io
import re
import unicodedata
from collections.abc import Callable

from lxml import etree

from nsllm_lite.corpus.files.elements import formula, iter_elements, script
from nsllm_lite.corpus.latex.inline import OPENING, closing_of
from nsllm_lite.corpus.latex.notation import ACCENTS, SYMBOLS
from nsllm_lite.corpus.texts.words import PATTERNS, SIGNS, WORDS

# ------------------------------------------------------------------------------------------------------- entities

_ENTITY = re.compile(r"(?:\\&|&)(?:amp;)*( ?)(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# ISO 8879 names of Greek letters, which HTML has not: "TNF-&agr;".
_GREEK_NAMES = "agr bgr ggr dgr egr zgr eegr thgr igr kgr lgr mgr ngr xgr ogr pgr rgr sgr tgr ugr phgr khgr psgr ohgr"
_GREEK = dict(zip(_GREEK_NAMES.split(), "αβγδεζηθικλμνξοπρστυφχψω", strict=True))


_CUT_NAME = re.compile(  # "Schr & ouml;dinger"
    r"([A-Z](?<![^\W\d_].)[a-z]{0,12}) "
    r"(& ?[A-Za-z]{1,2}(?:uml|acute|grave|circ|tilde|cedil|caron|slash|ring|dblac|strok|breve|ogon|lig);)"
)
_HTML = html.entities.html5 | {f"{name};": letter for name, letter in _GREEK.items()}


def decode_entities(text: str) -> str:
    """`&lt;`, `&amp;lt;`, `&#8722;`, `&beta;`, `&bgr;` as characters, and `& DEG;`, `&RARR;` of Web of Science.

    Unknown names stay, and words that are names too where a blank stands before them: "supply & image;".
    """
    if "& " in text:
        text = _CUT_NAME.sub(r"\1\2", text)
    return _ENTITY.sub(_entity, text)


def _entity(found: re.Match) -> str:
    blank, name = found[1], found[2]
    if name[0] == "#":
        return html.unescape(f"&{name};")
    if blank and name.lower() in WORDS["no_entities"]:
        return found[0]
    if name in ("DELTA", "OMEGA"):  # Web of Science capitalises small letters too
        before, after = (
            found.string[max(0, found.start() - 2) : found.start()],
            found.string[found.end() : found.end() + 1],
        )
        is_ohm = name == "OMEGA" and (before.rstrip()[-1:].isdigit() or before[-1:] in ("k", "M", "m", "μ", "µ"))
        name = name.capitalize() if is_ohm or (name == "DELTA" and after.isupper()) else name.lower()
    return _HTML.get(f"{name};") or _HTML.get(f"{name.lower()};") or found[0]


# ----------------------------------------------------------------------------------------------------------- tags

_SCRIPTS = {"sub": False, "inf": False, "subscript": False, "sup": True, "superscript": True}
_FORMULAS, _IN_PAIRS = PATTERNS["tags_of_formulas"], PATTERNS["tags_in_pairs"]
_CERTAIN = f"{'|'.join(_SCRIPTS)}|{PATTERNS['certain_tags']}|{_FORMULAS}"
_ATTRIBUTES = r"(?:\s[^<>=]{1,60}=[^<>]{0,500}|\s*/?)"
_TAG = re.compile(rf"<(/?)((?:jats|mml|xhtml):[a-z-]+|{_CERTAIN}|{_IN_PAIRS}){_ATTRIBUTES}>", re.IGNORECASE)
_COMMENT = re.compile(r"<!--[^<>]{0,200}-->|<!\[CDATA\[|\]\]>")
_SCRIPT = re.compile(rf"<({'|'.join(_SCRIPTS)})>([^<>]{{0,100}})</\1>")
_LONE_SCRIPT = re.compile(rf"</?(?:{'|'.join(_SCRIPTS)})>")
_FORMULA = re.compile(rf"<({_FORMULAS})(?=[\s>])[^<>]*>")
_NAME = re.compile(r"(?:jats|mml|xhtml):")
_PARAGRAPHS = re.compile(PATTERNS["tags_of_paragraphs"])


# Signs as Web of Science writes them. Single words that an average may have too ("<degree>") are none.
_SIGN = re.compile(r"<([a-z][a-z /-]{1,38}[a-z])>")
_SIGNS = {name: sign for sign, names in SIGNS.items() for name in names.split(", ")}
# "(p) over bar" with blanks may be prose, "f (x) over bar charts", where a word stands around it.
_OVER = re.compile(
    r"(?P<certain><(?=\([^()]{1,3}\) ?over[a-z -]{3,13}>)|(?=\([^()]{1,3}\)over|\([^()]{1,3}\) over-))?"
    r"\((?P<letters>[^\W_]{1,3})\) ?over[ -]?(?P<sign>bar|tilde|hat|cap|dot|arrow|right arrow|circle)(?![a-z])>?"
)
_PROSE_BEHIND = re.compile(r"\s*[a-z]{2}")
_OVER_SIGNS = {
    "bar": "\u0304",
    "tilde": "\u0303",
    "hat": "\u0302",
    "cap": "\u0302",
    "dot": "\u0307",
    "circle": "\u030a",
}
_OVER_SIGNS |= {"arrow": "\u20d7", "right arrow": "\u20d7"}


def resolve_signs(text: str) -> str:
    """Signs that Web of Science writes out: `<less than or equal to>` is ≤, `<(p)over bar>` is p̄."""
    if ")over" in text or ") over" in text:
        is_sure = any(map(_is_sign_over, _OVER.finditer(text)))
        text = _OVER.sub(_signed, text) if is_sure else text
    return _SIGN.sub(lambda m: _SIGNS.get(m[1], m[0]), text) if "<" in text else text


def _is_sign_over(found: re.Match) -> bool:
    if found["certain"] is not None:
        return True
    before = found.string[found.start() - 1 : found.start()]
    return not before.isalnum() and not _PROSE_BEHIND.match(found.string, found.end())


def _signed(found: re.Match) -> str:
    before = found.string[found.start() - 1 : found.start()]
    if found["certain"] is None and before.isalnum() and _PROSE_BEHIND.match(found.string, found.end()):
        return found[0]
    return "".join(letter + _OVER_SIGNS[found["sign"]] for letter in found["letters"])


def resolve_tags(text: str) -> str:
    """Text without tags: raised and lowered text in Unicode scripts, MathML on one line, paragraphs set apart."""
    text = _COMMENT.sub("", text)
    if not _TAG.search(text):
        return text
    text = text.replace("<jats:", "<").replace("</jats:", "</")
    text = _resolve_formulas(text)
    opened, closed = set(), set()
    for closing, name in ((m[1], _bare(m[2])) for m in _TAG.finditer(text)):
        (closed if closing else opened).add(name)
    text = _TAG.sub(lambda m: _replacement(m, opened & closed), text)
    for _ in range(3):  # one within another: "e<sup>x<sup>2</sup></sup>"
        text = _SCRIPT.sub(lambda m: script(m[2], raised=_SCRIPTS[m[1]]), text)
    return _LONE_SCRIPT.sub("", text)


def _bare(name: str) -> str:
    return _NAME.sub("", name.lower())


def _replacement(tag: re.Match, paired: set[str]) -> str:
    name = _bare(tag[2])
    if name in _SCRIPTS:
        return f"<{tag[1]}{name}>"  # resolved when nothing but text is left between the two
    if re.fullmatch(_IN_PAIRS, name) and name not in paired and ":" not in tag[2] and "=" not in tag[0]:
        return tag[0]
    if _PARAGRAPHS.fullmatch(name):
        return "\n\n"
    if name in ("li", "list-item"):
        return "" if tag[1] else "\n- "
    if name in ("br", "hr", "td", "th", "tr"):
        return " "
    before, after = tag.string[tag.start() - 1 : tag.start()], tag.string[tag.end() : tag.end() + 1]
    return " " if not tag[1] and before in tuple(".!?;") and after.isupper() else ""  # "in mice.<b>Results:</b>"


def _resolve_formulas(text: str) -> str:
    """Complete elements of formulas as `files.elements` writes them; of others only the tags are removed, later."""

    def resolve(found: re.Match, whole: str) -> str | None:
        element = next(iter_elements(io.StringIO(whole), (found[1],)), "")
        return formula(element) if isinstance(element, etree._Element) else None

    return _rewrite(text, _FORMULA, lambda found: f"</{found[1]}>", resolve)


def _rewrite(
    text: str,
    opening: re.Pattern,
    closing_of: Callable[[re.Match], str],
    inside: Callable[[re.Match, str], str | None],
    outside: Callable[[str], str] = str,
) -> str:
    """The text with what is between delimiters, these included, rewritten by `inside`, and the rest by `outside`.

    An opening delimiter that is never closed opens nothing, nor does one without a closing one ("") or for which
    `inside` gives None.
    """
    parts: list[str] = []
    start = search_from = 0
    unclosed = {""}
    while found := opening.search(text, search_from):
        search_from = found.end()
        closing = closing_of(found)
        end = -1 if closing in unclosed else text.find(closing, search_from)
        if end < 0:
            unclosed.add(closing)
            continue
        end += len(closing)
        written = inside(found, text[found.start() : end])
        if written is not None:
            parts += [outside(text[start : found.start()]), written]
            start = search_from = end
    return "".join((*parts, outside(text[start:])))


# -------------------------------------------------------------------------------------------------- LaTeX accents

_PREAMBLE = re.compile(r"\\documentclass\b")
_COMMANDS = re.compile(
    r"\\documentclass\s*(?:\[[^\[\]]{0,200}\]\s*)?\{[^{}]{0,200}\}"
    r"(?:\s*(?:\\[A-Za-z]+|\[[^\[\]]{0,200}\]|\{[^{}]{0,200}\}|[-+]?\d+pt))*\s*"
)
_BODY = re.compile(r"\\begin\{document\s*\}?")  # what took BibTeX's braces away may have taken the last one too
_BODY_END = re.compile(r"\\end\{document(?:\s*\}|(?![A-Za-z]))")


def unwrap_formulas(text: str) -> str:
    r"""Formulas without the whole LaTeX document (\documentclass ... \begin{document}) of some publishers.

    Of one that is cut short the preamble goes, up to its body or to where its commands end.
    """
    parts, start = [], 0
    while preamble := _PREAMBLE.search(text, start):
        body = _BODY.search(text, preamble.end())
        end = _BODY_END.search(text, body.end()) if body else None
        known = _COMMANDS.match(text, preamble.start())
        if not (body or known):
            break
        parts.append(text[start : preamble.start()])
        start = body.end() if body else known.end()
        if end:
            parts.append(text[start : end.start()])
            start = end.end()
    return "".join((*parts, text[start:]))


_ACCENT = re.compile(  # what begins with a sign is sooner found than what looks behind first
    r"""[{\\](?<!\\.)(?:
    (?<=\{)\\(?P<a>[`'^"~=.])\s*\{?(?P<A>\\i|[A-Za-z])\}?\}       # {\'e} {\'{e}} {\'\i}
    | (?<=\{)\\(?P<b>[uvHcdbkr])(?:\s+(?P<B>[A-Za-z])|\{(?P<B2>\\i|[A-Za-z])\})\}  # {\v c} {\v{c}}
    | (?<=\\)(?P<c>[`'^"~=.uvHcdbkr])\s*\{\s*(?P<C>\\i|[A-Za-z])\s*\}  # \'{e} \v{c}
    | (?<=\\)(?P<d>[`'^"~])(?P<D>\\i(?![A-Za-z])|[A-Za-z])        # \'e
    | (?<=\\)(?P<e>[uvHckr])\s+(?P<E>[A-Za-z])                    # \v c
    | (?<=\{)\\(?P<f>ss|[ao]e|AE|OE|[oOlL]|aa|AA)\s*\}            # {\o}
    | (?<=\\)(?P<h>-)                                             # \- where a word may be broken
    | (?<=\\)(?P<g>ss|[ao]e|AE|OE|[oOlL]|aa|AA)(?:\{\}|(?![A-Za-z])(?P<space>\s?))  # \o{} \o
    )""",
    re.VERBOSE,
)
_MAY_BE_ACCENT = re.compile(r"\\(?:[`'^\"~=.-]|[uvHcdbkr][\s{]|(?:ss|[ao]e|AE|OE|[oOlL]|aa|AA)(?![A-Za-z]))")
# Letters that take the accent without braces. Others follow a backslash that escapes a quote: it\'s, we\'re.
_BARE = {"'": "aeiouycnsz", "`": "aeiou", "^": "aeiou", "~": "ano", '"': "aeiouy"}
_ESCAPED_QUOTE = {mark: re.compile(rf"\\{mark}(?![A-Za-z{{\\])") for mark in "'\""}


def resolve_accents(text: str) -> str:
    r"""LaTeX accents and letters outside maths as characters: Schr\"odinger, Erd\H{o}s, {\L}ojasiewicz."""
    if not _MAY_BE_ACCENT.search(text):
        return text
    quoted = "".join(mark for mark, pattern in _ESCAPED_QUOTE.items() if pattern.search(text))
    return _rewrite(
        text,
        OPENING,
        lambda found: closing_of(found[0]),
        inside=lambda _, maths: maths,
        outside=lambda part: _ACCENT.sub(lambda m: _accent(m, quoted), part),
    )


def _accent(found: re.Match, quoted: str) -> str:
    before, after = found.string[found.start() - 1 : found.start()], found.string[found.end() : found.end() + 1]
    if found["h"]:
        return "" if before.isalpha() and after.isalpha() else found[0]
    if found["f"] or found["g"]:
        return _letter(found, before, after)
    form = next(name for name in "abcde" if found[name])
    mark = found[form]
    letter = (found[form.upper()] or found["B2"]).removeprefix("\\")
    if form == "d" and not _is_accented(mark, letter, before, after, quoted):
        return found[0]
    if form == "e" and not (before.isalpha() or letter.isupper()):  # "\v word": a macro, not "Dvo\v rak"
        return found[0]
    composed = unicodedata.normalize("NFC", letter + ACCENTS[mark])
    return composed if len(composed) == 1 else found[0]


def _is_accented(mark: str, letter: str, before: str, after: str, quoted: str) -> bool:
    """Whether an accent without braces is one, or its backslash escapes a quote: it\\'s, a \\"quoted\\" word.

    `quoted` holds the marks that the text sets, escaped, behind a word.
    """
    if letter.lower() not in _BARE[mark] or (letter == "s" and not after.isalpha()):
        return False
    if before.isalpha():
        return letter.islower() or before.isupper()
    return mark not in quoted and (after.isalpha() or mark == "`")  # vis-\\`a-vis


def _letter(found: re.Match, before: str, after: str) -> str:
    r"""Bare \o or \l only as part of a word, where TeX drops the space behind it; \AA also as a unit after a number."""
    letter = SYMBOLS[found["f"] or found["g"]]
    if found["f"] or found[0].endswith("}") or before.isalpha():
        return letter
    unit = letter == "Å" and re.search(r"\d[\s~]?$", found.string[max(0, found.start() - 2) : found.start()])
    if after.islower() and letter.isupper() and not unit:
        return letter  # "\L ojasiewicz"
    return letter + found["space"] if letter == "Å" else found[0]
