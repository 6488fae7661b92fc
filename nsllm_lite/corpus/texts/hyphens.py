"""Words that the end of a line broke, joined again: "experi-\\nment", "prob- lems", soft hyphens.

"experi-\\nment" is one word, "x-\\nray" and "high-\\nenergy" are compounds. There is no list of words, so the paper
itself decides: where the joined word occurs elsewhere in it, the hyphen is removed; where the hyphenated one does, it
stays. Without evidence the word is joined only if one half can be no word ("-tion", "con-"), and else kept as a
compound: a wrong join makes a word that does not exist.
"""

import re

from nsllm_lite.corpus.texts.words import WORDS

_LINE_END = re.compile(r"-[ \t]*\n")
_BREAK = re.compile(r"([-‐])(?<=\w[-‐])[ \t]*\n[ \t]*(\w+)")
_SOFT = re.compile("([\u00ad\ufffe]+)([ \\t]*\\n[ \\t]*|[ \\t]+)?(?=([^\\W_]*))")
_GAP = re.compile(r"([-‐])(?<=[^\W\d_][-‐]) ([^\W\d_]+)")
_LAST_WORD = re.compile(r"\w+$")
_HYPHENED = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_MAX_WORD = 40
_SUSPENDED = frozenset(("and", "or", "to", "versus", "vs", "nor", "but", "than", "as", "und", "et", "ou", "y"))
_NO_SECOND_WORD, _NO_FIRST_WORD = WORDS["endings"], WORDS["beginnings"]


def rejoin_broken_lines(text: str, evidence: str = "") -> str:
    """Hyphens at ends of lines settled either way, with their line ends; `evidence` is more text of the same paper."""
    if not (_LINE_END.search(text) or "‐" in text):
        return text
    return _rejoin(_BREAK, text, evidence, kept="{0}{1}")


def settle_soft_hyphens(text: str, evidence: str = "") -> str:
    """Soft hyphens, with the line end or blank behind them: removed within a word, else what they stand for.

    PDF makers write them for the hyphen at a line's end, so a compound may have one too: it is kept where the paper
    writes the word with a hyphen elsewhere. Beside a digit a soft hyphen is a hyphen, before a number a minus sign.
    """
    words: set[str] = set()

    def settle(found: re.Match) -> str:
        gap, right = found[2] or "", found[3]
        left = found.string[max(0, found.start() - _MAX_WORD) : found.start()]
        before, after = left[-1:], right[:1]
        if before in ("-", "‐") and after and gap:
            return ""
        if not after or not before.isalnum():
            is_minus = after.isdigit() and not gap and (not before or before in " \n\t([~")
            return "-" if is_minus else gap
        if before.isdigit() or after.isdigit():
            return "-"
        if gap and right in _SUSPENDED:
            return "- "
        if not words:
            words.update(_HYPHENED.findall(f"{evidence}\n{found.string}".lower()))
        word = _LAST_WORD.search(left)[0].lower()
        is_compound = f"{word}-{right.lower()}" in words and word + right.lower() not in words
        return "-" if is_compound else ""

    return _SOFT.sub(settle, text)


def rejoin_broken_words(text: str, evidence: str = "") -> str:
    """The same where the line's end was already made a space ("prob- lems"); what is uncertain stays as it is."""
    return _rejoin(_GAP, text, evidence, kept="{0} {1}")


def _rejoin(pattern: re.Pattern, text: str, evidence: str, kept: str) -> str:
    words: set[str] = set()

    def settle(found: re.Match) -> str:
        hyphen, right = found[1], found[2]
        before = found.string[max(0, found.start() - _MAX_WORD) : found.start()]
        left = _LAST_WORD.search(before)[0]
        as_it_is = kept.format(hyphen, right)
        after = found.string[found.end() : found.end() + 1]
        in_chain = (after and after in "-‐") or before[: -len(left)].endswith(("-", "‐"))  # "state-of-the-\nart"
        if right in _SUSPENDED:
            return f"{hyphen} {right}"
        if in_chain or len(left) < 2 or not right.islower() or not left[1:].islower():
            return as_it_is
        if not words:
            words.update(_HYPHENED.findall(f"{evidence}\n{found.string}".lower()))
        if left.lower() + right in words:
            return right
        if f"{left.lower()}-{right}" in words:
            return f"{hyphen}{right}"
        return right if right in _NO_SECOND_WORD or left.lower() in _NO_FIRST_WORD else as_it_is

    return pattern.sub(settle, text)
