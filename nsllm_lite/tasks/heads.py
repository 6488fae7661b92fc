"""The five tasks of a model with a head, behind one door: reading, what the model is given, scores, floors.

What a model says of the items (`Said`) is by task: the label of each text (classification), probabilities (texts,
labels) (multilabel), the tags of each sentence (ner), (best answer, its score above that of none) (qa), probabilities
(pairs,) (pair).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import Examples, read_labelled, read_pairs
from nsllm_lite.tasks import classes, entities, pairs, spans
from nsllm_lite.tasks.scores import Metric, Results

READERS: dict[str, Callable[[Path], Examples]] = {
    "classification": read_labelled,
    "multilabel": read_labelled,
    "ner": entities.read_entities,
    "qa": spans.read_questions,
    "pair": read_pairs,
}
MAIN = {"classification": "macro_f1", "multilabel": "mean_ap", "ner": "f1", "qa": "f1", "pair": "ap"}
"""The metric by which models are chosen and compared."""

Said = Any
Figures = dict[str, tuple[Results, Metric]]


class Given(NamedTuple):
    """What a model is given of each item; `words` are the characters of each word in its text."""

    texts: list[str]
    seconds: list[str] | None = None
    words: list[list[tuple[int, int]]] | None = None


class Cuts(NamedTuple):
    """Chosen on development items: the least probability of each label, or of a pair that belongs together; by how much
    the score of no answer must lie above the best answer's."""

    thresholds: dict[str, float] | None = None
    no_answer: float = 0.0


def read_items(task: str, path: Path) -> Examples:
    """Raises UserError where the file cannot be read, or has lists of labels where the task has one of a text."""
    found = READERS[task](path)
    if task in ("classification", "multilabel") and found.multi != (task == "multilabel"):
        has, needs = ("labels", "label") if found.multi else ("label", "labels")
        todo = f"Rename the column, or take the task {'multilabel' if found.multi else 'classification'}."
        raise UserError("head-labels-form", f"{path} has `{has}`.", f"The task {task} needs `{needs}`.", todo)
    return found


def given(task: str, items: Sequence[Any]) -> Given:
    if task == "ner":
        return Given([" ".join(one.words) for one in items], words=[_places(one.words) for one in items])
    if task == "qa":
        return Given([one.question for one in items], [one.context for one in items])
    if task == "pair":
        return Given([one.text for one in items], [one.text_pair for one in items])
    return Given([one.text for one in items])


def _places(words: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of words that are joined by blanks."""
    found, start = [], 0
    for word in words:
        found.append((start, start + len(word)))
        start += len(word) + 1
    return found


def labels_in(task: str, items: Sequence[Any]) -> tuple[str, ...]:
    """All classes or tags that a model of these items tells apart, in order; () where it has none. A type of entity has
    both its tags."""
    if task == "ner":
        types = sorted({tag[2:] for one in items for tag in one.tags if tag != "O"})
        return ("O", *(f"{mark}-{kind}" for kind in types for mark in "BI"))
    return tuple(sorted({label for one in items for label in one.labels})) if task not in ("qa", "pair") else ()


def cuts_of(task: str, items: Sequence[Any], said: Said, labels: Sequence[str]) -> Cuts:
    """What is chosen on these development items."""
    if task == "multilabel":
        best = classes.best_thresholds(classes.as_matrix(items, labels), said)
        return Cuts(dict(zip(labels, best.tolist(), strict=True)))
    if task == "pair":
        return Cuts({"related": pairs.best_threshold(items, said)})
    if task == "qa":
        texts, margins = [text for text, _ in said], [-margin for _, margin in said]
        return Cuts(no_answer=spans.best_threshold(items, texts, margins))
    return Cuts()


def figures(task: str, items: Sequence[Any], said: Said, labels: Sequence[str], cuts: Cuts) -> Figures:
    """{metric: (item by item, how it is computed)}, MAIN[task] among them. Labels of items that are none of the model's
    count as not found."""
    if task == "classification":
        known = tuple(sorted({*labels, *(one.labels[0] for one in items)}))
        return classes.single_figures([one.labels[0] for one in items], said, known)
    if task == "multilabel":
        known = tuple(sorted({*labels, *labels_in(task, items)}))  # in one order, so that models can be compared
        probabilities = np.zeros((len(items), len(known)))
        probabilities[:, [known.index(label) for label in labels]] = said
        thresholds = np.array([(cuts.thresholds or {}).get(label, classes.THRESHOLD) for label in known])
        return classes.multi_figures(classes.as_matrix(items, known), probabilities, thresholds, known)
    if task == "ner":
        types = tuple(sorted({tag[2:] for tag in (*labels, *labels_in(task, items)) if tag != "O"}))
        return entities.figures(entities.tallies([one.tags for one in items], said, types), types)
    if task == "qa":
        return spans.figures(items, [text if -margin <= cuts.no_answer else "" for text, margin in said])
    return pairs.figures(items, said, (cuts.thresholds or {}).get("related", classes.THRESHOLD))


def highest(floors: Mapping[str, Figures], metric: str) -> str:
    """The rule with the highest score."""

    def value(rule: str) -> float:
        results, how = floors[rule][metric]
        return how(results)

    return max(floors, key=value)


def floors(
    task: str, items: Sequence[Any], train: Sequence[Any], seed: int, labels: Sequence[str] = ()
) -> dict[str, Figures]:
    """{rule without understanding: its figures}, learnt from the training items. `labels` are those that models know,
    so that both can be compared."""
    labels = tuple(sorted({*labels, *labels_in(task, [*train, *items])}))
    if task == "classification":
        found: dict[str, Said] = dict(classes.single_floors(items, train, seed))
    elif task == "multilabel":
        found = dict(classes.multi_floors(items, train, labels, seed))
    elif task == "ner":
        found = {"dictionary of training entities": entities.dictionary_floor(items, train)}
    elif task == "qa":
        found = {name: [(rule(one), 0.0) for one in items] for name, rule in spans.FLOORS.items()}
    else:
        found = {name: rule(items) for name, rule in pairs.FLOORS.items()}
    return {name: figures(task, items, said, labels, Cuts()) for name, said in found.items()}
