"""Duplicates: the same paper again, the same text again, and near-duplicates by MinHash, verified.

A document is compared by its shingles. MinHash with bands finds candidates, and each is then verified by the real
Jaccard index of the two shingle sets. Shingles and band keys are on disk; the search reads one band at a time.

Source: Broder, "On the resemblance and containment of documents" (1997); R-MinHash of https://github.com/beowolx/rensa.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import rensa

NUM_HASHES = 128
MAX_RUN = 40  # within a band, each of more documents than this is compared with the first and the one before only
SEED = 42
NONE, SAME_ID, SAME_DOI, SAME_TEXT, NEAR_DUPLICATE = range(5)
REASONS = ("", "same_id", "same_doi", "same_text", "near_duplicate")


class Duplicates(NamedTuple):
    """By document: the document kept instead (-1 where it is itself kept), and one of the codes of REASONS."""

    other: np.ndarray  # int32
    reason: np.ndarray  # uint8


def key64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Of the shingles of two documents."""
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
                earlier, later = _all_pairs(size)
                new.append(members[later] * num + members[earlier])
            else:
                new.append(np.array([m * num + e for p, m in pairwise(members.tolist()) for e in {p, members[0]}]))
        codes = np.unique(np.concatenate((codes, *new)))
    for start in range(0, len(codes), 1 << 20):
        chunk = codes[start : start + (1 << 20)]
        yield from zip(documents[chunk // num].tolist(), documents[chunk % num].tolist(), strict=True)


@cache
def _all_pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(size, 1)


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
