"""Duplicates: the same paper again, the same text again, and near-duplicates by MinHash, verified.

A document is compared by its shingles: the set of its word 5-grams, each a 64-bit hash. MinHash with bands finds
candidates, and each is then verified by the real Jaccard index of the two shingle sets. Shingles and band keys are
on disk; the search reads one band at a time.

Source: Broder, "On the resemblance and containment of documents" (1997); R-MinHash of https://github.com/beowolx/rensa.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import rensa

from nsllm_lite.corpus.texts.scripts import UNSPACED, words_of_unspaced

NUM_HASHES = 128
SHINGLE_WORDS = 5
MAX_RUN = 40  # within a band, each of more documents than this is compared with the first and the one before only
SEED = 42
NONE, SAME_ID, SAME_DOI, SAME_TEXT, NEAR_DUPLICATE = range(5)
REASONS = ("", "same_id", "same_doi", "same_text", "near_duplicate")
_WORD = re.compile(r"\w+")
# Of ASCII: small letters, and blanks in place of what is in no word.
_IN_WORDS = bytes(ord(chr(c).lower() if _WORD.match(chr(c)) else " ") for c in range(128)).ljust(256)
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5])
_ODD = _ODD.astype(np.uint64)
_SHIFT = np.uint64(29)


class Duplicates(NamedTuple):
    """By document: the document kept instead (-1 where it is itself kept), and one of the codes of REASONS."""

    other: np.ndarray  # int32
    reason: np.ndarray  # uint8


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, as `\\w+` finds them; Chinese and Japanese by `words_of_unspaced`."""
    if text.isascii():
        return text.encode().translate(_IN_WORDS).decode().split()
    lower = text.lower()
    return words_of_unspaced(lower) if UNSPACED.search(lower) else _WORD.findall(lower)


def key64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def shingles_of(text: str) -> np.ndarray:
    """Sorted hashes of the distinct word 5-grams of `text`, uint64; the whole text is one where it is shorter."""
    return shingles_of_words(words_of(text))


def shingles_of_words(words: list[str]) -> np.ndarray:
    if not words:
        return np.empty(0, np.uint64)
    if len(words) < SHINGLE_WORDS:
        words = [" ".join(words)] * SHINGLE_WORDS
    hashes = np.array(rensa.RMinHash.hash_token_sets([words])[0], np.uint64)
    count = len(hashes) - SHINGLE_WORDS + 1
    mixed, step = np.zeros(count, np.uint64), np.empty(count, np.uint64)
    for place in range(SHINGLE_WORDS):
        mixed += np.multiply(hashes[place : place + count], _ODD[place], out=step)
        mixed ^= np.right_shift(mixed, _SHIFT, out=step)
    mixed.sort()
    new = np.empty(count, np.bool_)  # three times as fast as np.unique
    new[0] = True
    np.not_equal(mixed[1:], mixed[:-1], out=new[1:])
    return mixed[new]


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Of two arrays that `shingles_of` gave."""
    both = np.concatenate((first, second))
    both.sort(kind="stable")  # two sorted runs: a merge
    shared = int((both[1:] == both[:-1]).sum())
    return shared / max(1, len(both) - shared)


def rows_per_band(threshold: float) -> int:
    """The longest bands that still make a pair of exactly that Jaccard index candidates with probability 0.99."""
    fits = [r for r in range(1, 17) if 1 - (1 - threshold**r) ** (NUM_HASHES // r) >= 0.99]
    return max(fits, default=1)


def band_keys(batch: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """One 64-bit key a band and document, shape (bands, documents): equal keys make two documents candidates."""
    rows = rows_per_band(threshold)
    num_bands = NUM_HASHES // rows
    if not batch:
        return np.empty((num_bands, 0), np.uint64)
    weights = np.array([key64(f"band {r}") | 1 for r in range(rows)], np.uint64)
    starts = np.cumsum([0, *map(len, batch)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(batch), starts, NUM_HASHES, SEED)
    flat = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint64, len(batch) * NUM_HASHES)
    digests = flat.reshape(len(batch), NUM_HASHES)[:, : num_bands * rows].reshape(len(batch), num_bands, rows)
    return np.ascontiguousarray((digests * weights).sum(axis=2, dtype=np.uint64).T)


def find_duplicates(
    keys: dict[int, np.ndarray],
    bands: Iterable[np.ndarray],
    shingles: Callable[[int], np.ndarray],
    rank: np.ndarray,
    threshold: float,
) -> Duplicates:
    """Of each group of duplicates the document of lowest `rank` (a permutation of 0..n-1) is kept.

    `keys` maps SAME_ID and the like to a uint64 a document, 0 where it has none; `bands` gives each band's keys of all
    documents in turn, and `shingles(i)` the shingles of document i. With `threshold` 1 no near-duplicate is looked for.
    """
    num = len(rank)
    found = Duplicates(np.full(num, -1, np.int32), np.zeros(num, np.uint8))
    for reason, values in keys.items():
        open_ = np.flatnonzero((found.other < 0) & (values != 0))
        order = open_[np.lexsort((rank[open_], values[open_]))]
        first = np.ones(len(order), bool)
        first[1:] = values[order[1:]] != values[order[:-1]]
        leader = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
        found.other[order[~first]] = leader[~first]
        found.reason[order[~first]] = reason
    by_rank = np.argsort(rank)
    documents = by_rank[found.other[by_rank] < 0]  # a later one is the duplicate of an earlier
    for later, earlier in _candidate_pairs(documents, bands) if threshold < 1 else ():
        if found.other[later] >= 0:
            continue
        kept = earlier
        while found.other[kept] >= 0:
            kept = int(found.other[kept])
        own = shingles(later)
        for other in dict.fromkeys((kept, earlier)):
            if len(own) and found.other[other] < 0 and jaccard(own, shingles(other)) >= threshold:
                found.other[later], found.reason[later] = other, NEAR_DUPLICATE
                break
    while True:  # the first of a same-id pair may itself be a near-duplicate
        onward = np.where(found.other >= 0, found.other[found.other], -1)
        if not (onward >= 0).any():
            return found
        np.copyto(found.other, onward, where=onward >= 0)


def runs_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each run of equal values starts in a sorted array, the length of each)"""
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))[: len(values)])
    return starts, np.diff(np.append(starts, len(values)))


