"""Joins text that is broken into the lines of its printed page, words hyphenated at a line's end included."""

import re
from collections import Counter

BREAK = "\ue002"  # stands where a line, column or page of the print ended
NO_BREAK = "\ue003"  # the same within a word, as the source itself states
MIN_WORD_CHARS = 4

_WORD = re.compile(r"\w+(?:-\w+)*")
_CUT = re.compile(rf"(?<!\w)(\w+)[-\u2010\u00ad]{BREAK} ?(?=(\w+)(-?))")
_HALVES = re.compile(rf"(?<!\w)\w+[-\u2010\u00ad]{BREAK} ?\w+")
_DROP_CAP = re.compile(rf"^([A-Z]){BREAK} ?(?=([a-z]+))")


class Lines:
    """Joins lines by the words of the document they are from, which has most of them unbroken elsewhere."""

    def __init__(self, text: str):
        whole = _WORD.findall(_HALVES.sub(" ", text)) if BREAK in text else []
        self._words = Counter(word.lower() for word in whole)

    def join(self, text: str) -> str:
        """The text on one line: hyphens at ends of lines removed, except in compounds, and drop caps joined."""
        if BREAK not in text and NO_BREAK not in text:
            return text
        text = re.sub(f"-?{NO_BREAK} ?", "", text)
        text = _CUT.sub(lambda cut: cut[1] + ("-" if self._is_compound(cut) else ""), text)
        text = _DROP_CAP.sub(lambda cut: cut[1] + ("" if self._is_one_word(cut[1], cut[2]) else " "), text)
        return " ".join(text.replace(BREAK, " ").split())

    def _is_compound(self, cut: re.Match) -> bool:
        left, right = cut[1].lower(), cut[2].lower()
        hyphened, joined = self._words[f"{left}-{right}"], self._words[left + right]
        if hyphened or joined:
            return hyphened > joined
        if cut[3] or cut.string[max(0, cut.start() - 1) : cut.start()] == "-":
            return True  # root-mean-square
        if not (cut[1].isalpha() and cut[2][0].islower()) or len(left) == 1 or cut[1][1:].isupper():
            return True  # SARS-CoV, 10-fold, e-mail, DNA-bound
        alone = min(self._words[left], self._words[right])
        return alone > 0 and min(len(left), len(right)) >= MIN_WORD_CHARS

    def _is_one_word(self, left: str, right: str) -> bool:
        """ "H igh" is one word, "A new" is two."""
        return left not in "AI" or self._words[f"{left}{right}".lower()] > self._words[right.lower()]
