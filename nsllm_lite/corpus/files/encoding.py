"""The bytes of a file as text: what is UTF-8 stays, what is not is decoded where it stands.

A file is UTF-16 or UTF-32 by its mark, or where NUL bytes stand as in a text. Any other is UTF-8, but for its lines
that are not: in each block these are decoded by the encoding in which they are made of a language's frequent
characters, else as Windows-1252. What damage left of UTF-8 is U+FFFD, to be counted. So memory holds one block, no file
is judged by its beginning, and files joined to one are each read well. A document of letters that no language has is
dropped later (see `texts.scripts.is_undecodable`).

Neither charset-normalizer 3.5.2 nor chardet 6.0.0 is used: on short files in 13 languages the first took Polish,
Spanish and English Windows files for others, the second Polish and Czech ISO 8859-2 and all DOS files; both judge a
file as a whole, and one damaged character makes the first refuse its encoding.
"""

import codecs
import io
import math
import random
import re
import unicodedata
from functools import lru_cache
from itertools import islice
from typing import BinaryIO, NamedTuple

from nsllm_lite.corpus.texts import scripts

BLOCK_BYTES = 1 << 18
MAX_HELD_BYTES = 1 << 22  # without a blank, a comma or a line end
SAMPLE_BYTES = 1 << 13
UNKNOWN = "unknown"  # read as Windows-1252
MIN_EASTERN_SHARE, MIN_LETTER_SHARE = 0.4, 0.6  # right encodings give over 0.55 and 0.75, wrong ones under 0.4 and 0.55
MAX_ALONE_SHARE = 0.6  # of bytes beyond ASCII: 0.7 to 1 in Latin letters, to 0.1 in other scripts
MIN_DENSITY = 0.02  # of bytes beyond ASCII, for a text to be in another language than English
MIN_MISSES, MIN_MISSES_RARE = 2, 6  # letters or signs in Windows-1252 that no language of Western Europe has there
MIN_SIGNS_SHARE = 0.9
MIN_ROW_CHARS = 16  # of two bytes, for a line to be judged by itself
MAX_LINES = 200  # of a block, by which its encoding is judged
MIN_JUDGED, MIN_JUDGED_AMONG_UTF8 = 8, 16  # bytes beyond ASCII, for them to be judged as a language's
MIN_UTF8_CHARS = 4  # so many are hardly in a line of another encoding by chance

