"""What tables of counted tokens tell of a masked one: floors for a model that reads the whole text."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

BACKOFF = 10  # tokens' worth of the words alone, beside what was counted behind the token before


class TokenTables:
    """Counted on rows: how often each `ordinary` token stands there, and how often behind which token.

    `words` knows the counts alone; `word_before` the token before too, unless it is not known (None): its share is
    (pairs + BACKOFF x share of the word) / (pairs of the token before + BACKOFF).
    """

    def __init__(self, rows: Iterable[np.ndarray], ordinary: np.ndarray):
        """`rows` are ids, `ordinary` (V,) says which tokens may be asked for."""
        counts = np.zeros(len(ordinary))
        self._pairs: Counter[tuple[int, int]] = Counter()
        for ids in rows:
            counts += np.bincount(ids, minlength=len(ordinary))
            self._pairs.update(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
        counts = (counts + 1) * ordinary
        self._share, self._commonest = counts / counts.sum(), int(counts.argmax())
        self._behind: Counter[int] = Counter()
        self._likeliest: dict[int, tuple[int, int]] = {}
        for (left, right), count in self._pairs.items():
            if ordinary[right]:
                self._behind[left] += count
                self._likeliest[left] = max(self._likeliest.get(left, (0, 0)), (count, -right))

    def words(self, right: int) -> tuple[float, bool]:
        """(nats, whether the commonest token is the right one)."""
        return -math.log(self._share[right]), right == self._commonest

    def word_before(self, left: int | None, right: int) -> tuple[float, bool]:
        """(nats, whether the token that most often stands behind `left` is the right one)."""
        if left is None or left not in self._behind:
            return self.words(right)
        share = (self._pairs[left, right] + BACKOFF * self._share[right]) / (self._behind[left] + BACKOFF)
        return -math.log(share), right == -self._likeliest[left][1]
