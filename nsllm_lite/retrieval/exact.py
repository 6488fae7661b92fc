"""Exact search: the k documents of highest score, of equal ones those that stand first."""

from collections.abc import Sequence

import numpy as np

from nsllm_lite.errors import UserError

BLOCK_BYTES = 2**26  # of one block of documents, or of its scores, in float32
MISSING = -1


def search(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    block_documents: int | None = None,
    scales: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(positions, scores), (Q, k) each, by dot product of `queries` (Q, D) and `documents` (N, D); of unit vectors that
    is the cosine. Products are in float32, with int8 documents times their `scales` (N,). Where N < k the rest is -1.

    Raises UserError where the two have different widths.
    """
    if queries.shape[1] != documents.shape[1]:
        found = f"Queries have {queries.shape[1]} dimensions and documents {documents.shape[1]}."
        raise UserError("search-widths-differ", found, "Embed both with the same model.")
    queries = queries.astype(np.float32, copy=False)
    places = np.full((len(queries), 0), MISSING)
    scores = np.zeros((len(queries), 0), np.float32)
    size = block_documents or max(BLOCK_BYTES // (4 * max(*queries.shape, 1)), 1)
    for first in range(0, len(documents), size):
        found = queries @ np.asarray(documents[first : first + size], np.float32).T
        if scales is not None:
            found *= scales[first : first + size]
        columns = np.arange(found.shape[1])
        if scores.shape[1] == k:  # of a later document only a higher score counts
            columns = np.flatnonzero((found > scores[:, -1:]).any(axis=0))
        numbers = np.broadcast_to(columns + first, (len(queries), len(columns)))
        kept, scores = top_k(np.concatenate((scores, found[:, columns]), axis=1), k)
        places = np.take_along_axis(np.concatenate((places, numbers), axis=1), kept, axis=1)
    return padded(places, scores, k)


def quantise(documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, D) as int8, each divided by its scale (N,): a quarter of float32."""
    scales = np.empty(len(documents), np.float32)
    small = np.empty(documents.shape, np.int8)
    size = max(BLOCK_BYTES // (4 * max(documents.shape[1], 1)), 1)
    for first in range(0, len(documents), size):
        block = np.asarray(documents[first : first + size], np.float32)
        largest = np.abs(block).max(axis=1)
        largest[largest == 0] = 1
        scales[first : first + size] = largest / 127
        small[first : first + size] = np.rint(block * (127 / largest)[:, None])
    return small, scales


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(columns, scores), (Q, min(k, N)) each, of scores (Q, N) from the highest on; of equal scores the first column,
    also at the end, where a partial sort takes any."""
    k = min(k, scores.shape[1])
    if k == 0:
        return np.zeros((len(scores), 0), np.int64), scores[:, :0]
    found = np.empty((len(scores), k), np.int64)
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    for row, (values, bound) in enumerate(zip(scores, last, strict=True)):
        columns = np.flatnonzero(values >= bound)
        found[row] = columns[np.argsort(-values[columns], kind="stable")][:k]
    return found, np.take_along_axis(scores, found, axis=1)


def without(places: np.ndarray, own: Sequence[int], k: int) -> np.ndarray:
    """(Q, k): the first k of rankings (Q, n) that leave out of each row its `own` document, which may be MISSING."""
    kept = np.full((len(places), k), MISSING)
    for row, (found, one) in enumerate(zip(places, own, strict=True)):
        others = found[found != one][:k]
        kept[row, : len(others)] = others
    return kept


def padded(places: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both with k columns: the last are -1, of score 0."""
    room = ((0, 0), (0, k - places.shape[1]))
    return np.pad(places, room, constant_values=MISSING), np.pad(scores, room)
