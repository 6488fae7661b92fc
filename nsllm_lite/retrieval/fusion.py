"""Two rankings as one, by reciprocal rank fusion with a weight.

Source: Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
methods", 2009.
"""

from collections.abc import Sequence

import numpy as np

from nsllm_lite.retrieval.exact import MISSING
from nsllm_lite.retrieval.metrics import Grades, ndcg

CONSTANT = 60
WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))


def fuse(one: np.ndarray, other: np.ndarray, weight: float, k: int) -> np.ndarray:
    """A ranking (Q, k) by weight / (60 + place in `one`) + (1 - weight) / (60 + place in `other`), rankings (Q, n); of
    equal sums the lowest position first."""
    fused = np.full((len(one), k), MISSING)
    for row in range(len(one)):
        sums: dict[int, float] = {}
        for ranking, share in ((one[row], weight), (other[row], 1 - weight)):
            for place, document in enumerate(ranking.tolist(), 1):
                if document != MISSING and share:
                    sums[document] = sums.get(document, 0.0) + share / (CONSTANT + place)
        best = sorted(sums, key=lambda document: (-sums[document], document))[:k]
        fused[row, : len(best)] = best
    return fused


def best_weight(one: np.ndarray, other: np.ndarray, grades: Sequence[Grades], k: int = 10) -> float:
    """The weight of `one`, of 0, 0.1 to 1, of highest nDCG on development queries; of equal ones the nearest to 0.5."""
    values = {weight: float(ndcg(fuse(one, other, weight, k), grades, k).mean()) for weight in WEIGHTS}
    return max(values, key=lambda weight: (round(values[weight], 9), -abs(weight - 0.5)))
