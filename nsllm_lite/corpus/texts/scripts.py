"""Scripts: which characters are Chinese, Japanese or Korean, what they weigh, and whether letters are a language's.

Tables of frequent characters tell a text from the same bytes read in a wrong encoding: two thirds of the characters of
a Chinese paper are among the 900 of the table, of its misreadings hardly a tenth.
"""

import re
import tomllib
from collections import Counter
from importlib import resources
from itertools import pairwise

from nsllm_lite.formats.scripts import HAN, HAN_CLASS, HANGUL, KANA, KANA_CLASS, UNSPACED

_TABLES = tomllib.loads(resources.files(__package__).joinpath("scripts.toml").read_text(encoding="utf-8"))
_WORD_OR_RUN = re.compile(rf"([{HAN_CLASS}{KANA_CLASS}]+)|[^\W{HAN_CLASS}{KANA_CLASS}]+")

# Characters of English for one of them: 200 are an abstract of some 30 words, as are 80 Chinese or Japanese characters
# or 100 Korean syllables.
UNSPACED_WEIGHT, HANGUL_WEIGHT = 2.5, 2.0

HEAD_CHARS = 2_000
MIN_ODD_SHARE = 0.1  # of characters; accents are 0.1 of the most accented languages, but never four in a row
MIN_FREQUENT_SHARE = 0.25  # of Chinese or Korean characters; 0.6 in texts, 0.1 in those misread
MIN_FREQUENT_LETTERS = 0.72  # of Cyrillic capitals; 0.8 in texts, 0.6 to 0.7 in KOI8 read as Windows-1251 and back
MIN_SCRIPT_CHARS = 30


def weighted_chars(text: str) -> float:
    """The length of a text as if it were English."""
    if text.isascii():
        return len(text)
    unspaced, hangul = len(UNSPACED.findall(text)), len(HANGUL.findall(text))
    return len(text) + (UNSPACED_WEIGHT - 1) * unspaced + (HANGUL_WEIGHT - 1) * hangul


def words_of_unspaced(text: str) -> list[str]:
    """Words as `\\w+` finds them, and in place of a row of Chinese or Japanese characters each two neighbours: of
    "ab 中文字" "ab", "中文", "文字". So the words of such a text, joined by spaces, have these words again."""
    words: list[str] = []
    for found in _WORD_OR_RUN.finditer(text):
        run = found[1]
        if run is None or len(run) == 1:
            words.append(found[0])
        else:
            words.extend(map("".join, pairwise(run)))
    return words


# ------------------------------------------------------------------------------ whether letters are those of a language

_FREQUENT = re.compile(f"[{''.join(_TABLES['han'].split())}{''.join(_TABLES['hangul'].split())}]")
_BY_SCRIPT = [re.compile(f"[{letters}]") for letters in _TABLES["frequent"].values()]
_BEYOND_ASCII = re.compile("[^\\x00-\\x7f]")
_CYRILLIC_CAPITAL = re.compile("[\u0400-\u042f]")
_ALPHABETS = {
    area: [frozenset(letters + letters.upper()) for letters in _TABLES[area].values()]
    for area in ("western", "eastern")
}
# Signs of papers in any language, and the punctuation of Chinese and Japanese with full-width forms.
_SIGNS = re.compile(
    r"[\u00a0-\u00bf×÷\u2010-\u2026\u2030-\u203b€\u2100-\u22ff\u2460-\u2473\u3000-\u301f・"
    r"\uff01-\uff5e￥αβγδεθλμπρστφχψωΓΔΘΛΣΦΨΩ]"
)
# Rows of what stands beyond ASCII in Windows-1252, or of half katakana and frames, which no language writes.
_ODD_RUN = re.compile(
    "(?=.{0,3}[À-ÿŒœŠšŽžŸƒ\uff66-\uff9f\u2500-\u25a0])[¡-ÿŒœŠšŽžŸƒˆ˜–—‘-„†-…‰‹›€™\uff61-\uff9f\u2500-\u25a0]{4,}"
)
_COMMON_SIGNS = re.compile("[«»“”„’—–№…°±×·\xa0]")
_FLIPPED = re.compile("(?<=[а-яёєіїґα-ώ])[А-ЯЁЄІЇҐΑ-Ω]")  # a capital letter within a word
# A sign within a word, or before one where no sign stands: a letter of another encoding.
_INNER_SIGN = re.compile(r"(?<=[a-z])[¡-¿×÷‘-™](?=[a-z])|(?<![^\W\d_])[ª¶¹³º¼½¾](?=[a-z])")


def eastern_share(text: str) -> float:
    """Of the characters beyond ASCII the share that Chinese, Japanese and Korean texts are made of, 0 to 1."""
    own = sum(len(known.findall(text)) for known in (_FREQUENT, KANA, _SIGNS))
    return own / max(1, len(_BEYOND_ASCII.findall(text)))


def letter_share(text: str) -> float:
    """The same for the frequent letters of Cyrillic, Greek, Hebrew, Arabic or Thai; a capital letter within a word, as
    wrong encodings put it there, counts against it."""
    own = max(len(letters.findall(text)) for letters in _BY_SCRIPT)
    num_signs, num_flipped = len(_COMMON_SIGNS.findall(text)), len(_FLIPPED.findall(text))
    return (own + num_signs - 2 * num_flipped) / max(1, len(_BEYOND_ASCII.findall(text)))


def latin_misses(text: str, area: str) -> int:
    """How many characters beyond ASCII no one language of the area ("western", "eastern" Europe) has."""
    rest = Counter(c for c in _BEYOND_ASCII.findall(text) if not _SIGNS.match(c))
    misses = (sum(num for c, num in rest.items() if c not in own) for own in _ALPHABETS[area])
    return len(_INNER_SIGN.findall(text)) + min(misses)


def is_undecodable(text: str) -> bool:
    """Whether the letters are no language's: text that was read in a wrong encoding before it came here."""
    text = text[:HEAD_CHARS]
    if text.isascii() or len(text.encode("utf-8", "replace")) < (1 + MIN_ODD_SHARE) * len(text):
        return False
    if sum(map(len, _ODD_RUN.findall(text))) > MIN_ODD_SHARE * len(text):
        return True
    for script, frequent, least in (
        (HAN, _FREQUENT, MIN_FREQUENT_SHARE),
        (HANGUL, _FREQUENT, MIN_FREQUENT_SHARE),
        (_CYRILLIC_CAPITAL, _BY_SCRIPT[0], MIN_FREQUENT_LETTERS),
    ):
        found = "".join(script.findall(text)).lower()
        if len(found) >= MIN_SCRIPT_CHARS and len(frequent.findall(found)) < least * len(found):
            return True
    return False
