"""Parsers of a model's answer, and comparison with the right one.

An answer that cannot be parsed is None and counts as wrong: no item is dropped because of its answer.
"""

import logging
import re
import unicodedata
from collections.abc import Sequence

from nsllm_lite.tasks.items import WRAPPER, without_thinking

STATED = re.compile(
    r"(?<![A-Za-z])(?:answer|ans|result|choice|option|title|label|category)\b[*_`\"']{0,3}\s{0,9}(?:is\b|:|：|=)[*_`\"']{0,3}\s*:?\s*"
    r"|(?:答案|结果|结论|标签|类别|学科)】?(?:应该|应)?(?:是|为|：|:|(?<=】))[是为：:]?\s*",
    re.IGNORECASE,
)
MARKS = "*_`\"'“”‘’「」『』 \t"
MATHS = re.compile(r"[0-9\\^_+*/=<>|⁰¹²³⁴-⁹]")
SUPERSCRIPT = re.compile("[⁺⁻⁰¹²³⁴-⁹ⁱⁿ]+")
WORD = re.compile(r"(?<![\w\\])[^\W\d_]{2,}(?!\w)")
NEGATED = re.compile(
    r"(?:\b(?:not|cannot|never|neither|nor|non|unlike|than|instead of)|n['’]t)[^\w;:.]{1,3}"
    r"(?:(?!(?:but|rather|instead)\b)\w{1,12}[^\w;:.]{1,3}){0,2}$"
    r"|(?:不(?![仅只但过])|非(?!常)|[否未没别勿]|难以)(?:(?![而但就却])\w){0,8}[、和或与及]?$",
    re.IGNORECASE,
)
CHINESE = re.compile(r"[\u4e00-\u9fff]{2,}")
AFTER_VERB = r"(?:(?<=是)(?<!还是)|(?<=为)(?<![因作]为)|(?<=属于)|(?<=归于)|(?<=选)|(?<=选择))"
EXPLAINED = re.compile(
    r"(?:^|(?<=[.。!！;；]))[ \t]{0,3}[\s#>*_-]{0,6}"
    r"(?:explanation|reason(?:ing)?|rationale|justification|notes?|remark|check|verification"
    r"|解析|解释|理由|说明|分析|备注|注|验证|原因)[*_]{0,3}\s?[:：]",
    re.IGNORECASE | re.MULTILINE,
)
LINE_STATES = re.compile(
    r"^\W{0,6}(?:(?:so|thus|hence|therefore|the|my|final|correct)\b,?\s){0,3}"
    r"(?:(?:answer|ans|result|答案|结果)\W{0,6}[:：=]|final\sanswer\sis\b"
    r"|answer\sis\b(?:(?!\b(?:because|since|correct|right|wrong|found|obtained)\b)[^\n]){1,60}$)|^\W{0,3}最终答案",
    re.IGNORECASE | re.MULTILINE,
)
ABOUT_IT = re.compile(
    r"(?:(?:also|indeed|clearly|then|exactly)\s)?(?:correct|right|wrong|incorrect|exact|consistent|reasonable|obtained"
    r"|found|derived|computed|calculated|verified|confirmed|based|shown|as follows|below|a (?:number|value)"
    r"|not (?:given|obvious|clear|unique))\b|正确的|对的|一个|如下|合理|由|根据|通过",
    re.IGNORECASE,
)
ALONE = re.compile(r"\s*\S[^\n]{0,60}(?<![.:。：\s])(?=[ \t]*\n)")  # a first line that is no sentence
SENTENCE_BEGUN = re.compile(r"(?:[.!;]\s|[。！；])[^.!;。！；]*$")
YES = ("yes", "true", "correct", "是", "对", "正确")
NO = ("no", "false", "incorrect", "否", "不是", "不", "错", "错误", "不对", "不正确")
UNITS = {
    "m": "meter metre", "km": "kilometer kilometre", "cm": "centimeter centimetre", "mm": "millimeter millimetre",
    "nm": "nanometer nanometre", "mi": "mile", "g": "gram", "kg": "kilogram", "mg": "milligram", "s": "second sec",
    "ms": "millisecond", "min": "minute", "h": "hour hr", "J": "joule", "kJ": "kilojoule", "K": "kelvin",
    "Pa": "pascal", "kPa": "kilopascal", "mol": "mole", "N": "newton", "W": "watt", "kW": "kilowatt", "V": "volt",
    "A": "ampere amp", "C": "coulomb", "F": "farad", "T": "tesla", "L": "liter litre", "Hz": "hertz",
    "eV": "electronvolt",
}  # fmt: skip
SYMBOLS = {name: symbol for symbol, names in UNITS.items() for name in names.split()}
UNIT_LETTERS = 4  # a longer word after a number is no unit
COMPARE_SECONDS = 5
QUANTITY = re.compile(r"[-+]?[\d.,]+(?:\s?(?:\\times|×|\\cdot)\s?10\^\{?[-+]?\d+\}?)?(?:\\[,;! ]|\s)*([A-Za-zµμΩ]+)")
EASTERN = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
ROUGE_WORD = re.compile(rf"[a-z0-9]+|[{EASTERN}]|[^\W\d_a-z{EASTERN}]+")


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that the text names: in a box, after "the answer is", in the first line or anywhere; None unless one.
    Case does not matter, and the singular of a label is enough (Conclusion for Conclusions). A label after "not" is not
    named; a Chinese one may stand behind its verb (是生物). Where the labels are yes and no, or true and false, so are
    是 and 否, 对 and 错."""
    text = unicodedata.normalize("NFKC", without_thinking(text))
    by_form = _forms_of(labels)
    either = "|".join(sorted(map(re.escape, by_form), key=len, reverse=True))
    chinese = "|".join(sorted(filter(CHINESE.fullmatch, by_form), key=len, reverse=True)) or "(?!)"
    any_label = re.compile(
        rf"(?:(?<!\w)({either})|{AFTER_VERB}({chinese}))(?:s|的|了|类|领域|学科)?(?!\w)", re.IGNORECASE
    )
    for part in (_boxed(text), _stated(text), _first_line(text), text):
        part = part or ""
        named = {
            by_form.get(label_form(found[1] or found[2]))  # None where letters are alike to `re` only, as ı and i
            for found in any_label.finditer(part)
            if not NEGATED.search(part[max(0, found.start() - 40) : found.start()])
        }
        if len(named) == 1:
            return named.pop()
    return None


def _forms_of(labels: Sequence[str]) -> dict[str, str]:
    """{how a label may be written: the label}"""
    by_form = {label_form(label): label for label in labels}
    poles = [[label for label in labels if label.lower() in words] for words in (YES, NO)]
    if [len(found) for found in poles] == [1, 1]:
        for (label,), words in zip(poles, (YES, NO), strict=True):  # "true" is not "yes", but both are 是
            others = (label_form(word) for word in words if not (word.isascii() and label.isascii()))
            by_form = dict.fromkeys(others, label) | by_form
    return by_form


def label_form(label: str) -> str:
    return unicodedata.normalize("NFKC", label).lower().strip().removesuffix("s")


def parse_line(text: str) -> str | None:
    """The first line, without "Title:", quotation marks and emphasis, or the next one after a line that ends in a
    colon ("Here is a title:"); None where it is empty."""
    line, _, rest = without_thinking(text).partition("\n")
    if rest.strip() and line.rstrip(MARKS).endswith((":", "：")):
        line = _first_line(rest)
    if stated := re.match(r"\W{0,9}(?:title|标题|题目|题名)\W{0,5}?[:：]", line, re.IGNORECASE):
        line = line[stated.end() :]
    line = re.sub(r"^#{1,6}\s", "", line.strip()).strip(MARKS)
    return (line[1:-1] if line.startswith("《") and line.find("》") == len(line) - 1 else line) or None


def parse_result(text: str) -> str | None:
    """The content of the last box, else of the last <answer>, else the text after the last "the answer is", else the
    last line; None if empty. An explanation after the answer is not read."""
    text = without_thinking(text)
    if boxed := _boxed(text):
        return boxed
    if "<answer>" in text:
        text = text.rpartition("<answer>")[2].partition("</answer>")[0]
    line = _stated(text)
    if line is None:
        line = _unexplained(text).strip().rpartition("\n")[2]
    line = line.strip(MARKS).removesuffix("}" if line.count("}") > line.count("{") else "")  # of {"answer": "42"}
    return line.strip(MARKS).removesuffix(".").removesuffix("。").strip(MARKS) or None


def _stated(text: str) -> str | None:
    """The line after the last "the answer is"; not one in an explanation of it, nor one that only says of it that it
    is right, where there are others."""
    text = _unexplained(text)
    stated = list(STATED.finditer(text))
    answers = [found for found in stated if not ABOUT_IT.match(text, found.end())] or stated
    if not answers:
        return None
    end = answers[-1].end()
    behind = next((found.start() for found in stated if found.start() >= end), end)
    whole = SENTENCE_BEGUN.search(text, end, behind)  # before a sentence about it in the same line
    return _first_line(text[end : whole.start() if whole else len(text)])


def _unexplained(text: str) -> str:
    """`text` without explanations of an answer that stands before them, each up to the next line that states one."""
    answers = list(STATED.finditer(text))
    stated, begins = answers[0].start() if answers else len(text), len(text) - len(text.lstrip())
    if not any(one[0].lower().startswith(("ans", "答案")) for one in answers) and (alone := ALONE.match(text)):
        stated = min(stated, alone.end())
    kept, place, end = [], 0, -1
    for found in EXPLAINED.finditer(text):
        if found.start() < place:
            continue
        if end < found.end():
            again = LINE_STATES.search(text, found.end())
            end = again.start() if again else len(text)
        if stated < found.start() or begins < found.start() <= end <= stated:
            kept, place = [*kept, text[place : found.start()]], end
    return "\n".join([*kept, text[place:]])


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
    one, other = (_with_symbol(_as_latex(text)) for text in (one, other))
    is_mixed = re.search(r"\d \d", f"{one}\n{other}")  # math-verify multiplies or adds: 3 4 is 7
    if is_mixed or _differ_by_case(one, other) or _differ_by_unit(one, other):
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
    text = WRAPPER.sub(r"\1", text.removesuffix(".").removesuffix("。"))
    return re.sub(r"(?<!\d) | (?!\d)|\$", "", text).replace("\\left", "").replace("\\right", "")


def _as_latex(text: str) -> str:
    """1.6e-19, 1.6 × 10^{-19} and 2 1/2 in the form that math-verify parses."""
    text = text.strip("$").replace("×", r"\times ").replace("·", r"\cdot ").removesuffix("。")
    text = text.replace("°", r"^{\circ}")
    text = re.sub(r"(?<=\d)[eE]([+-]?\d+)\b", r"\\times 10^{\1}", text)
    return re.sub(r"(?<=\d) (\d+)/(\d+)\b", r"\\frac{\1}{\2}", text)


def _differ_by_case(one: str, other: str) -> bool:
    """Whether a symbol of the one is a symbol of the other but for its case, which math-verify ignores."""
    symbols, others = (set(re.findall(r"\\[A-Za-z]+|[^\W\d_]", text)) for text in (one, other))
    return bool({name.lower() for name in symbols - others} & {name.lower() for name in others - symbols})


def _with_symbol(text: str) -> str:
    """A quantity with its unit's symbol in place of the name: 5 joules -> 5 J."""
    found = QUANTITY.fullmatch(WRAPPER.sub(r"\1", text).strip(" $"))
    symbol = found and SYMBOLS.get(found[1].lower().removesuffix("s"))
    return f"{found[0][: found.start(1)]}{symbol}" if symbol else text


