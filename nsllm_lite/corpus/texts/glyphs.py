"""Names that PDF extractors write in place of characters: (cid:173), GLYPH<12>, /uni00AD, <U+00AD>, /C0, /H11002, /f_i.

What an encoding of fonts and the letters around settle is resolved: soft hyphens, ligatures, quotes, the signs of the
fonts of Elsevier and AIP (numbered as TeX's symbols) and of HighWire. A bullet before an item is dropped. Any other
glyph is a lost character.
Source: the encodings OT1, T1 and OMS of TeX; Standard, MacRoman, WinAnsi and PDFDoc of the PDF Reference, appendix D.
"""

import re

LOST = "\ufffd"

_CID = re.compile(r"\(cid:(\d{1,6})\)|GLYPH<(?:c=)?(\d{1,6})(?:,font=[^<>]{0,80})?>")
_BULLET = re.compile(r"(?m)^[ \t]*\(cid:\d{1,6}\)[ \t]+(?=[A-Z][a-z]|We |A |I )")
_LIGATURES = {"ff": (11, 27), "fi": (12, 28, 147, 174, 222), "fl": (13, 29, 148, 175, 223), "ffi": (14, 30)}
_LIGATURES = {code: letters for letters, codes in _LIGATURES.items() for code in codes} | {15: "ffl", 31: "ffl"}
_APOSTROPHES, _BLANKS, _SOFT_HYPHEN = (39, 146, 213), (9, 10, 13, 32, 160), 173
_OPENING_QUOTES, _CLOSING_QUOTES = {147: "“", 210: "“", 145: "‘", 212: "‘"}, {148: "”", 211: "”"}
_DASHES = {150: "–", 151: "—", 208: "–", 209: "—"}
_BY_NUMBERS = {176: "°", 177: "±", 215: "×"}
_CONTRACTED = re.compile(r"(?:s|t|re|ve|ll|d|m)?(?:[^A-Za-z]|$)")

_UNICODE = re.compile(r"<U\+([0-9A-Fa-f]{4,6})>|/uni((?:[0-9A-F]{4})+)|\\u((?=[a-f]{0,3}\d)[0-9a-f]{4})(?![0-9A-Za-z])")
_NAMED = re.compile(
    r"(?<=[a-z])/(f_?f_?[il]|f_?f|f_[il])(?=[a-z\W]|$)|(?<![\w/.])/(f_[il])(?=[a-z])"
    r"|(?<![^\W_])(ampli|arti|bene|certi|classi|clari|con|de|diversi|identi|justi|modi|noti|quali|quanti|rati|recti"
    r"|satis|scienti|signi|simpli|speci|strati|veri)/(f[il]) ?(?=[a-z])"
)
_SLASHED = re.compile(
    r"(?:(?<=\s)|(?<=\d)|^|(?<=[a-z(])(?=/C0 ?\d))/C(0(?=\d)|\d{1,3}(?![\w=#@\])])|14(?=[CF]\b))((?<=\S/C0) (?=\d))?"
)
_CERTAIN_SLASHED = re.compile(r"(?<=[\s\da-z(])/C(?:0|176)(?!\w)|(?<![\w-])\d+(?:\.\d+)?(?:/C0\d| ?/C14C\b)")
_BETWEEN_NUMBERS = re.compile(r"(?<![\w-])(?:\d+\.)?\d+ ?(/C(\d{1,3}))(?= \d)")
_STANDING_FREE = (0, 14, 15, 176)  # the minus, the degree, the bullet; the others stand between two things
_OPERAND = re.compile(r"\s?(?:[^\W\d_]?[^\w\s,.;:]|[^\W\d_](?:\b|[A-Z\d])|[A-Z\d])")
_IN_NAME = re.compile(r"[A-Za-z]\d{1,4} ?$")  # "C1/C2 vertebrae", "HepG2 /C3A cells"
# Found at once, unlike the patterns above.
_MAY_BE_NAMED, _MAY_BE_SLASHED = re.compile("/f[_fil]"), re.compile(r"/C\d")
_TEX_SIGNS = {0: "−", 1: "·", 2: "×", 3: "*", 6: "±", 14: "°", 15: "•", 17: "≡", 20: "≤", 21: "≥", 24: "∼", 25: "≈"}
_TEX_SIGNS |= {28: "≪", 29: "≫", 33: "→", 49: "∞", 176: "°", 177: "±", 181: "µ", 215: "×"}
_HIGHWIRE = re.compile(r"/H(9\d{3}|1[0-2]\d{3})(?!\d)")
_HIGHWIRE_SIGNS = {11001: "+", 11002: "−", 11003: "×", 11005: "=", 11006: "±", 11011: "∼", 11015: "≈", 11021: "<"}
_HIGHWIRE_SIGNS |= {11022: ">", 11032: "′", 11034: "°", 11349: "≤", 11350: "≥", 9004: "Δ"}
_HIGHWIRE_SIGNS |= {9251 + n: letter for n, letter in enumerate("αβγδεζηθικλμνξοπρσςτυφχψω")}


