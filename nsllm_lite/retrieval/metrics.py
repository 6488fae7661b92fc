"""Recall, nDCG and MRR of rankings, query by query.

A ranking is (Q, k): positions of documents from the best on, -1 behind the last that was found. A query for which
nothing was found has 0 of everything; pytrec_eval leaves it out of its mean, and looks better (measured on a run of
half of the queries: 0.37 where 0.19 is right). Documents of one score stand in falling order of their ids, as in
trec_eval. nDCG has the grade itself as gain.
Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002; trec_eval.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nsllm_lite.tasks.scores import Results

Grades = Mapping[int, int]  # of one query: {position of a document: its grade}; from 1 on it is relevant


def gains(ranking: np.ndarray, grades: Sequence[Grades]) -> np.ndarray:
    """(Q, k): the grade of each ranked document; 0 where it is not judged, or judged below 1."""
    return np.array(
        [[max(known.get(int(place), 0), 0) for place in row] for row, known in zip(ranking, grades, strict=True)],
        np.int64,
    ).reshape(ranking.shape)


def recall(ranking: np.ndarray, grades: Sequence[Grades], k: int = 10) -> np.ndarray:
    """(Q,): the share of a query's relevant documents that are among the first k."""
    return (gains(ranking[:, :k], grades) > 0).sum(axis=1) / [
        sum(grade > 0 for grade in one.values()) for one in grades
    ]


def ndcg(ranking: np.ndarray, grades: Sequence[Grades], k: int = 10) -> np.ndarray:
    """(Q,): gains by logarithm of their place, as a share of the best order of all that is judged."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = gains(ranking[:, :k], grades)
    best = np.zeros((len(grades), k))
    for row, one in enumerate(grades):
        highest = sorted((grade for grade in one.values() if grade > 0), reverse=True)[:k]
        best[row, : len(highest)] = highest
    return found @ discounts[: found.shape[1]] / (best @ discounts)


def mrr(ranking: np.ndarray, grades: Sequence[Grades], k: int = 10) -> np.ndarray:
    """(Q,): 1 / place of the first relevant document among the first k, 0 where there is none."""
    hits = gains(ranking[:, :k], grades) > 0
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


METRICS = {"ndcg@10": ndcg, "recall@10": recall, "mrr@10": mrr}
"""The first is the main one."""


def figures(ranking: np.ndarray, grades: Sequence[Grades]) -> dict[str, Results]:
    return {name: Results(None, metric(ranking, grades)) for name, metric in METRICS.items()}
