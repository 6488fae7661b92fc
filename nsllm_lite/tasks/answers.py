"""Parsers of a model's answer, and comparison with the right one.

An answer that cannot be parsed is None and counts as wrong: no item is dropped because of its answer.
"""

import logging
import re
import unicodedata
from collections.abc import Sequence

from nsllm_lite.tasks.items import without_thinking

STATED = re.compile(r"\b(?:final\s+)?(?:answer|result|choice|option|title|label|category)\b\s*(?:is|:|=)\s*:?\s*", re.I)
MARKS = "*_`\"'“”‘’ \t"
MATHS = re.compile(r"[0-9\\^_+*/=<>|⁰¹²³⁴-⁹]")
SUPERSCRIPT = re.compile("[⁺⁻⁰¹²³⁴-⁹ⁱⁿ]+")
WORD = re.compile(r"(?<![\w\\])[^\W\d_]{2,}(?!\w)")
UNIT_LETTERS = 4  # a longer word after a number is no unit
COMPARE_SECONDS = 5


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that the text names: in a box, after "the answer is", in the first line or anywhere; None unless one.
    Case does not matter, and the singular of a label is enough (Conclusion for Conclusions)."""
    text = without_thinking(text)
    by_form = {_label_form(label): label for label in labels}
    either = "|".join(sorted(map(re.escape, by_form), key=len, reverse=True))
    any_label = re.compile(rf"(?<!\w)(?:{either})s?(?!\w)", re.IGNORECASE)
    stated = [match.end() for match in STATED.finditer(text)]
    for part in (_boxed(text), *(_first_line(text[end:]) for end in stated[-1:]), _first_line(text), text):
        named = {by_form[_label_form(found)] for found in any_label.findall(part or "")}
        if len(named) == 1:
            return named.pop()
    return None


def _label_form(label: str) -> str:
    return label.lower().strip().removesuffix("s")


def parse_letter(text: str, letters: Sequence[str]) -> str | None:
    """The letter chosen: in a box, after "the answer is", alone in a line, or the only one in brackets; else None.

    A lower-case letter counts only in brackets, in a box or at the end of its line: "a" is an article elsewhere. Where
    no letter follows "the answer is", one at the end of that line does, after "so", "is" and the like.
    """
    text = without_thinking(text)
    one = f"[{''.join(letters)}]"
    either = f"(?i:{one})"
    first = re.compile(rf"\W*(?:(?i:option)\s+)?({one}(?!\w)|{either}(?=\)|\W*$))")
    last = re.compile(rf".*\b(?i:so|thus|hence|therefore|is|option|choice)\W+({either})\W*$")
    alone = re.compile(rf"^\W*({one})(?:\W*$|\s*[).:].*$)")
    stated = [_first_line(text[match.end() :]) for match in STATED.finditer(text)][-1:]
    for part in (_boxed(text), *stated):
        if part and (found := first.match(part) or last.match(part)):
            return found[1].upper()
    for line in (_first_line(text), text.strip().rpartition("\n")[2]):
        if found := alone.match(line.strip()):
            return found[1]
    named = {one or other for one, other in re.findall(rf"\(({one})\)|(?<!\w)({one})\)", text)}
    return named.pop() if len(named) == 1 else None


def parse_line(text: str) -> str | None:
    """The first line, without "Title:", quotation marks and emphasis; None where it is empty."""
    line = _first_line(without_thinking(text))
    if stated := re.match(r"\W*title\W*:\s*", line, re.IGNORECASE):
        line = line[stated.end() :]
    return line.strip(MARKS) or None


def parse_result(text: str) -> str | None:
    """The content of the last box, else the text after the last "the answer is", else the last line; None if empty."""
    text = without_thinking(text)
    if boxed := _boxed(text):
        return boxed
    if stated := list(STATED.finditer(text)):
        line = _first_line(text[stated[-1].end() :])
    else:
        line = text.strip().rpartition("\n")[2]
    return line.strip(MARKS).removesuffix(".").strip(MARKS) or None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{}, with the braces inside it."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for place in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place].strip() or None
    return None


def is_equal(answer: str, right: str) -> bool:
    """Whether two answers are the same text (but for spaces, dollars and the case of words), or the same mathematics.

    Case is ignored in words alone: two letters or more, all but the first lower-case, or three or more capitals (Tin =
    tin = TIN, No = no). Symbols, formulas and units keep it (Co and CO, x and X, mW and MW), as does a word of up to
    four letters after a number (5 Mbar). A space between digits counts, unless it groups thousands.

    Texts without digits or operators are compared as texts only: as mathematics "act" is the product a c t, which is
    "cat". Source of the comparison: math-verify (Hugging Face), which parses LaTeX and compares with SymPy.
    """
    one, other = _normal(right), _normal(answer)
    if _plain(one) == _plain(other):
        return True
    if not (MATHS.search(one) and MATHS.search(other)) or max(len(answer), len(right)) > 500:
        return False
    one, other = _as_latex(one), _as_latex(other)
    is_mixed = re.search(r"\d \d", f"{one}\n{other}")  # math-verify multiplies or adds: 3 4 is 7
    if is_mixed or _differ_by_case(one, other):
        return False
    from math_verify import parse as parse_maths
    from math_verify import verify

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # math-verify warns of every answer that it cannot parse
    try:
        found, asked = (parse_maths(f"\\boxed{{{text}}}", parsing_timeout=COMPARE_SECONDS) for text in (one, other))
        return bool(found and asked and verify(found, asked, timeout_seconds=COMPARE_SECONDS))
    finally:
        logging.disable(level)


def _normal(text: str) -> str:
    """NFKC, but exponents stay exponents (10² is not 102); words in lower case; numbers without grouping spaces."""
    text = SUPERSCRIPT.sub(lambda found: f"^{{{found[0]}}}", text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("⁄", "/")
    text = re.sub(r"\^(-?\d+)", r"^{\1}", text)
    text = re.sub(r"(?:\\[,;! ]|\s)+", " ", WORD.sub(_without_case, text)).strip()
    return re.sub(r"(?<!\d)\d{1,3}(?: \d{3})+(?!\d)", lambda found: found[0].replace(" ", ""), text)


def _without_case(found: re.Match) -> str:
    word, before = found[0], found.string[: found.start()].rstrip()
    is_word = word[1:].islower() or (word.isupper() and len(word) > 2)
    is_unit = before[-1:].isdigit() and len(word) <= UNIT_LETTERS
    return word.casefold() if is_word and not is_unit else word


def _plain(text: str) -> str:
    return re.sub(r"(?<!\d) | (?!\d)|\$", "", text.removesuffix(".")).replace("\\left", "").replace("\\right", "")


def _as_latex(text: str) -> str:
    """1.6e-19, 1.6 × 10^{-19} and 2 1/2 in the form that math-verify parses."""
    text = text.strip("$").replace("×", r"\times ").replace("·", r"\cdot ")
    text = re.sub(r"(?<=\d)[eE]([+-]?\d+)\b", r"\\times 10^{\1}", text)
    return re.sub(r"(?<=\d) (\d+)/(\d+)\b", r"\\frac{\1}{\2}", text)


def _differ_by_case(one: str, other: str) -> bool:
    """Whether a symbol of the one is a symbol of the other but for its case, which math-verify ignores."""
    symbols, others = (set(re.findall(r"\\[A-Za-z]+|[^\W\d_]", text)) for text in (one, other))
    return bool({name.lower() for name in symbols - others} & {name.lower() for name in others - symbols})


def rouge_l(predicted: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, in lower case, letters and digits only.

    Source: Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; words as in Google's rouge-score,
    without its stemmer.
    """
    one, two = (re.sub(r"[^a-z0-9]+", " ", text.lower()).split() for text in (predicted, reference))
    row = [0] * (len(two) + 1)
    for word in one:
        diagonal = 0
        for place, other in enumerate(two, 1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(one) + len(two)) if row[-1] else 0.0
