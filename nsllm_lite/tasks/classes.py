"""Scores of classified texts: of one label each, macro-F1 and accuracy; of several, average precision, and F1 at
thresholds of each class that were chosen on development texts, never on the texts that are scored.

Average precision is the mean of the precision at each right text, in the order of falling scores; texts of one score
stand at one place. That is scikit-learn's `average_precision_score`, without interpolation.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import Example, Examples
from nsllm_lite.tasks.floors import FOLDS, commonest
from nsllm_lite.tasks.scores import Metric, Results, macro_f1, mean, numbered

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

THRESHOLD = 0.5  # of a probability, where none was chosen


def labels_of(*files: Examples[Example]) -> tuple[str, ...]:
    """All labels in order. Raises UserError where there is but one, or a file has lists of labels and another not."""
    if len({file.multi for file in files}) > 1:
        found = f"Of {', '.join(str(file.path) for file in files)} some have `label` and some `labels`."
        raise UserError("labels-mixed", found, "Write all as `label`, or all as `labels`.")
    labels = tuple(sorted({label for file in files for one in file.items for label in one.labels}))
    if len(labels) < (1 if files[0].multi else 2):
        found = f"{files[0].path} has {len(labels)} different labels."
        raise UserError("labels-too-few", found, "At least 2 are needed (of lists of labels 1).", "Add texts.")
    return labels


def single_figures(
    gold: Sequence[str], given: Sequence[str | None], labels: Sequence[str]
) -> dict[str, tuple[Results, Metric]]:
    """Macro-F1, accuracy, and F1 of each label. `labels` are those of gold and answers; an answer None is wrong."""
    rows = numbered(gold, given, labels)
    if (rows.gold < 0).any():
        raise UserError("label-unknown", f"{sorted(set(gold) - set(labels))} are none of the labels.", "Add them.")
    found: dict[str, tuple[Results, Metric]] = {"macro_f1": (rows, partial(macro_f1, num_labels=len(labels)))}
    found["accuracy"] = rows, mean
    return found | {f"f1 {name}": (rows, partial(_label_f1, number=place)) for place, name in enumerate(labels)}


def _label_f1(results: Results, number: int) -> float:
    gold, given = results.gold == number, results.given == number
    total = gold.sum() + given.sum()
    return float(2 * (gold & given).sum() / total) if total else float("nan")


def unseen(gold: Sequence[str], known: Sequence[str]) -> str:
    """A sentence about gold labels that a classifier does not know, "" where there are none."""
    lost = Counter(label for label in gold if label not in known)
    if not lost:
        return ""
    names = ", ".join(f"{name} ({count:,})" for name, count in sorted(lost.items()))
    return f"labels that the model does not know, whose texts count as wrong: {names}"


def as_matrix(texts: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
    """(texts, labels), whether a text has a label."""
    return np.array([[label in one.labels for label in labels] for one in texts], bool).reshape(-1, len(labels))


def average_precision(gold: np.ndarray, scores: np.ndarray) -> float:
    """Of whether each is right (n,), and its score (n,). NaN where none is right."""
    order = np.argsort(-scores, kind="stable")
    right, values = gold[order].astype(np.int64), scores[order]
    if not right.sum():
        return float("nan")
    last = np.concatenate((np.diff(values) != 0, [True]))  # of those of one score
    hits, seen = np.cumsum(right)[last], np.arange(1, len(right) + 1)[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / seen) / right.sum())


def best_thresholds(gold: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(labels,): of each label the threshold of highest F1 on development texts (n, labels), in the middle between two
    scores; a text has the label where its score is at least that. A label without a text there keeps `THRESHOLD`."""
    return np.array([_best_threshold(gold[:, place], scores[:, place]) for place in range(gold.shape[1])])


def _best_threshold(gold: np.ndarray, scores: np.ndarray) -> float:
    if not gold.any():
        return THRESHOLD
    order = np.argsort(-scores, kind="stable")
    right, values = np.cumsum(gold[order]), scores[order]
    last = np.concatenate((np.diff(values) != 0, [True]))
    f1 = np.where(last, 2 * right / (np.arange(1, len(right) + 1) + gold.sum()), -1)
    best = int(np.argmax(f1))
    return float(values[best] if best + 1 == len(values) else (values[best] + values[best + 1]) / 2)


def multi_figures(
    gold: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, labels: Sequence[str]
) -> dict[str, tuple[Results, Metric]]:
    """Mean average precision over the labels that the texts have, micro- and macro-F1 at the thresholds, and average
    precision of each label, of arrays (texts, labels)."""
    require_finite_scores(scores)
    ranked = Results(gold, np.stack([ranks(column) for column in scores.T], axis=1))
    decided = Results(gold, scores >= thresholds)
    found: dict[str, tuple[Results, Metric]] = {"mean_ap": (ranked, mean_ap), "micro_f1": (decided, micro_f1)}
    found["macro_f1"] = decided, macro_f1_of_labels
    there = [(place, name) for place, name in enumerate(labels) if gold[:, place].any()]
    return found | {f"ap {name}": (ranked, partial(_label_ap, number=place)) for place, name in there}


