"""Scores of pairs by hand."""

import numpy as np
import pytest

from nsllm_lite.formats.examples import Pair
from nsllm_lite.tasks import pairs
from tests.raising import raises

PAIRS = [
    Pair(1, "old ice", "old ice melts", True),
    Pair(2, "ice", "cells divide", False),
    Pair(3, "cells", "cells", True),
]


def test_figures_by_hand():
    found = pairs.figures(PAIRS, np.array([0.9, 0.8, 0.7]), 0.75)
    values = {name: metric(rows) for name, (rows, metric) in found.items()}
    assert values == {"ap": pytest.approx((1 + 2 / 3) / 2), "accuracy": pytest.approx(1 / 3), "f1": pytest.approx(0.5)}
    with raises("scores-not-finite"):
        pairs.figures(PAIRS, np.array([0.9, np.inf, 0.7]), 0.75)


def test_the_threshold_is_that_of_highest_accuracy():
    assert pairs.best_threshold(PAIRS, np.array([0.9, 0.1, 0.7])) == pytest.approx(0.4)
    assert pairs.best_threshold(PAIRS[:2], np.array([0.1, 0.9])) > 0.9
    assert pairs.best_threshold([PAIRS[1]], np.array([0.9])) > 0.9
    assert pairs.best_threshold([PAIRS[0]], np.array([0.9])) <= 0.9


def test_floors():
    assert pairs.word_overlap(PAIRS) == pytest.approx([2 / 3, 0, 1])
    cosine = pairs.tfidf_overlap(PAIRS)
    assert cosine[2] == pytest.approx(1)
    assert cosine[1] == 0
    assert 0 < cosine[0] < 1


def test_pairs_of_one_label():
    pairs.require_both(PAIRS, "a.jsonl")
    with raises("pairs-one-label", "a.jsonl"):
        pairs.require_both(PAIRS[:1], "a.jsonl")
