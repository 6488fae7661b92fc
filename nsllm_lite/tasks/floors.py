"""Rules that answer without understanding; their scores are the floors beside every model's score."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.tasks.scores import Difference

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOLDS = 5
MAX_ORDERED = 6
CUE = re.compile(
    r"\b(?:we|this (?:paper|work|article)) (?:propose|present|introduce|study|investigate|develop|describe|show)s?\b",
    re.IGNORECASE,
)


def lost_to(model: str, floor: str, metric: str, difference: Difference) -> str:
    """A sentence about a model that is below a floor, or cannot be told from it; "" of one that is above it.
    `difference` is from the floor to the model, on the same items."""
    if difference.sign > 0:
        return ""
    how = "cannot be told from" if difference.sign == 0 else "is below"
    words = f"{model} {how} the floor {floor}"
    return f"{words if difference.sign == 0 else f'**{words}**'} in {metric}: {difference.words}."


def commonest(labels: Sequence[str]) -> str:
    """The commonest label; of equally common ones the first."""
    return Counter(labels).most_common(1)[0][0]


def majority(labels: Sequence[str]) -> float:
    """Accuracy of always the commonest label."""
    return max(Counter(labels).values()) / len(labels)


def bayes() -> "Pipeline":
    """Multinomial naive Bayes on counts of words and pairs of words, add-one smoothing."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    return make_pipeline(CountVectorizer(ngram_range=(1, 2)), MultinomialNB())


def cross_validated(classifier: "Pipeline", texts: Sequence[str], labels: Sequence[str], seed: int) -> dict[str, float]:
    """F1 of each label in 5-fold cross-validation. Raises UserError where a label has fewer than 5 texts."""
    from sklearn.metrics import f1_score

    names = sorted(set(labels))
    predicted = cross_predicted(classifier, texts, labels, seed)
    return dict(zip(names, f1_score(labels, predicted, average=None, labels=names).tolist(), strict=True))


def cross_predicted(classifier: "Pipeline", texts: Sequence[str], labels: Sequence[str], seed: int) -> list[str]:
    """The label of each text, predicted by the classifier fitted on the other four fifths of the texts."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if min(Counter(labels).values()) < FOLDS:
        found = f"A label has fewer than {FOLDS} texts for cross-validation."
        raise UserError("floors-few-texts", found, "Add texts of it.")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return cross_val_predict(classifier, list(texts), list(labels), cv=folds).tolist()


def position(places: Sequence[float], labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """(order of the labels, predicted label of each item) of the best rule that sees the place alone.

    The rule cuts the places, 0 to 1, into one stretch for each label, in the order and at the thresholds with the
    highest accuracy on these items: an upper bound of what the place predicts. Items at one place are not cut apart.
    Raises UserError where there are more than 6 labels, too many orders to try.
    """
    names = sorted(set(labels))
    if len(names) > MAX_ORDERED:
        found = f"There are {len(names)} labels."
        needed = f"At most {MAX_ORDERED} can be put in order."
        raise UserError("floors-many-labels", found, needed, "Merge some, or give no places.")
    by_place = np.argsort(places, kind="stable")
    here, sorted_places = np.array(labels)[by_place], np.array(places)[by_place]
    is_cut = np.concatenate(([True], np.diff(sorted_places) > 0, [True]))
    counts = {name: np.concatenate(([0], np.cumsum(here == name))) for name in names}
    best, best_right = None, -1
    for order in permutations(names):
        cuts, right = _cuts([counts[name] for name in order], is_cut)
        if right > best_right:
            best, best_right = (order, cuts), right
    order, cuts = best
    predicted = np.empty(len(labels), object)
    for name, start, stop in zip(order, cuts, cuts[1:], strict=False):
        predicted[by_place[start:stop]] = name
    return list(order), predicted.astype(str)


def _cuts(counts: list[np.ndarray], is_cut: np.ndarray) -> tuple[list[int], int]:
    """(boundaries of the stretches in this order with the most items right, how many are right)

    `counts[k][i]` are the items of label k among the first i. right[k][i] is the most that stretches 0 to k can have
    right of the first i: the last stretch adds counts[k][i] - counts[k][j] to those right before its start j, which is
    one of the places where `is_cut`.
    """
    right, starts = counts[0].copy(), []
    for count in counts[1:]:
        gain = np.where(is_cut, right - count, -len(count))
        so_far = np.maximum.accumulate(gain)
        is_new = np.concatenate(([True], gain[1:] > so_far[:-1]))
        starts.append(np.maximum.accumulate(np.where(is_new, np.arange(len(gain)), 0)))
        right = so_far + count
    cuts = [len(right) - 1]
    for start in reversed(starts):
        cuts.insert(0, int(start[cuts[0]]))
    return [0, *cuts], int(right[-1])


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s+", text.strip(), maxsplit=1)[0]


def first_words(text: str, count: int = 12) -> str:
    return " ".join(text.split()[:count])


def after_cue(text: str, count: int = 14) -> str:
    """What follows the first "we propose" or the like, else the beginning."""
    found = CUE.search(text)
    return first_words(text[found.end() :] if found else text, count)


TITLE_RULES = {"first sentence": first_sentence, "first 12 words": first_words, "after 'we propose'": after_cue}