def ranks(scores: np.ndarray) -> np.ndarray:
    """The places of scores (n,), equal ones at one: so the answers of two models can be exchanged item by item."""
    return np.unique(scores, return_inverse=True)[1].reshape(-1)


def require_finite_scores(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise UserError("scores-not-finite", "Scores of the model are NaN or infinite.", "Train it with a lower rate.")


def mean_ap(results: Results) -> float:
    """Over the labels that one of the texts has."""
    values = [_label_ap(results, place) for place in range(results.gold.shape[1])]
    return float(np.mean([value for value in values if not np.isnan(value)] or [0.0]))


def _label_ap(results: Results, number: int) -> float:
    return average_precision(results.gold[:, number], results.given[:, number])


def _f1_of(results: Results, axis: int | None) -> np.ndarray:
    right = (results.gold & results.given).sum(axis=axis)
    total = results.gold.sum(axis=axis) + results.given.sum(axis=axis)
    return np.where(total > 0, 2 * right / np.maximum(total, 1), np.nan)


def micro_f1(results: Results) -> float:
    return float(np.nan_to_num(_f1_of(results, None)))


def macro_f1_of_labels(results: Results) -> float:
    """Over the labels that a text has or was given."""
    values = _f1_of(results, 0)
    return float(np.mean(values[~np.isnan(values)])) if (~np.isnan(values)).any() else 0.0


def single_floors(test: Sequence[Example], train: Sequence[Example], seed: int) -> dict[str, list[str]]:
    """{rule: the label of each test text}: always the commonest of the training texts, and words weighted by TF-IDF
    with logistic regression, which without training texts learns from the other four fifths of the test texts."""
    common = commonest([one.labels[0] for one in train or test])
    told = np.full(len(test), common, object)
    folds = np.array([0] * len(test) if train else fold_of([one.labels[0] for one in test]))
    for fold in np.unique(folds).tolist():
        rest = train or [one for one, of in zip(test, folds, strict=True) if of != fold]
        known = {one.labels[0] for one in rest} or {common}
        if len(known) == 1:
            told[folds == fold] = min(known)
            continue
        model = word_model(seed).fit([one.text for one in rest], [one.labels[0] for one in rest])
        told[folds == fold] = model.predict([test[place].text for place in np.flatnonzero(folds == fold)])
    return {f"always {common}": [common] * len(test), "TF-IDF words": list(map(str, told))}


def fold_of(labels: Sequence[str]) -> list[int]:
    """The fold of each text: of each label a fifth, in order, so that neighbours mostly stay together and a file in the
    order of its labels has all of them in each fold. One text of a label alone is never learnt before it is asked."""
    counts, seen, found = Counter(labels), Counter[str](), []
    for label in labels:
        found.append(seen[label] * FOLDS // counts[label])
        seen[label] += 1
    return found


def rare_note(texts: Sequence[Example]) -> str:
    """A sentence about labels that are not in every fold, "" where there are none."""
    counts = Counter(label for one in texts for label in one.labels)
    rare = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items()) if count < FOLDS)
    return f"labels of fewer than {FOLDS} texts, for which floors learn from the others: {rare}" if rare else ""


def multi_floors(
    test: Sequence[Example], train: Sequence[Example], labels: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
    """{rule: scores (texts, labels)}: how often each label is, and words weighted by TF-IDF with logistic regression;
    without training texts both learn from the other four fifths of the test texts."""
    share = as_matrix(train or test, labels).mean(axis=0)
    found = {"how often a label is": np.tile(share, (len(test), 1)), "TF-IDF words": np.tile(share, (len(test), 1))}
    for fold in range(1 if train else FOLDS):
        places = np.array([place for place in range(len(test)) if train or place * FOLDS // len(test) == fold], int)
        held = set(places.tolist())
        rest = list(train) or [one for place, one in enumerate(test) if place not in held]
        if not len(places) or not rest:
            continue
        gold, texts = as_matrix(rest, labels), [test[place].text for place in places]
        for column in range(len(labels)):
            if 0 < gold[:, column].sum() < len(rest):
                model = word_model(seed).fit([one.text for one in rest], gold[:, column])
                found["TF-IDF words"][places, column] = model.predict_proba(texts)[:, 1]
    return found


def word_model(seed: int) -> "Pipeline":
    """Words and pairs of words, weighted by TF-IDF, with balanced logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    return make_pipeline(words, LogisticRegression(max_iter=1000, class_weight="balanced", random_state=seed))
