"""The language a paper is written in: English by its function words, Chinese, Japanese and Korean by their characters,
the rest by py3langid.

Nearly all papers are English, and a count of "the", "of" and "and" shows it in 20 µs; py3langid, which takes up to 1
ms, runs only on doubtful texts. It loads one file, its own packaged model (4.6 MB, NumPy arrays without pickle),
and computes the same for the same text on every machine. lingua, tried beside it, gave the same answers on 88 French
and 300 English abstracts, but took 7.5 ms for one and 540 MB of memory.
Source: Lui and Baldwin, "langid.py: An Off-the-shelf Language Identification Tool" (2012); github.com/adbar/py3langid.
"""

import itertools
import re
from collections.abc import Sequence
from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from nsllm_lite.corpus.texts.scripts import UNSPACED_WEIGHT
from nsllm_lite.corpus.texts.words import WORDS
from nsllm_lite.formats.scripts import EASTERN, HAN, HANGUL, KANA

HEAD_CHARS = 2_000  # as much as an abstract has; more text does not change the answer
MIN_LETTERS = 60  # names and formulas outweigh the words of shorter texts
# Shares of words. Of 17,000 real English abstracts 99.9 % have at least 0.14 English function words (the median is
# 0.30) and of 130 others, save bilingual ones, none has more than 0.02; of foreign ones English abstracts hold 0.04 at
# most (names: "de Broglie", "von der"), the others 0.33.
ENGLISH_SHARE = 0.12
FOREIGN_SHARE = 0.05
MIN_ENGLISH_WORDS = 5
MIN_CONFIDENCE = 0.8  # below it the answer is a guess, and nothing is dropped on a guess

MIN_KANA_SHARE = 0.05  # Chinese names Japanese terms, but writes no sentence without Chinese characters

_ENGLISH = WORDS["english"]
_FOREIGN = WORDS["foreign"] - {"as", "do", "non", "per"}  # English too
_MATHS = re.compile(r"\$[^$]*\$|\\[A-Za-z]+")
_NO_WORD = re.compile(r".*(?:\d|://|@|www\.)")
_SENTENCE_END = re.compile(r"(?<=[.!?。])\s*(?=[^\W\d_a-z])|\n+")
_OTHER_SCRIPT = "\u0400-\u06ff\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
_NOT_ENGLISH = re.compile("[\u3040-\u30ff\u3400-\u9fff]{1,4}|[\u0370-\u06ff\u0e00-\u0e7f\uac00-\ud7a3]{3,}")
_OF_OTHER_SCRIPT = re.compile(f"[{_OTHER_SCRIPT}]")
MIN_OTHER_LETTERS = 20
_LETTER = re.compile(r"[^\W\d_]")


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, confidence 0..1) of the text's beginning; ("", 0.0) where too few letters are left to say.

    Formulas, links and numbers are no words of a language and do not count. Of a text in two languages the answer is
    either one.
    """
    head = text[:HEAD_CHARS]
    words = _words_of(head)
    num_english = len(list(filter(_ENGLISH.__contains__, words)))
    if num_english >= max(MIN_ENGLISH_WORDS, ENGLISH_SHARE * len(words)):
        num_foreign = _num_foreign(words)
        if num_foreign <= FOREIGN_SHARE * len(words):
            return "en", round(1 - num_foreign / num_english, 4)
    if eastern := _eastern_language(head):
        return eastern, 1.0
    prose = " ".join(word for word in _MATHS.sub(" ", head).split() if not _NO_WORD.match(word))
    if len(_LETTER.findall(prose)) < MIN_LETTERS:
        return "", 0.0
    language, confidence = _identifier().classify(prose)
    return language, round(confidence, 4)


def _eastern_language(text: str) -> str:
    """Chinese, Japanese or Korean by its characters, where they outweigh the Latin letters; a sentence of them without
    spaces is no word that could be left out for a number in it."""
    if text.isascii() or not EASTERN.search(text):
        return ""
    han, kana, hangul = (len(script.findall(text)) for script in (HAN, KANA, HANGUL))
    rest = len(_LETTER.findall(_MATHS.sub(" ", text))) - han - kana - hangul
    if UNSPACED_WEIGHT * (han + kana + hangul) < max(MIN_LETTERS, rest):
        return ""
    if hangul > han + kana:
        return "ko"
    return "ja" if kana > MIN_KANA_SHARE * (han + kana) else "zh"


def sure_language(text: str) -> str:
    """ISO 639-1 code, or "" where it is not certain."""
    language, confidence = language_of(text)
    return language if confidence >= MIN_CONFIDENCE else ""


def reason(language: str, allowed: Sequence[str]) -> str:
    """`language:fr` where the text is surely in none of the allowed languages, of which none allows all."""
    return f"language:{language}" if language and allowed and language not in allowed else ""


def may_be_in_two(text: str) -> bool:
    """Whether many letters are of another script than the Latin one, or many words of other languages than English."""
    if not text.isascii() and len(_OF_OTHER_SCRIPT.findall(text)) >= MIN_OTHER_LETTERS:
        return True
    words = _words_of(text)
    return _num_foreign(words) > max(MIN_ENGLISH_WORDS, FOREIGN_SHARE * len(words) / 2)


@lru_cache(maxsize=1)
def _words_of(text: str) -> list[str]:
    """Kept for the next call, which is often about the same text."""
    return text.lower().split()


def _num_foreign(words: list[str]) -> int:
    return 0 if _FOREIGN.isdisjoint(words) else len(list(filter(_FOREIGN.__contains__, words)))


def part_in(abstract: str, allowed: tuple[str, ...]) -> str:
    """The half that is in an allowed language, of an abstract given in two languages one behind the other; else "".

    The other half is surely in another one. It is divided where English words (and no others) stand most on the one
    side and foreign ones on the other.
    """
    ends = [0, *(found.end() for found in _SENTENCE_END.finditer(abstract)), len(abstract)]
    scores = [_englishness(abstract[start:end]) for start, end in itertools.pairwise(ends)]
    before = [0, *itertools.accumulate(scores)]
    place = ends[max(range(len(before)), key=lambda n: abs(2 * before[n] - before[-1]))]
    halves = (abstract[:place].strip(), abstract[place:].strip())
    written_in = tuple(map(sure_language, halves))
    for half, language, other in zip(halves, written_in, reversed(written_in), strict=True):
        if language in allowed and reason(other, allowed):
            return half
    return ""


def _englishness(text: str) -> int:
    """Function words of English, less those of other languages and the words of other scripts."""
    words = text.lower().split()
    foreign = sum(map(_FOREIGN.__contains__, words)) + len(_NOT_ENGLISH.findall(text))
    return sum(map(_ENGLISH.__contains__, words)) - foreign