def may_hold_glyphs(text: str) -> bool:
    return "(cid:" in text or "<U+" in text or "/" in text or "GLYPH<" in text or "\\u" in text


def resolve_glyphs(text: str) -> str:
    """The text with glyphs as the characters they stand for, or LOST."""
    if "(cid:" in text or "GLYPH<" in text:
        text = _CID.sub(_by_code, _BULLET.sub("", text))
    if "/uni" in text or "<U+" in text or "\\u" in text:
        text = _UNICODE.sub(_character, text)
    if "/f" in text and _MAY_BE_NAMED.search(text):
        text = _NAMED.sub(lambda m: (m[3] or "") + (m[1] or m[2] or m[4]).replace("_", ""), text)
    if "/C" in text and _MAY_BE_SLASHED.search(text):
        text = _slashed(text)
    return _HIGHWIRE.sub(lambda m: _HIGHWIRE_SIGNS.get(int(m[1]), LOST), text) if "/H" in text else text


def _by_code(found: re.Match) -> str:
    code = int(found[1] or found[2])
    before, after = found.string[max(0, found.start() - 3) : found.start()], found.string[found.end() : found.end() + 4]
    left, right = before[-1:], after[:1]
    if code == _SOFT_HYPHEN:
        return "\u00ad"
    if code in _BLANKS:
        return " "
    if code in _LIGATURES and _is_in_word(code, before, after):
        return _LIGATURES[code]
    if code in _APOSTROPHES and left.isalpha() and _CONTRACTED.match(after):
        return "’"
    if code in _OPENING_QUOTES and right.isalnum() and (not left or left in " \n(["):
        return _OPENING_QUOTES[code]
    if code in _CLOSING_QUOTES and (left.isalnum() or left in (".", ",")) and not right.isalnum():
        return _CLOSING_QUOTES[code]
    if code in _DASHES and left and right and (left + right).replace(" ", "a").isalnum():
        return _DASHES[code]
    if code in _BY_NUMBERS and before.rstrip()[-1:].isdigit():
        return _BY_NUMBERS[code]
    if code == 223 and left.islower() and not right.isalnum():
        return "ß"
    if code >= 0xC0 and chr(code).isalpha() and code < 0x100 and left.isalpha() and right.islower():
        return chr(code)
    return LOST


def _is_in_word(code: int, before: str, after: str) -> bool:
    """Whether a ligature of this code can stand here: de_ning, _rst, sti_, o_."""
    letters = _LIGATURES[code]
    if before[-1:].islower() and after[:1].islower():
        return True
    if letters in ("fi", "fl"):
        is_word = after[:1].islower() and after[1:2].islower()
        return is_word and not before[-1:].isalnum() and code not in (147, 148)
    ends = letters == "ff" and not after[:1].isalnum()
    return ends and ((before[-2:].isalpha() and before[-2:].islower()) or before[-2:].lstrip(" \n-(") == "o")


def _character(found: re.Match) -> str:
    codes = found[1] or found[3]
    numbers = [codes] if codes else [found[2][n : n + 4] for n in range(0, len(found[2]), 4)]
    characters = [chr(int(number, 16)) for number in numbers if int(number, 16) <= 0x10FFFF]
    return "".join(characters) if len(characters) == len(numbers) else found[0]


def _slashed(text: str) -> str:
    """The text with TeX's numbers as signs, where some can be nothing else; "/C60" may be a molecule, too."""

    def sign(found: re.Match) -> str:
        before = _IN_NAME.search(found.string, max(0, found.start() - 6), found.start())
        if before and not found.string.endswith("/C", 0, before.start() + 1):
            return found[0]
        code = int(found[1])
        stands_free = code in _STANDING_FREE or _OPERAND.match(found.string, found.end())
        return _TEX_SIGNS.get(code, found[0]) if stands_free else found[0]

    numbered = [int(found[2]) for found in _BETWEEN_NUMBERS.finditer(text)]
    if not (_CERTAIN_SLASHED.search(text) or any(code in _TEX_SIGNS for code in numbered)):
        return text
    text = _SLASHED.sub(sign, text)
    return _BETWEEN_NUMBERS.sub(lambda found: found[0].replace(found[1], LOST), text)
