"""Metrics over items, their confidence intervals, and tests of differences between models: NumPy, from a seed.

An interval is the middle 95 % of bootstrap resamples of the items; a difference between two models is judged on the
same items, by a permutation test that exchanges their answers.
Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993; Noreen, "Computer-intensive methods", 1989.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nsllm_lite.errors import UserError

RESAMPLES = 1_000
PERMUTATIONS = 2_000
LEVEL = 0.95
ALPHA = 0.05  # a difference with a `p` of at least that is none that the items could show


class Estimate(NamedTuple):
    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Score of the second model minus the first; `p` is the share of permutations with as large a difference."""

    value: float
    low: float
    high: float
    p: float

    @property
    def sign(self) -> int:
        """1 or -1 where the second model scores higher or lower, 0 where the two cannot be told apart."""
        return 0 if self.p >= ALPHA else 1 if self.value > 0 else -1

    @property
    def words(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Results(NamedTuple):
    """Of one model on each item: the gold and given label as numbers (-1: none given), or `gold` None and a score."""

    gold: np.ndarray | None
    given: np.ndarray

    def take(self, places: np.ndarray) -> "Results":
        return Results(None if self.gold is None else self.gold[places], self.given[places])


Metric = Callable[[Results], float]


def mean(results: Results) -> float:
    """The mean score; of labels the accuracy."""
    return float(np.mean(results.given if results.gold is None else results.gold == results.given))


def macro_f1(results: Results, num_labels: int) -> float:
    """Mean F1 over the labels that occur as gold or given. An item without an answer is a false negative of its own
    label and of no other."""
    gold = np.bincount(results.gold, minlength=num_labels)
    given = np.bincount(results.given[results.given >= 0], minlength=num_labels)
    right = np.bincount(results.gold[results.gold == results.given], minlength=num_labels)
    there = gold + given > 0
    return float(np.mean(2 * right[there] / (gold + given)[there]))


def numbered(gold: Sequence[str], given: Sequence[str | None], labels: Sequence[str]) -> Results:
    """Labels as numbers, in the order of `labels`."""
    place = {label: number for number, label in enumerate(labels)}
    return Results(*(np.array([place.get(label, -1) for label in row], dtype=np.int64) for row in (gold, given)))


def estimate(results: Results, metric: Metric, seed: int) -> Estimate:
    """The score and its interval over resampled items."""
    rng = np.random.default_rng(seed)
    size = len(results.given)
    values = [metric(results.take(rng.integers(size, size=size))) for _ in range(RESAMPLES)]
    return Estimate(metric(results), *_middle(values))


def estimate_mean(values: np.ndarray, seed: int) -> Estimate:
    """`estimate` of a mean over items (n,), in a hundredth of its time: for scores that are taken again and again."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=(RESAMPLES // 10, len(values)))].mean(axis=1) for _ in range(10)]
    return Estimate(float(values.mean()), *_middle(np.concatenate(means)))


def quotient_interval(counts: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Of sum(counts) / sum(others), both (papers,), over resampled papers, with one seed."""
    return resampled_interval(lambda drawn: counts[drawn].sum(1) / np.maximum(1, others[drawn].sum(1)), len(counts))


def resampled_interval(statistic: Callable[[np.ndarray], np.ndarray], num_papers: int) -> tuple[float, float]:
    """Of a `statistic` of the papers' places (RESAMPLES, papers) -> (RESAMPLES,), over resampled papers, with one seed:
    two statistics of the same papers see the same resamples."""
    return _middle(statistic(np.random.default_rng(0).integers(0, num_papers, (RESAMPLES, num_papers))))


T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantiles of Student's t by degrees of freedom, from 1 on; of more than 30 the last is taken (2.042; the
limit is 1.960)."""


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of two or more values, such as those of several seeds, by Student's t.

    Source: Student, "The probable error of a mean", 1908.
    """
    half = _t(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def welch_interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Of the difference of two means, `values` minus `others`, whose deviations may differ.

    The degrees of freedom are rounded down, which widens it. Source: Welch, "The generalization of Student's problem
    when several different population variances are involved", 1947.
    """
    parts = [float(np.var(given, ddof=1)) / len(given) for given in (values, others)]
    freedom = [part**2 / (len(given) - 1) for part, given in zip(parts, (values, others), strict=True)]
    difference = float(np.mean(values) - np.mean(others))
    half = _t(sum(parts) ** 2 / sum(freedom)) * sum(parts) ** 0.5 if sum(parts) else 0.0
    return difference - half, difference + half


def _t(freedom: float) -> float:
    return T_975[min(int(freedom + 1e-9), len(T_975)) - 1]


def compare(one: Results, other: Results, metric: Metric, seed: int) -> Difference:
    """By how much `other` scores above `one` on the same items. Raises UserError where their items differ."""
    if len(one.given) != len(other.given) or (one.gold is not None and not np.array_equal(one.gold, other.gold)):
        found = "The two models were scored on different items."
        needed = "Only scores on the same items can be compared."
        raise UserError("scores-items-differ", found, needed, "Evaluate both with the same recipe.")
    rng = np.random.default_rng(seed)
    size, value = len(one.given), metric(other) - metric(one)
    draws = (rng.integers(size, size=size) for _ in range(RESAMPLES))
    values = [metric(other.take(draw)) - metric(one.take(draw)) for draw in draws]
    beyond = 0
    for _ in range(PERMUTATIONS):
        swapped = (rng.random(size) < 0.5).reshape(-1, *[1] * (one.given.ndim - 1))
        left = Results(one.gold, np.where(swapped, other.given, one.given))
        right = Results(one.gold, np.where(swapped, one.given, other.given))
        beyond += not abs(metric(right) - metric(left)) < abs(value) - 1e-12  # NaN, a share of nothing, shows nothing
    return Difference(value, *_middle(values), (beyond + 1) / (PERMUTATIONS + 1))


def _middle(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """A resample that has no value, NaN, such as one without a rare label, is left out."""
    known = [value for value in values if not np.isnan(value)] or [float("nan")]
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