_EASTERN = ("gb18030", "big5hkscs", "cp949", "cp932", "euc_jp")
_LETTERS = ("cp1251", "koi8_u", "cp866", "iso8859_5", "cp1253", "cp1255", "cp1256", "cp874")
_LATIN = dict.fromkeys(("cp1252", "mac_roman", "cp850"), "western")
_LATIN |= dict.fromkeys(("cp1250", "iso8859_2", "cp1254", "cp1257", "cp852"), "eastern")
_RARE = ("mac_roman", "cp850", "cp852")
# An encoding is read as the larger one that contains it, as browsers do. LaTeX's names, then those of Python.
_LARGER = {"ansinew": "cp1252", "applemac": "mac_roman", "latin9": "iso8859_15", "utf8x": "utf-8", "cp936": "gb18030"}
_LARGER |= {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "cp950": "big5hkscs", "shift_jis": "cp932"}
_LARGER |= {"euc_kr": "cp949", "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "koi8-r": "koi8_u"}

_TEXTUAL = re.compile(  # Python's other encodings are no texts (idna, undefined), or such as no file states rightly
    r"iso8859-\d+|iso2022_\w+|cp(?:125\d|8[56]\d|874|437|737|932|949)|mac-(?:roman|cyrillic|greek|latin2|turkish)"
    r"|koi8-[rut]|gb18030|big5hkscs|shift_jis\w*|euc_\w+|johab|tis-620|utf-?(?:8|16|32)\S*"
)
_STATED = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}?encoding=[\"']([\w.-]+)|%[^\n]{0,80}?(?:[Ee]ncoding|coding)\s*[:=]\s*([\w.-]+))"
)
_INPUTENC = re.compile(rb"\\usepackage\s*\[([\w-]+)\]\s*\{inputenc\}")
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_RUN = re.compile(rb"[\x80-\xff]+")
_ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
_LONG_RUN = re.compile(rb"[\x80-\xff]{4}")  # Latin letters have no four in a row
_JOINED = re.compile(rb"[A-Za-z][\x80-\xff]|[\x80-\xff][A-Za-z]")
_ESCAPED = re.compile("[\udc80-\udcff]+")  # bytes that are not UTF-8, as the handler `surrogateescape` gives them
_CUT_CHARACTER = re.compile(rb"(?:[\xc2-\xf4]|[\xe0-\xf4][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{2})\Z")
_SURROGATES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
# Of UTF-8 without its end or its beginning; a lone byte may be a letter as well.
_CUT_RUN = re.compile(rb"(?:[\xe0-\xef][\x80-\xbf]|\xf0[\x80-\xbf]{1,2}|\xed[\xa0-\xbf][\x80-\xbf]|\x80[\x80-\xbf])+")
_LEAD_BYTE, _LETTERS_1252 = re.compile(rb"[\xe3-\xf4]"), re.compile(rb"[\xc0-\xff]")
_OF_SIGNS = (b"\xc2", b"\xc3", b"\xce", b"\xcf", b"\xe2")  # begin ° and ±, é, Greek letters, dashes
_BEHIND_WORDS = (b"\xa0", b"\x92", b"\x93", b"\x94", b"\x85", b"\x97", b"\xbb")  # a blank, quotes, an ellipsis, a dash
_LONG_ESCAPED = re.compile("[\udc80-\udcff]{4}")
_BAD_LINE = re.compile("^[^\n\udc80-\udcff]*[\udc80-\udcff][^\n]*", re.MULTILINE)
_NOT_ASCII = re.compile("[^\x00-\x7f]+")
_MEANT_IN_UTF8 = re.compile("[\u2010-\u2044\u3000-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff00-\uffef]")
_GOOD = re.compile("[^\x00-\x7f\udc80-\udcff]")
_JIS = b"\x1b$"  # begins what is not ASCII in ISO-2022-JP, whose lines all end in ASCII
_MEANINGLESS = dict.fromkeys(map(ord, "\t\r\n\ufeff\u3000\xa0"))  # and yet not printable, or a mark
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
_MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # the third is the beginning of the first


@lru_cache(maxsize=8)
def wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32, by a file's mark or by where NUL bytes stand in its beginning; "" where it is neither."""
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    if marked or b"\0" not in head:
        return marked
    names = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
    return next((name for name in names if _is_text(head[: 1 << 13], name)), "")


