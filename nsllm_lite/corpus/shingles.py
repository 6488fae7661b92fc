"""The words of texts, and their shingles: the set of the word 5-grams of a text, each a 64-bit hash.

Words are hashed many at a time, as polynomials in the odd number R over 2^64: of the bytes b before a place the sum
S of LETTERS[b] * R^n is taken once, and the word from `first` to `last` is (S[last] - S[first]) * R^-first.

Source: Karp, Rabin, "Efficient randomized pattern-matching algorithms" (1987).
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from nsllm_lite.corpus.texts.scripts import words_of_unspaced
from nsllm_lite.formats.scripts import UNSPACED

SHINGLE_WORDS = 5
HASHING = 2  # the number of these functions: shingles of others are not to be compared with theirs
CHUNK_BYTES = 1 << 16  # hashed at a time; a longer word is as many words
_WORD = re.compile(r"\w+")
_LONG_WORD = re.compile(rb"[^ ]{%d}" % (CHUNK_BYTES // 2))
# Of ASCII: small letters, and blanks in place of what is in no word.
_IN_WORDS = bytes(ord(chr(c).lower() if _WORD.match(chr(c)) else " ") for c in range(128)).ljust(256)
_BLANK = ord(" ")
_R = 0x9E3779B97F4A7C15
_MULTIPLIERS = np.array(
    [0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, 0xD6E8FEB86659FD93], np.uint64
)
_MIX, _HALF = np.uint64(0xFF51AFD7ED558CCD), np.uint64(32)


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, as `\\w+` finds them; Chinese and Japanese by `words_of_unspaced`."""
    if text.isascii():
        return text.encode().translate(_IN_WORDS).decode().split()
    lower = text.lower()
    return words_of_unspaced(lower) if UNSPACED.search(lower) else _WORD.findall(lower)


def shingles_of(text: str) -> np.ndarray:
    """Sorted hashes of the distinct word 5-grams of `text`, uint64; the whole text is one where it is shorter."""
    return shingles_of_each([text])[0][0]


def shingles_of_each(texts: Sequence[str]) -> list[tuple[np.ndarray, int]]:
    """Of each text its shingles as `shingles_of` gives them, and a 64-bit key of its words in order, 0 without any."""
    hashes, ends = _word_hashes(list(map(_blank_between, texts)))
    count = max(0, len(hashes) - SHINGLE_WORDS + 1)
    mixed, step = np.zeros(count, np.uint64), np.empty(count, np.uint64)
    for place in range(SHINGLE_WORDS):
        mixed += np.multiply(hashes[place : place + count], _MULTIPLIERS[place], out=step)
    _mix(mixed)
    new = np.zeros(count, np.bool_)
    keys, pieces = [], []
    start = 0
    for end in ends:
        last = end - SHINGLE_WORDS + 1
        if last > start:
            own = mixed[start:last]
            own.sort()
            np.not_equal(own[1:], own[:-1], out=new[start + 1 : last])
            new[start] = True
        pieces.append((start, max(start, last)))
        keys.append(_key(hashes[start:end]) if end > start else 0)
        start = end
    before = np.concatenate(([0], np.cumsum(new)))
    distinct = mixed[new]
    found = []
    for (start, last), key in zip(pieces, keys, strict=True):
        short = last == start and key  # fewer words than a 5-gram
        own = np.array([key], np.uint64) if short else distinct[before[start] : before[last]]
        found.append((own, key))
    return found


def _blank_between(text: str) -> bytes:
    """The words in UTF-8 with blanks before, behind and, one or more, between them."""
    if text.isascii():
        made = b" %s " % text.encode().translate(_IN_WORDS)
    else:
        made = b" %s " % " ".join(words_of(text)).encode("utf-8", "surrogatepass")
    return _LONG_WORD.sub(rb"\g<0> ", made) if len(made) > CHUNK_BYTES // 2 else made


def _word_hashes(texts: list[bytes]) -> tuple[np.ndarray, list[int]]:
    """(the hashes of all words, where in them each text ends)"""
    joined = b"".join(texts)
    hashes = [np.empty(0, np.uint64)]
    places = [np.empty(0, np.int64)]  # of the words' first bytes
    start = 0
    while start < len(joined):
        end = start + CHUNK_BYTES
        end = joined.rindex(b" ", start + 1, end) if end < len(joined) else len(joined)
        own, firsts = _hashes_in(np.frombuffer(joined, np.uint8, end - start, start))
        hashes.append(own)
        places.append(firsts + start)
        start = end
    ends = np.searchsorted(np.concatenate(places), np.cumsum(list(map(len, texts))))
    return np.concatenate(hashes), ends.tolist()


def _hashes_in(chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the hashes of the words of a chunk that begins with a blank, where each begins)"""
    letters, powers, inverse = _tables()
    sums = np.empty(len(chunk) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(letters[chunk] * powers[: len(chunk)], out=sums[1:])
    in_word = np.append(chunk != _BLANK, False)
    edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1
    firsts, lasts = edges[::2], edges[1::2]
    hashes = sums[lasts] - sums[firsts]
    hashes *= inverse[firsts]
    _mix(hashes)
    return hashes, firsts


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(an odd number a byte, 0 for the blank; the powers of R; those of its inverse)"""
    letters = np.random.default_rng(0).integers(0, 1 << 64, 256, np.uint64) | np.uint64(1)
    letters[_BLANK] = 0
    powers = []
    for base in (_R, pow(_R, -1, 1 << 64)):
        factors = np.full(CHUNK_BYTES, base, np.uint64)
        factors[0] = 1
        powers.append(np.multiply.accumulate(factors))
    return letters, *powers


def _mix(values: np.ndarray) -> None:
    """In place; every bit of the result depends on all bits of a value. Source: MurmurHash3's fmix64."""
    for _ in range(2):
        values ^= values >> _HALF
        values *= _MIX
    values ^= values >> _HALF


def _key(hashes: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(hashes.tobytes(), digest_size=8).digest(), "little")
