"""Duplicates: the same paper again, the same text again, and near-duplicates by MinHash, verified.

A document is compared by its shingles: the set of its word 5-grams, each a 64-bit hash. Shingles wait on disk; memory
holds about 200 bytes a document.

MinHash with bands finds candidates, and each is then verified by the real Jaccard index of the two shingle sets.
Source: Broder, "On the resemblance and containment of documents" (1997); R-MinHash of https://github.com/beowolx/rensa.
"""

import hashlib
import re
from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import rensa

NUM_HASHES = 128
SHINGLE_WORDS = 5
MAX_RUN = 40  # within a band, each of more documents than this is compared with the first and the one before only
SEED = 42
BATCH = 1_000
_WORD = re.compile(r"\w+")
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5])
_ODD = _ODD.astype(np.uint64)


def normalise(text: str) -> str:
    """The words alone, in lower case: equal for texts that differ in punctuation, case or spacing."""
    return " ".join(_WORD.findall(text.lower()))


def shingles_of(text: str) -> np.ndarray:
    """Sorted hashes of the distinct word 5-grams of `text`, uint64; the whole text is one where it is shorter."""
    words = _WORD.findall(text.lower())
    if not words:
        return np.empty(0, np.uint64)
    if len(words) < SHINGLE_WORDS:
        words = [" ".join(words)] * SHINGLE_WORDS
    hashes = np.array(rensa.RMinHash.hash_token_sets([words])[0], np.uint64)
    count = len(hashes) - SHINGLE_WORDS + 1
    mixed = np.zeros(count, np.uint64)
    for place in range(SHINGLE_WORDS):
        mixed += hashes[place : place + count] * _ODD[place]
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / max(1, len(first) + len(second) - shared)


class Shingles:
    """Shingle sets in a file: `add` in order, then `[i]` memory-mapped."""

    def __init__(self, path: Path):
        self._path = path
        self._file = open(path, "wb")  # noqa: SIM115 (open for as long as documents come)
        self._starts = array("q", [0])
        self._map: np.ndarray | None = None

    def add(self, shingles: np.ndarray) -> None:
        self._file.write(shingles.tobytes())
        self._starts.append(self._starts[-1] + len(shingles))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if self._map is None:
            self._file.close()
            empty = self._starts[-1] == 0
            self._map = np.empty(0, np.uint64) if empty else np.memmap(self._path, np.uint64, "r")
        return self._map[self._starts[index] : self._starts[index + 1]]


def key64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def find_duplicates(
    ids: Sequence[str], texts: np.ndarray, shingles: Shingles, rank: np.ndarray, threshold: float
) -> dict[int, tuple[int, str]]:
    """{duplicate: (the one kept, reason)} with reason same_id, same_text or near_duplicate.

    Of each group the document of lowest `rank` (a permutation of 0..n-1) is kept. `texts` are 64-bit keys of the
    normalised texts, 0 for a document that has none to compare.
    """
    order = np.argsort(rank)
    found: dict[int, tuple[int, str]] = {}
    for keys, reason in ((_keys_of(ids), "same_id"), (texts, "same_text")):
        seen: dict[int, int] = {}
        for index in order.tolist():
            key = int(keys[index])
            if index not in found and key and seen.setdefault(key, index) != index:
                found[index] = (seen[key], reason)
    remaining = np.array([i for i in order.tolist() if i not in found and len(shingles[i])], dtype=np.int64)
    if len(remaining) > 1 and threshold < 1:
        _near_duplicates(remaining, shingles, threshold, found)
    return {index: (_root(found, index), reason) for index, (_, reason) in found.items()}


def _keys_of(ids: Sequence[str]) -> np.ndarray:
    return np.fromiter((key64(name) for name in ids), np.uint64, len(ids))


def _root(found: dict[int, tuple[int, str]], index: int) -> int:
    """The kept document at the end of the chain, since the first of a same-id pair may itself be a near-duplicate."""
    while index in found:
        index = found[index][0]
    return index


def _near_duplicates(
    documents: np.ndarray, shingles: Shingles, threshold: float, found: dict[int, tuple[int, str]]
) -> None:
    """Adds to `found`; `documents` stand in order of rank, so that a later one is the duplicate of an earlier."""
    for later, earlier in _candidate_pairs(documents, shingles, threshold):
        if later in found:
            continue
        kept = _root(found, earlier)
        for other in dict.fromkeys((kept, earlier)):
            if other not in found and jaccard(shingles[later], shingles[other]) >= threshold:
                found[later] = (other, "near_duplicate")
                break


def rows_per_band(threshold: float, num_hashes: int = NUM_HASHES) -> int:
    """The longest bands whose chance to show a pair of just that Jaccard index is still 0.99."""
    fits = [r for r in range(1, 17) if 1 - (1 - threshold**r) ** (num_hashes // r) >= 0.99]
    return max(fits, default=1)


def _candidate_pairs(documents: np.ndarray, shingles: Shingles, threshold: float) -> list[tuple[int, int]]:
    """(later, earlier) pairs that agree on a whole band, in order of the later one."""
    rows = rows_per_band(threshold)
    num_bands = NUM_HASHES // rows
    bands = np.empty((num_bands, len(documents)), np.uint64)
    weights = np.array([key64(f"band {r}") | 1 for r in range(rows)], np.uint64)
    for start in range(0, len(documents), BATCH):
        batch = [shingles[i] for i in documents[start : start + BATCH].tolist()]
        starts = np.cumsum([0, *map(len, batch)]).astype(np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(batch), starts, NUM_HASHES, SEED)
        digests = np.array(matrix.to_rows(), np.uint64)[:, : num_bands * rows].reshape(len(batch), num_bands, rows)
        bands[:, start : start + len(batch)] = (digests * weights).sum(axis=2, dtype=np.uint64).T
    pairs: set[tuple[int, int]] = set()  # positions in `documents`
    for band in bands:
        order = np.argsort(band, kind="stable")
        ends = np.flatnonzero(np.diff(band[order])) + 1
        for run in np.split(order, ends) if len(ends) < len(order) - 1 else ():
            if len(run) < 2:
                continue
            members = run.tolist()
            if len(members) <= MAX_RUN:
                pairs.update((later, earlier) for n, later in enumerate(members) for earlier in members[:n])
            else:
                pairs.update((m, e) for p, m in pairwise(members) for e in {p, members[0]})
    return [(int(documents[later]), int(documents[earlier])) for later, earlier in sorted(pairs)]
