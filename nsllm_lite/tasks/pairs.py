"""Scores of pairs of texts that belong together or do not, such as a query and a passage.

Average precision needs no threshold; accuracy and F1 are at one that was chosen on development pairs, or at 0.5 of the
probability.
"""

from collections.abc import Sequence

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import Pair
from nsllm_lite.tasks.classes import average_precision, ranks, require_finite_scores
from nsllm_lite.tasks.entities import WORD
from nsllm_lite.tasks.scores import Metric, Results, mean


def require_both(pairs: Sequence[Pair], where: object) -> None:
    """Raises UserError where all pairs have one label: average precision would be 1, or none."""
    if len({pair.label for pair in pairs}) < 2:
        found = f"{where}: all {len(pairs):,} pairs have the label {int(pairs[0].label)}."
        raise UserError("pairs-one-label", found, "Needed are pairs of both labels, 1 and 0.")


def figures(pairs: Sequence[Pair], scores: np.ndarray, threshold: float) -> dict[str, tuple[Results, Metric]]:
    """Average precision, accuracy and F1; `scores` (n,), a pair is said to belong together from `threshold` on."""
    require_finite_scores(scores)
    gold = np.array([pair.label for pair in pairs])
    decided = Results(gold, scores >= threshold)
    return {"ap": (Results(gold, ranks(scores)), ap), "accuracy": (decided, mean), "f1": (decided, f1)}


def ap(results: Results) -> float:
    """0 where no pair belongs together, as a resample of few may be."""
    return float(np.nan_to_num(average_precision(results.gold, results.given)))


def f1(results: Results) -> float:
    right = (results.gold & results.given).sum()
    return float(2 * right / max(results.gold.sum() + results.given.sum(), 1))


def best_threshold(pairs: Sequence[Pair], scores: np.ndarray) -> float:
    """The threshold of highest accuracy on development pairs, in the middle between two scores."""
    gold = np.array([pair.label for pair in pairs])
    order = np.argsort(-scores, kind="stable")
    values, right = scores[order], np.cumsum(np.where(gold[order], 1, -1))
    last = np.concatenate((np.diff(values) != 0, [True]))
    counts = np.concatenate(([0], np.where(last, right, -len(right) - 1)))  # said of the first k that they belong
    best = int(np.argmax(counts))
    if best == 0:
        return float(np.nextafter(values[0], np.inf))
    return float(values[-1] if best == len(values) else (values[best - 1] + values[best]) / 2)


def word_overlap(pairs: Sequence[Pair]) -> np.ndarray:
    """(n,): the share of the words of both texts that both have (Jaccard)."""
    rows = [[set(WORD.findall(text.lower())) for text in (pair.text, pair.text_pair)] for pair in pairs]
    return np.array([len(one & other) / max(len(one | other), 1) for one, other in rows])


def tfidf_overlap(pairs: Sequence[Pair]) -> np.ndarray:
    """(n,): the cosine of both texts' words, weighted by TF-IDF over all texts of these pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    both = words.fit_transform([pair.text for pair in pairs] + [pair.text_pair for pair in pairs])
    one, other = both[: len(pairs)], both[len(pairs) :]
    return np.asarray(one.multiply(other).sum(axis=1)).ravel()


def all_alike(pairs: Sequence[Pair]) -> np.ndarray:
    """(n,): one score for all, whose average precision is the share of pairs that belong together."""
    return np.zeros(len(pairs))


FLOORS = {"all alike": all_alike, "words that both have": word_overlap, "TF-IDF cosine": tfidf_overlap}
