"""Which tokens of an encoder's rows are masked: a function of the seed, the step and the row's place in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels.linear_cross_entropy import IGNORE

STREAM = 3  # of the seed; 0 to 2 are those of the data order
MASKED, REPLACED = 0.8, 0.1  # in training, of the tokens that are to be told; the others stay as they are
HELD_OUT = -1  # the step of held-out rows, which are masked alike each time, in every run:
HELD_OUT_SHARE, HELD_OUT_SEED = 0.15, 0


@dataclass(frozen=True, slots=True)
class Masking:
    """`ordinary` are the tokens that may be masked, and take another's place: those of no special meaning.

    In training, a `keyword_share` of the masks falls on the tokens that `keywords` names in a row, as far as there are
    so many. Of held-out rows each token that is to be told is hidden by the mask, so that nothing is told by copying
    what is seen; and they are masked evenly, with a share and a seed of their own, so that runs can be compared.
    """

    share: float
    mask_id: int
    ordinary: np.ndarray  # (V,) bool
    seed: int
    keyword_share: float = 0.0
    keywords: Callable[[Row], np.ndarray] | None = None  # (tokens,) bool

    def of(self, row: Row, step: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """(input ids, targets) of a row, both (tokens,) int64; a target is the token to be told, or IGNORE."""
        seed = HELD_OUT_SEED if step == HELD_OUT else self.seed
        rng = np.random.default_rng([seed, STREAM, step + 1, place])
        ids = row.input_ids.astype(np.int64)
        drawn, kind = rng.random(len(ids)), rng.random(len(ids))
        told = (drawn < self._shares(row, self.ordinary[ids], step)) & self.ordinary[ids]
        targets = np.where(told, ids, IGNORE)
        if step == HELD_OUT:
            return np.where(told, self.mask_id, ids), targets
        others = rng.choice(np.flatnonzero(self.ordinary), len(ids))
        ids = np.where(told & (kind < MASKED), self.mask_id, ids)
        ids = np.where(told & (kind >= MASKED) & (kind < MASKED + REPLACED), others, ids)
        return ids, targets

    def _shares(self, row: Row, may_be: np.ndarray, step: int) -> np.ndarray | float:
        """How likely each token is masked; `may_be` says which can be."""
        if step == HELD_OUT:
            return HELD_OUT_SHARE
        if self.keywords is None:
            return self.share
        inside = self.keywords(row) & may_be
        num_inside, num_all = int(inside.sum()), int(may_be.sum())
        if not num_inside or num_inside == num_all:
            return self.share
        of_keywords = min(1.0, self.keyword_share * self.share * num_all / num_inside)
        of_others = (self.share * num_all - of_keywords * num_inside) / (num_all - num_inside)
        return np.where(inside, of_keywords, of_others)

    def of_rows(self, rows: Sequence[Row], step: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Of rows laid end to end, the first of which is at place `first` of its step."""
        parts = [self.of(row, step, first + n) for n, row in enumerate(rows)]
        ids, targets = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(targets)
