"""Scripts: which characters are Chinese, Japanese or Korean, what they weigh, and whether letters are a language's.

Tables of frequent characters tell a text from the same bytes read in a wrong encoding: two thirds of the characters of
a Chinese paper are among the 900 of the table, of its misreadings hardly a tenth.
"""

import re
import tomllib
from importlib import resources
from itertools import pairwise

_TABLES = tomllib.loads(resources.files(__package__).joinpath("scripts.toml").read_text(encoding="utf-8"))
_HAN = r"々\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = r"\uac00-\ud7a3"
HAN, KANA, HANGUL = (re.compile(f"[{script}]") for script in (_HAN, _KANA, _HANGUL))
HIRAGANA = re.compile(r"[\u3041-\u3096]")
UNSPACED = re.compile(f"[{_HAN}{_KANA}]")  # scripts that set no spaces between words
EASTERN = re.compile(f"[{_HAN}{_KANA}{_HANGUL}]")
_WORD_OR_RUN = re.compile(rf"([{_HAN}{_KANA}]+)|[^\W{_HAN}{_KANA}]+")

# Characters of English for one of them: 200 are an abstract of some 30 words, as are 80 Chinese or Japanese characters
# or 100 Korean syllables.
UNSPACED_WEIGHT, HANGUL_WEIGHT = 2.5, 2.0

HEAD_CHARS = 2_000
MIN_ODD_SHARE = 0.1  # of characters; accents are 0.1 of the most accented languages, but never four in a row
MIN_FREQUENT_SHARE = 0.25  # of Chinese or Korean characters; 0.6 in texts, 0.1 in those misread
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

_FREQUENT = frozenset("".join((*_TABLES["han"].split(), *_TABLES["hangul"].split())))
_BY_SCRIPT = [frozenset(letters) for letters in _TABLES["frequent"].values()]
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
_FLIPPED = re.compile("(?<=[а-яёєіїґα-ώ])[А-ЯЁЄІЇҐΑ-Ω]")  # a capital letter within a word
# A sign within a word, or before one where no sign stands: a letter of another encoding.
_INNER_SIGN = re.compile(r"(?<=[a-z])[¡-¿×÷‘-™](?=[a-z])|(?<![^\W\d_])[ª¶¹³º¼½¾](?=[a-z])")


def eastern_share(text: str) -> float:
    """Of the characters beyond ASCII the share that Chinese, Japanese and Korean texts are made of, 0 to 1."""
    num = sum(c > "\x7f" for c in text)
    own = sum(map(_FREQUENT.__contains__, text)) + len(KANA.findall(text)) + len(_SIGNS.findall(text))
    return own / max(1, num)


def letter_share(text: str) -> float:
    """The same for the frequent letters of Cyrillic, Greek, Hebrew, Arabic or Thai; a capital letter within a word, as
    wrong encodings put it there, counts against it."""
    num = sum(c > "\x7f" for c in text)
    own = max(sum(map(letters.__contains__, text)) for letters in _BY_SCRIPT)
    signs = sum(c in "«»“”„’—–№…°±×·\xa0" for c in text)
    return (own + signs - 2 * len(_FLIPPED.findall(text))) / max(1, num)


def latin_misses(text: str, area: str) -> int:
    """How many characters beyond ASCII no one language of the area ("western", "eastern" Europe) has."""
    rest = [c for c in text if c > "\x7f" and not _SIGNS.match(c)]
    return len(_INNER_SIGN.findall(text)) + min(sum(c not in own for c in rest) for own in _ALPHABETS[area])


def is_undecodable(text: str) -> bool:
    """Whether the letters are no language's: text that was read in a wrong encoding before it came here."""
    text = text[:HEAD_CHARS]
    if text.isascii() or len(text.encode("utf-8", "replace")) < (1 + MIN_ODD_SHARE) * len(text):
        return False
    if sum(map(len, _ODD_RUN.findall(text))) > MIN_ODD_SHARE * len(text):
        return True
    for script in (HAN, HANGUL):
        found = script.findall(text)
        if len(found) >= MIN_SCRIPT_CHARS and sum(map(_FREQUENT.__contains__, found)) < MIN_FREQUENT_SHARE * len(found):
            return True
    return len(_FLIPPED.findall(text)) > MIN_ODD_SHARE * len(text)
