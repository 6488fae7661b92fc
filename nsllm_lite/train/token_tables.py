"""What tables of counted tokens tell of a masked one: floors for a model that reads the whole text."""

import math
from collections.abc import Iterable

import numpy as np

BACKOFF = 10  # tokens' worth of the words alone, beside what was counted behind the token before
AT_ONCE = 4_000_000  # pairs held before they are added up


class TokenTables:
    """Counted on rows: how often each `ordinary` token stands there, and how often behind each token of `lefts`.

    `words` knows the counts alone; `word_before` the token before too, unless it is not known (None) or not of `lefts`:
    its share is (pairs + BACKOFF x share of the word) / (pairs of the token before + BACKOFF).
    """

    def __init__(self, rows: Iterable[np.ndarray], ordinary: np.ndarray, lefts: np.ndarray):
        """`rows` are ids, `ordinary` (V,) says which tokens may be asked for; `lefts` are ids."""
        self._size = len(ordinary)
        wanted = np.isin(np.arange(self._size), lefts)
        counts = np.zeros(self._size)
        self._pairs, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)  # left x V + right, in order
        waiting, number = [], 0
        for ids in rows:
            counts += np.bincount(ids, minlength=self._size)
            left, right = ids[:-1].astype(np.int64), ids[1:]
            waiting.append((left * self._size + right)[wanted[left] & ordinary[right]])
            number += len(waiting[-1])
            if number >= AT_ONCE:
                self._add(waiting)
                waiting, number = [], 0
        self._add(waiting)
        counts = (counts + 1) * ordinary
        self._share, self._commonest = counts / counts.sum(), int(counts.argmax())
        left, right = np.divmod(self._pairs, self._size)
        self._behind = np.bincount(left, self._counts, self._size)
        first = np.lexsort((right, -self._counts, left))
        known, places = np.unique(left[first], return_index=True)
        self._likeliest = dict(zip(known.tolist(), right[first][places].tolist(), strict=True))

    def _add(self, waiting: list[np.ndarray]) -> None:
        pairs, places = np.unique(np.concatenate([self._pairs, *waiting]), return_inverse=True)
        before = np.ones(len(places), np.int64)
        before[: len(self._counts)] = self._counts
        self._pairs, self._counts = pairs, np.bincount(places, before, len(pairs)).astype(np.int64)

    def words(self, right: int) -> tuple[float, bool]:
        """(nats, whether the commonest token is the right one)."""
        return -math.log(self._share[right]), right == self._commonest

    def word_before(self, left: int | None, right: int) -> tuple[float, bool]:
        """(nats, whether the token that most often stands behind `left` is the right one)."""
        if left is None or left not in self._likeliest:
            return self.words(right)
        pair = left * self._size + right
        place = int(np.searchsorted(self._pairs, pair))
        count = self._counts[place] if place < len(self._pairs) and self._pairs[place] == pair else 0
        share = (count + BACKOFF * self._share[right]) / (self._behind[left] + BACKOFF)
        return -math.log(share), right == self._likeliest[left]