def _is_text(sample: bytes, encoding: str) -> bool:
    """Whether all characters have a meaning, and most are frequent ones."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    rest = re.sub("[\x00-\x7f]", "", text)
    known = len(text) - len(rest) + len(rest) * max(scripts.eastern_share(rest), scripts.letter_share(rest))
    marks = {ord(c): None for c in set(text) if unicodedata.category(c) == "Cf"}  # such as soft hyphens
    return text.translate(_MEANINGLESS | marks).isprintable() and known > len(text) / 2


@lru_cache(maxsize=8)
def stated_encoding(head: bytes) -> str:
    """What XML, LaTeX or a comment states, where Python knows it; "" for UTF-8 and its kin, which need no statement."""
    found = _STATED.match(head) or (_INPUTENC.search(head) if b"{inputenc}" in head else None)
    name = next(filter(None, found.groups())).decode("ascii", "replace").lower() if found else ""
    try:
        name = codecs.lookup(_LARGER.get(name, name)).name if name else ""
    except LookupError:
        return ""
    return "" if not _TEXTUAL.fullmatch(name) or name.startswith("utf") else _LARGER.get(name, name)


class Judged(NamedTuple):
    """The encodings of lines that are not UTF-8: of those with bytes beyond ASCII in rows, as every script but the
    Latin one has them, and of those where such bytes stand alone."""

    rows: str
    alone: str


def judge(lines: list[bytes], stated: str = "", least: int = 0) -> Judged:
    """The encodings of lines that are not UTF-8; `stated` is believed where it fits them, and without it `least` bytes
    beyond ASCII are needed."""
    if not stated and sum(len(_BEYOND_ASCII.findall(line)) for line in lines) < least:
        return Judged(UNKNOWN, "gb18030" if _are_signs(_sample(lines)) else "cp1252")
    rows = _sample([line for line in lines if not _stands_alone(line)])
    alone = _sample([line for line in lines if _stands_alone(line)])
    latin = _latin_encoding(alone, stated) if alone else "cp1252"
    if not rows:
        return Judged(latin, latin)
    own = _encoding_of_rows(rows, "" if _is_latin(stated) else stated)
    if own == UNKNOWN:
        read_as = latin if alone else _latin_encoding(rows, stated)
        misses = scripts.latin_misses(rows.decode(read_as, "replace"), _LATIN.get(read_as, "western"))
        is_read = 3 * misses <= len(_BEYOND_ASCII.findall(rows))
        return Judged(read_as if is_read else UNKNOWN, latin)
    return Judged(own, own if own in _LETTERS and len(alone) < len(rows) else latin)


def _encoding_of_rows(sample: bytes, stated: str) -> str:
    for names, share, least in (
        (_EASTERN, scripts.eastern_share, MIN_EASTERN_SHARE),
        (_LETTERS, scripts.letter_share, MIN_LETTER_SHARE),
    ):
        if stated and share(sample.decode(stated, "replace")) >= least:
            return stated
        shares = {name: share(sample.decode(name, "replace")) for name in names}
        best = max(shares, key=shares.__getitem__)
        if shares[best] >= least:
            return best
    return UNKNOWN


def _are_signs(sample: bytes) -> bool:
    """Whether it is English with signs and Greek letters as Chinese programs write them."""
    text = sample.decode("gb18030", "replace")
    return not scripts.HAN.search(text) and scripts.eastern_share(text) > MIN_SIGNS_SHARE


def _latin_encoding(sample: bytes, stated: str) -> str:
    """Windows-1252, unless another one has a third of its misses or less."""
    if stated and "\ufffd" not in sample.decode(stated, "replace"):
        return stated
    if scripts.eastern_share(sample.decode("gb18030", "replace")) > MIN_SIGNS_SHARE:
        return "gb18030"
    if len(_BEYOND_ASCII.findall(sample)) < MIN_DENSITY * len(sample):
        return "cp1252"
    misses = {name: scripts.latin_misses(sample.decode(name, "replace"), area) for name, area in _LATIN.items()}
    best = min(misses, key=misses.__getitem__)
    least = MIN_MISSES_RARE if best in _RARE else MIN_MISSES
    return best if misses["cp1252"] >= max(least, 3 * misses[best] + 1) else "cp1252"


@lru_cache
def _is_latin(encoding: str) -> bool:
    letters = bytes(range(0xC0, 0x100)).decode(encoding or "ascii", "replace")
    return sum(unicodedata.name(c, "").startswith("LATIN") for c in letters) > len(letters) / 2


def _stands_alone(line: bytes) -> bool:
    """Whether the bytes beyond ASCII are letters of words in ASCII, or signs."""
    if _LONG_RUN.search(line):
        return False
    num_alone, num_joined = len(_ALONE.findall(line)), len(_JOINED.findall(line))
    return num_alone > MAX_ALONE_SHARE * len(_BEYOND_ASCII.findall(line)) or 2 * num_joined > len(_RUN.findall(line))


def _sample(lines: list[bytes]) -> bytes:
    """Lines from all over, about SAMPLE_BYTES of them."""
    share = SAMPLE_BYTES / max(SAMPLE_BYTES, sum(map(len, lines)))
    some = random.Random(len(lines)).sample(lines, math.ceil(share * len(lines)))  # in step with no pattern of them
    return b"\n".join(line[:SAMPLE_BYTES] for line in some)


class Decoder:
    """Makes text of blocks of whole lines, without NUL; `used` collects the encodings found beside UTF-8."""

    def __init__(self, stated: str, used: set[str]):
        self.stated, self.used = stated, used

    def to_utf8(self, block: bytes) -> bytes:
        block = block.replace(b"\0", b"")
        if _JIS in block:
            self.used.add("iso2022_jp")
            lines = block.splitlines(keepends=True)
            return b"".join(line.decode("iso2022_jp_2", "replace").encode() if _JIS in line else line for line in lines)
        if not _is_utf8(block) and _SURROGATES.search(block):
            block = b"".join(map(_without_surrogates, block.splitlines(keepends=True)))
        return block if _is_utf8(block) else self._decode(block).encode("utf-8", "replace")

    def _decode(self, block: bytes) -> str:
        text = block.decode("utf-8", "surrogateescape")
        is_mixed = bool(_GOOD.search(text))
        least = MIN_JUDGED_AMONG_UTF8 if is_mixed else MIN_JUDGED
        if not _LONG_ESCAPED.search(text):
            some = [_evidence(found[0], is_mixed) for found in islice(_BAD_LINE.finditer(text), MAX_LINES)]
            judged = judge(some, self.stated, least if is_mixed else 0)
            if judged.rows in (UNKNOWN, judged.alone) and _is_latin(judged.alone):
                self.used.add(judged.alone)
                return _unescaped(text, judged.alone, is_mixed)
        lines = block.splitlines(keepends=True)
        texts = [line.decode("utf-8", "surrogateescape") for line in lines]
        bad = [sum(map(len, _ESCAPED.findall(text))) for text in texts]
        good = [0 if line.isascii() else len(_GOOD.findall(text)) for line, text in zip(lines, texts, strict=True)]
        not_utf8 = [text for text, num in zip(texts, bad, strict=True) if num]
        some = random.Random(0).sample(not_utf8, min(MAX_LINES, len(not_utf8)))
        judged = judge([_evidence(text, is_mixed) for text in some], self.stated, least)
        for n, line in enumerate(lines):
            if bad[n] or (0 < good[n] < MIN_UTF8_CHARS and _is_by_chance(line, texts[n], judged.rows)):
                is_utf8 = good[n] >= bad[n] > 0 and not _has_utf8_by_chance(line, texts[n], judged.rows)
                texts[n] = self._line(line, texts[n], is_utf8, judged, is_mixed)
        return "".join(texts)

    def _line(self, line: bytes, text: str, is_utf8: bool, judged: Judged, is_mixed: bool) -> str:
        """A line that is not UTF-8, or one with stray bytes among its UTF-8."""
        encoding = judged.rows
        if is_utf8:
            encoding = judged.alone if _is_latin(judged.alone) else "cp1252"
        elif (_stands_alone(line) or encoding == UNKNOWN) and judged.alone != encoding:
            written = "" if encoding == UNKNOWN else line.decode(encoding, "replace")
            if encoding not in _EASTERN or scripts.eastern_share(written) < MIN_LETTER_SHARE:
                encoding = judged.alone
        elif encoding in _EASTERN and self._is_strange(line, encoding):
            other = judge([line], self.stated).rows  # of a file in several encodings
            encoding = other if other in _EASTERN + _LETTERS else encoding
        self.used.add(encoding)
        encoding = "cp1252" if encoding == UNKNOWN else encoding
        is_latin = is_utf8 or _is_latin(encoding)
        return _unescaped(text, encoding, is_mixed) if is_latin else line.decode(encoding, "replace")

    def _is_strange(self, line: bytes, encoding: str) -> bool:
        text = line.decode(encoding, "replace")
        return len(line) - len(text) > MIN_ROW_CHARS and scripts.eastern_share(text) < MIN_EASTERN_SHARE


def _is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode())
    except UnicodeDecodeError:
        return False


def _without_surrogates(line: bytes) -> bytes:
    """A line of CESU-8 as UTF-8: pairs of surrogates, of three bytes each, as the character they stand for."""
    written = _SURROGATES.sub(lambda pair: _of_pair(pair[0]).encode(), line)
    return written if _is_utf8(written) else line


def _of_pair(pair: bytes) -> str:
    return pair.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16")


def _is_by_chance(line: bytes, text: str, encoding: str) -> bool:
    """Whether a line of a few characters is UTF-8 by chance, and Chinese or the like in two bytes a character."""
    if encoding not in _EASTERN or not scripts.latin_misses(text, "western"):
        return False
    return scripts.eastern_share(line.decode(encoding, "replace")) >= MIN_LETTER_SHARE


def _has_utf8_by_chance(line: bytes, text: str, encoding: str) -> bool:
    """Whether a line is all Chinese or the like in two bytes a character, of which some are UTF-8 too."""
    if encoding not in _EASTERN or _JOINED.search(line) or _MEANT_IN_UTF8.search(text):
        return False
    written = line.decode(encoding, "replace")
    return "\ufffd" not in written and scripts.eastern_share(written) >= MIN_LETTER_SHARE


def _evidence(text: str, is_mixed: bool) -> bytes:
    """The bytes of a line, without its UTF-8 where that is most of what is beyond ASCII, and what was cut off it."""
    if is_mixed:
        text = _NOT_ASCII.sub(_without_cut, text)
    is_utf8 = len(_GOOD.findall(text)) >= sum(map(len, _ESCAPED.findall(text)))
    return _bytes_of(_GOOD.sub(" ", text) if is_utf8 else text)


def _without_cut(row: re.Match) -> str:
    """A row beyond ASCII without what was cut off UTF-8, unless all of it is Chinese: some of its characters are UTF-8
    by chance, and what stands between two of them is not cut off anything."""
    content = _bytes_of(row[0])
    if len(content) >= MIN_ROW_CHARS and scripts.eastern_share(content.decode("gb18030", "replace")) > MIN_LETTER_SHARE:
        return row[0]
    return _ESCAPED.sub(lambda run: " " if _CUT_RUN.fullmatch(_bytes_of(run[0])) else run[0], row[0])


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _unescaped(text: str, encoding: str, is_mixed: bool) -> str:
    """The text with the bytes that are not UTF-8 decoded by the encoding, each row of them by itself; what can only be
    damaged UTF-8 is U+FFFD. `is_mixed`: UTF-8 is near, so that more can be that."""

    def character(run: re.Match) -> str:
        before, after = text[run.start() - 1 : run.start()], text[run.end() : run.end() + 1]
        return _of_run(run[0], encoding, is_mixed, before, after)

    return _ESCAPED.sub(character, text)


@lru_cache(maxsize=4096)
def _of_run(run: str, encoding: str, is_mixed: bool, before: str, after: str) -> str:
    content = _bytes_of(run)
    if _SURROGATES.fullmatch(content):
        return _of_pair(content)
    is_cut = content.startswith((b"\xe2\x80", b"\xed\xa0", b"\xed\xb0")) and len(content) > 1
    is_eastern = max(before, after) >= "\u2e80"
    if len(content) == 1:
        is_in_word = before.isalpha() or after.islower() or (after.isalpha() and content != b"\xc2")
        is_sign = content in _OF_SIGNS and not is_in_word and (is_mixed or (content, encoding) == (b"\xc2", "cp1252"))
        is_cut = is_sign or (is_eastern and bool(_LEAD_BYTE.match(content)))
    elif is_mixed:
        is_word_end = content[1:] in _BEHIND_WORDS and content[0] != 0xE2 and not is_eastern  # "Jos\xe9\x92s"
        is_row = len(_LETTERS_1252.findall(content)) > 3
        is_cut = is_cut or is_row or (bool(_CUT_RUN.fullmatch(content)) and not is_word_end)
    return "\ufffd" if is_cut else content.decode(encoding, "replace")


class Utf8(io.RawIOBase):
    """A stream as UTF-8, block by block."""

    def __init__(self, stream: BinaryIO, decoder: Decoder):
        self._stream, self._decoder = stream, decoder
        self._held = b""
        self._ready = memoryview(b"")
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._ready and not self._is_over:
            self._fill()
        num = min(len(buffer), len(self._ready))
        buffer[:num], self._ready = self._ready[:num], self._ready[num:]
        return num

    def _fill(self) -> None:
        chunk = self._stream.read(BLOCK_BYTES)
        block, self._is_over = self._held + chunk, not chunk
        cut = len(block)
        if chunk:
            cut = max(map(block.rfind, (b"\n", b"\r"))) + 1 or max(map(block.rfind, (b" ", b",", b";"))) + 1
            cut = len(block) if not cut and len(block) > MAX_HELD_BYTES else cut
        self._held = block[cut:]
        self._ready = memoryview(self._decoder.to_utf8(block[:cut]))


def decoded(content: bytes, stated: str = "", is_cut: bool = False) -> str:
    """A small file as text, or the beginning of a larger one (`is_cut`), without its mark."""
    if wide := wide_encoding(content):
        return content.decode(wide, "replace").removeprefix("\ufeff")
    content = content.removeprefix(codecs.BOM_UTF8)
    if is_cut and (tail := _CUT_CHARACTER.search(content, max(0, len(content) - 3))):
        content = content[: tail.start()]
    return Decoder(stated or stated_encoding(content), set()).to_utf8(content).decode("utf-8", "replace")
