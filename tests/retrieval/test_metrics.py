"""Scores of rankings by hand, and against ir_measures."""

import numpy as np
import pytest

from nsllm_lite.retrieval import metrics
from nsllm_lite.retrieval.exact import top_k

RANKING = np.array([[3, 1, 0], [2, -1, -1], [-1, -1, -1]])
GRADES = [{1: 2, 0: 1, 5: 3}, {2: 1}, {4: 1}]


def test_by_hand():
    assert metrics.recall(RANKING, GRADES, 3) == pytest.approx([2 / 3, 1, 0])
    assert metrics.mrr(RANKING, GRADES, 3) == pytest.approx([1 / 2, 1, 0])
    best = 3 / np.log2(2) + 2 / np.log2(3) + 1 / np.log2(4)
    assert metrics.ndcg(RANKING, GRADES, 3) == pytest.approx([(2 / np.log2(3) + 1 / np.log2(4)) / best, 1, 0])
    assert metrics.mrr(RANKING, GRADES, 1) == pytest.approx([0, 1, 0])


def test_grades_below_1_are_not_relevant():
    assert metrics.recall(np.array([[0, 1]]), [{0: -1, 1: 1, 2: 0}]) == pytest.approx([1])
    assert metrics.ndcg(np.array([[0, 1]]), [{0: -1, 1: 1}]) == pytest.approx([1 / np.log2(3)])


def test_they_are_those_of_trec_eval_with_ties_and_missing_queries():
    """Scores of one digit give many ties; ids fall, as in our sets. The last query has no result at all."""
    import ir_measures
    from ir_measures import RR, R, nDCG

    rng = np.random.default_rng(0)
    ids = sorted((str(number) for number in range(40)), reverse=True)
    scores = np.round(rng.random((20, 40)), 1)
    grades = [{int(at): int(rng.integers(0, 4)) for at in rng.choice(40, 8, replace=False)} | {0: 1} for _ in scores]
    ranking, _ = top_k(scores, 40)
    ranking = np.where(np.arange(20)[:, None] == 19, -1, ranking)
    qrels = [ir_measures.Qrel(str(q), ids[at], grade) for q, one in enumerate(grades) for at, grade in one.items()]
    run = [ir_measures.ScoredDoc(str(q), ids[at], scores[q, at]) for q in range(19) for at in range(40)]
    theirs = ir_measures.calc_aggregate([nDCG @ 10, R @ 10, RR], qrels, run)
    assert metrics.ndcg(ranking, grades).mean() == pytest.approx(theirs[nDCG @ 10])
    assert metrics.recall(ranking, grades).mean() == pytest.approx(theirs[R @ 10])
    assert metrics.mrr(ranking, grades, 40).mean() == pytest.approx(theirs[RR])  # RR@10 is of another program
