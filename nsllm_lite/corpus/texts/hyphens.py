"""Words that a line's end broke in two: "experi-\\nment" is one word, "x-\\nray" and "high-\\nenergy" are compounds.

There is no list of words, so the paper itself decides: where the joined word occurs elsewhere in it, the hyphen is
removed; where the hyphenated word does, it stays. Without evidence the word is joined only if one half
can be no word ("-tion", "con-"), and else kept as a compound: a wrong join makes a word that does not exist.
"""

import re

from nsllm_lite.corpus.texts.words import WORDS

_LINE_END = re.compile(r"-[ \t]*\n")
_BREAK = re.compile(r"([-‐])(?<=\w[-‐])[ \t]*\n[ \t]*(\w+)")
_SOFT_BREAK = re.compile("[\u00ad\ufffe][ \t]*\n[ \t]*(?=[^\\W\\d_])")
_GAP = re.compile(r"([-‐])(?<=[^\W\d_][-‐]) ([^\W\d_]+)")
_LAST_WORD = re.compile(r"\w+$")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_MAX_WORD = 40
_SUSPENDED = frozenset(("and", "or", "to", "versus", "vs", "nor", "but", "than", "as", "und", "et", "ou", "y"))
_NO_SECOND_WORD, _NO_FIRST_WORD = WORDS["endings"], WORDS["beginnings"]


def rejoin_broken_lines(text: str, evidence: str = "") -> str:
    """Hyphens at ends of lines settled either way, with their line ends; `evidence` is more text of the same paper."""
    if not (_LINE_END.search(text) or "‐" in text or "\u00ad" in text or "\ufffe" in text):
        return text
    return _rejoin(_BREAK, _SOFT_BREAK.sub("", text), evidence, kept="{0}{1}")


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
            words.update(_WORD.findall(f"{evidence}\n{found.string}".lower()))
        if left.lower() + right in words:
            return right
        if f"{left.lower()}-{right}" in words:
            return f"{hyphen}{right}"
        return right if right in _NO_SECOND_WORD or left.lower() in _NO_FIRST_WORD else as_it_is

    return pattern.sub(settle, text)