def _candidate_pairs(documents: np.ndarray, bands: Iterable[np.ndarray]) -> Iterable[tuple[int, int]]:
    """(later, earlier) pairs that agree on a whole band, in order of the later one."""
    codes = np.empty(0, np.int64)  # later * n + earlier, as places in `documents`
    num = len(documents)
    for band in bands:
        values = band[documents]
        order = np.argsort(values, kind="stable")
        values = values[order]
        starts, sizes = runs_of(values)
        twos = starts[sizes == 2]
        new = [order[twos + 1] * num + order[twos]]
        for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
            members = order[start : start + size]
            if size <= MAX_RUN:
                earlier, later = np.triu_indices(size, 1)
                new.append(members[later] * num + members[earlier])
            else:
                new.append(np.array([m * num + e for p, m in pairwise(members.tolist()) for e in {p, members[0]}]))
        codes = np.unique(np.concatenate((codes, *new)))
    for start in range(0, len(codes), 1 << 20):
        chunk = codes[start : start + (1 << 20)]
        yield from zip(documents[chunk // num].tolist(), documents[chunk % num].tolist(), strict=True)


class NearIndex:
    """The nearest of a few known documents to a document's shingles; exact."""

    def __init__(self, sets: Sequence[np.ndarray], threshold: float):
        self.threshold = threshold
        self._sizes = np.array([len(s) for s in sets], np.int64)
        every = np.concatenate([np.empty(0, np.uint64), *sets])
        owner = np.repeat(np.arange(len(sets), dtype=np.int32), self._sizes)
        order = np.argsort(every, kind="stable")
        self._every, self._owner = every[order], owner[order]

    def find(self, own: np.ndarray) -> int:
        """The place of the nearest set whose Jaccard index with `own` reaches the threshold, or -1."""
        if not len(self._every) or not len(own):
            return -1
        first = np.searchsorted(self._every, own, "left")
        hit = self._every[np.minimum(first, len(self._every) - 1)] == own
        shared_hashes = own[hit]
        least = self.threshold / (1 + self.threshold)  # shared / (sizes of both): what Jaccard t asks for at least
        if len(shared_hashes) < least * (len(own) + self._sizes.min()):
            return -1
        last = np.searchsorted(self._every, shared_hashes, "right")
        shared = np.zeros(len(self._sizes), np.int64)
        for start, end in zip(first[hit].tolist(), last.tolist(), strict=True):
            shared[self._owner[start:end]] += 1
        index = shared / np.maximum(1, self._sizes + len(own) - shared)
        best = int(index.argmax())
        return best if index[best] >= self.threshold else -1
