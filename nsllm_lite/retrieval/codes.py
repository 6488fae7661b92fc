"""Nearest neighbours among millions of embeddings in two passes: a bit of each component, then the vectors themselves.

The first pass counts in how many signs a query differs from each vector (48 bytes a vector of 384 components) and keeps
the nearest; the second takes the inner products of these alone. Both are exact about what they look at: what is missed
is what the signs did not bring among the candidates, and `bench/search.py` measures how much.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

WORD = 64
BLOCK = 32_768  # vectors at a time: their words lie in a core's cache


def sign_codes(vectors: np.ndarray) -> np.ndarray:
    """(n, d) vectors -> (ceil(d / 64), n) words of 64 signs. Of one word of all vectors at a time a query's distances
    are counted six times faster than vector by vector."""
    bits = np.packbits(vectors > 0, axis=1)
    missing = -bits.shape[1] % (WORD // 8)
    return np.ascontiguousarray(np.pad(bits, ((0, 0), (0, missing))).view(np.uint64).T)


def sign_distances(code: np.ndarray, words: np.ndarray) -> np.ndarray:
    """In how many signs each vector of `words` differs from the one of `code` (W,): (n,) uint16."""
    differ = np.empty(words.shape[1], np.uint16)
    word, count = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint8)
    for first in range(0, len(differ), BLOCK):
        part = differ[first : first + BLOCK]
        part[:] = 0
        for mine, of_all in zip(code, words[:, first : first + BLOCK], strict=True):
            np.bitwise_xor(of_all, mine, out=word[: len(part)])
            part += np.bitwise_count(word[: len(part)], out=count[: len(part)])
    return differ


def fewest(distances: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` smallest, in order of place; of equal ones the first."""
    if count >= len(distances):
        return np.arange(len(distances))
    last = np.partition(distances, count - 1)[count - 1]
    below, equal = np.flatnonzero(distances < last), np.flatnonzero(distances == last)
    return np.sort(np.concatenate([below, equal[: count - len(below)]]))


def search_codes(
    queries: np.ndarray, stored: np.ndarray, words: np.ndarray, k: int, candidates: int, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` vectors of `stored` (n, d) with the largest inner products among the `candidates` nearest by sign.

    `words` are `sign_codes(stored)`; `stored` may be float16 and memory-mapped. Returns (places, products) as (Q, k),
    the largest first, of equal ones the first in `stored`.
    """
    k = min(k, len(stored))
    codes = sign_codes(queries).T
    places, products = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)

    def search(number: int) -> None:
        near = fewest(sign_distances(codes[number], words), max(k, candidates))
        found = stored[near].astype(np.float32) @ queries[number].astype(np.float32)
        order = np.lexsort((near, -found))[:k]
        places[number], products[number] = near[order], found[order]

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(search, range(len(queries))))
    return places, products
