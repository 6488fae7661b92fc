"""Scores by hand, intervals that cover, differences that are told from chance."""

import numpy as np
import pytest

from nsllm_lite.tasks import scores
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.lm_eval import functions
from nsllm_lite.tasks.task import TaskSet, all_tasks
from tests.raising import raises


def rows(gold: str, given: str) -> scores.Results:
    return scores.numbered(list(gold), [None if x == "-" else x for x in given], ["a", "b", "c"])


def test_macro_f1_by_hand():
    """a: 2 of 3 found, 1 wrong; b: 1 of 2 found; c: none given, one there; an unread answer is a miss only."""
    found = rows("aaabbc", "aab-ba")
    # a: precision 2/3, recall 2/3; b: given b at place 2 (wrong) and 4 (right): 1/2, 1/2; c: 0
    assert scores.macro_f1(found, 3) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores.mean(found) == pytest.approx(3 / 6)


def test_the_mean_of_many_items_has_the_interval_of_the_estimate():
    values = np.random.default_rng(0).random(400)
    one = scores.estimate(scores.Results(None, values), scores.mean, 0)
    other = scores.estimate_mean(values, 0)
    assert other.value == pytest.approx(one.value)
    assert other == pytest.approx(one, abs=0.004)
    assert other == scores.estimate_mean(values, 0)


def test_macro_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    gold, given = (rng.integers(5, size=300) for _ in range(2))
    theirs = f1_score(gold, given, average="macro")
    assert scores.macro_f1(scores.Results(gold, given), 5) == pytest.approx(theirs)


def test_the_harness_counts_labels_that_are_only_given():
    task = all_tasks()["classification"]
    gold, given, labels = ("a", "a", "b", "b"), ("a", "a", "b", "c"), ("a", "b", "c")
    answered = []
    for one, other in zip(gold, given, strict=True):
        doc = {"task": task.name, "input": "x", "output": one, "options": list(labels)}
        answered.append(functions.of_ranked(doc, [(float(label == other), False) for label in labels])["macro_f1"])
    asked = TaskSet("x", task, tuple(Item(n, "x", one, {}) for n, one in enumerate(gold)), (), (), labels)
    assert functions.macro_f1(answered) == task.figures(given, asked)["macro_f1"] == pytest.approx((1 + 2 / 3) / 3)


def test_an_interval_covers_the_true_share():
    """Of 40 samples of 200 items with a true accuracy of 0.7 about 38 intervals hold it, under 34 in 1 of 300 runs."""
    rng = np.random.default_rng(1)
    found = 0
    for seed in range(40):
        values = (rng.random(200) < 0.7).astype(float)
        one = scores.estimate(scores.Results(None, values), scores.mean, seed)
        assert one.low <= one.value <= one.high
        found += one.low <= 0.7 <= one.high
    assert found >= 34


def test_the_same_seed_gives_the_same_interval():
    found = rows("abcabc" * 5, "abbacc" * 5)
    metric = lambda results: scores.macro_f1(results, 3)  # noqa: E731
    assert scores.estimate(found, metric, 3) == scores.estimate(found, metric, 3)
    assert scores.estimate(found, metric, 3) != scores.estimate(found, metric, 4)


def test_a_true_difference_and_none():
    rng = np.random.default_rng(2)
    base = (rng.random(300) < 0.5).astype(float)
    better = np.where(rng.random(300) < 0.3, 1.0, base)
    found = scores.compare(scores.Results(None, base), scores.Results(None, better), scores.mean, 0)
    assert found.p < 0.001
    assert found.low > 0
    found = scores.compare(scores.Results(None, base), scores.Results(None, rng.permutation(base)), scores.mean, 0)
    assert (found.value, found.p) == (0, 1)


def test_models_on_other_items_are_not_compared():
    with raises("scores-items-differ"):
        scores.compare(rows("ab", "ab"), rows("ba", "ab"), scores.mean, 0)


def test_intervals_of_seeds_by_hand():
    low, high = scores.student_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.303 / np.sqrt(3), 2 + 4.303 / np.sqrt(3)))
    # variances of the means 1/3 and 4/3, 2.94 degrees of freedom, so 2
    low, high = scores.welch_interval([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert (low, high) == pytest.approx((-2 - 4.303 * np.sqrt(5 / 3), -2 + 4.303 * np.sqrt(5 / 3)))
    assert scores.welch_interval([1.0, 1.0], [3.0, 3.0]) == (-2, -2)
    many = [0.0, 1.0] * 40
    assert scores.student_interval(many)[1] == pytest.approx(0.5 + 2.042 * np.std(many, ddof=1) / np.sqrt(80))


def test_intervals_of_seeds_cover():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(2_000, 3))
    inside = [low < 0 < high for low, high in map(scores.student_interval, drawn)]
    assert 0.93 < np.mean(inside) < 0.97
    apart = [scores.welch_interval(one, other) for one, other in zip(drawn[:1000], drawn[1000:] * 3, strict=True)]
    assert np.mean([low < 0 < high for low, high in apart]) > 0.94


def test_a_difference_of_shares_of_nothing_is_beyond_no_chance():
    """A model that gives nothing has no share; neither has a permutation in which one side gives nothing."""

    def share(results):
        above, below = results.given.sum(axis=0)
        return float(above / below) if below else float("nan")

    none, some = (scores.Results(None, np.array([pair] * 6, float)) for pair in ((0, 0), (1, 1)))
    for one, other in ((none, some), (some, none)):
        found = scores.compare(one, other, share, 0)
        assert np.isnan(found.value)
        assert (found.p, found.sign) == (1, 0)
    right = scores.Results(None, np.array([(1, 1)] + [(0, 0)] * 5, float))
    wrong = scores.Results(None, np.array([(0, 1)] + [(0, 0)] * 5, float))
    assert scores.compare(wrong, right, share, 0).p == 1, "one item decides, whichever way it is dealt"
