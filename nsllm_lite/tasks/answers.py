"""Parsers of a model's answer, and comparison with the right one.

An answer that cannot be parsed is None and counts as wrong: no item is dropped because of its answer.
"""

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nsllm_lite.tasks.items import without_thinking

STATED = re.compile(r"\b(?:final\s+)?(?:answer|result|choice|option|title|label|category)\b\s*(?:is|:|=)\s*:?\s*", re.I)
MARKS = "*_`\"'“”‘’ \t"
MATHS = re.compile(r"[0-9\\^_+*/=<>|⁰¹²³⁴-⁹]")
SUPERSCRIPT = re.compile("[⁺⁻⁰¹²³⁴-⁹]+")
COMPARE_SECONDS = 5


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that the text names: in a box, after "the answer is", in the first line or anywhere; None unless one.

    Case does not matter, and the singular of a label is enough (Conclusion for Conclusions).
    """
    text = without_thinking(text)
    by_form = {_label_form(label): label for label in labels}
    any_label = re.compile(
        r"(?<!\w)(?:" + "|".join(sorted(map(re.escape, by_form), key=len, reverse=True)) + r")s?(?!\w)", re.IGNORECASE
    )
    stated = [match.end() for match in STATED.finditer(text)]
    for part in (_boxed(text), *(_first_line(text[end:]) for end in stated[-1:]), _first_line(text), text):
        named = {by_form[_label_form(found)] for found in any_label.findall(part or "")}
        if len(named) == 1:
            return named.pop()
    return None


def _label_form(label: str) -> str:
    return label.lower().strip().removesuffix("s")


def parse_letter(text: str, letters: Sequence[str]) -> str | None:
    """The letter chosen: in a box, after "the answer is", alone in a line, or the only one in brackets; else None."""
    text = without_thinking(text)
    one = f"[{''.join(letters)}]"
    alone = re.compile(rf"^\W*({one})(?:\W*$|\s*[).:].*$)")
    stated = [text[match.end() :] for match in STATED.finditer(text)]
    for part in (_boxed(text), *(_first_line(rest) for rest in stated[-1:])):
        if part and (found := re.match(rf"\W*(?:option\s+)?({one})(?!\w)", part, re.IGNORECASE)):
            return found[1].upper()
    for line in (_first_line(text), text.strip().rpartition("\n")[2]):
        if found := alone.match(line.strip()):
            return found[1]
    named = set(re.findall(rf"\(({one})\)|(?<!\w)({one})\)", text))
    found_letters = {one or other for one, other in named}
    return found_letters.pop() if len(found_letters) == 1 else None


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
    line = line.strip(MARKS)
    return line.removesuffix(".").strip(MARKS) or None


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
    """Whether two answers are the same text (but for case, spaces and dollars), or the same mathematics.

    Texts without digits or operators are compared as texts only: as mathematics "act" is the product a c t, which is
    "cat". Source of the comparison: math-verify (Hugging Face), which parses LaTeX and compares with SymPy.
    """
    if _plain(answer) == _plain(right):
        return True
    if not (MATHS.search(answer) and MATHS.search(right)) or max(len(answer), len(right)) > 500:
        return False
    from math_verify import parse as parse_maths
    from math_verify import verify

    with _quiet():
        one, other = (
            parse_maths(f"\\boxed{{{_as_latex(text)}}}", parsing_timeout=COMPARE_SECONDS) for text in (right, answer)
        )
        return bool(one and other and verify(one, other, timeout_seconds=COMPARE_SECONDS))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold().strip().removesuffix(".")
    return re.sub(r"[\s$]+|\\[,;! ]", "", text).replace("−", "-").replace("\\left", "").replace("\\right", "")


def _as_latex(text: str) -> str:
    """1.6e-19, 1.6 × 10⁻¹⁹ and 1.6·10^-19 in the form that math-verify parses."""
    text = text.strip().strip("$").replace("−", "-").replace("×", r"\times ").replace("·", r"\cdot ")
    text = SUPERSCRIPT.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0]).replace('−', '-')}}}", text)
    text = re.sub(r"(?<=\d)[eE]([+-]?\d+)\b", r"\\times 10^{\1}", text)
    return re.sub(r"\^(-?\d+)", r"^{\1}", text)


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the log of math-verify, which warns of every answer that it cannot parse."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