def _differ_by_unit(one: str, other: str) -> bool:
    """Whether both are a number with a unit, and the units differ: math-verify drops many, so that 5 km is 5 m. A
    symbol may stand for a name that begins alike (mmol, millimoles), if neither is among UNITS; a missing unit is left
    to math-verify."""
    units = [QUANTITY.fullmatch(WRAPPER.sub(r"\1", text).strip(" $")) for text in (one, other)]
    if None in units:
        return False
    if {found[1] for found in units} & UNITS.keys():
        return units[0][1] != units[1][1]
    short, long = sorted((found[1].removesuffix("s") or found[1] for found in units), key=len)
    if len(short) < UNIT_LETTERS <= len(long):
        return not re.match(".*".join(short), long, re.IGNORECASE)
    return sorted(short) != sorted(long)  # xy is yx, a metre a meter


def rouge_l(predicted: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, in lower case, letters and digits only; a Chinese, Japanese or
    Korean character is a word, and so are letters of other alphabets that stand together.

    Source: Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; words as in Google's rouge-score,
    without its stemmer.
    """
    one, two = (ROUGE_WORD.findall(text.lower()) for text in (predicted, reference))
    row = [0] * (len(two) + 1)
    for word in one:
        diagonal = 0
        for place, other in enumerate(two, 1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(one) + len(two)) if row[-1] else 0.0
