"""Tasks whose answer is one of a few labels, which all items of a file share."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.evals import TASKS
from nsllm_lite.tasks import floors
from nsllm_lite.tasks.answers import label_form, parse_label
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.scores import Metric, Results, macro_f1, mean, numbered
from nsllm_lite.tasks.task import Task, TaskSet

MAX_LABELS = 20


class LabelTask(Task):
    """Scored by macro-F1 and accuracy; few-shot, the answer is the likeliest label."""

    metrics: ClassVar[dict[str, str]] = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
    is_ranked = True

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        return parse_label(text, options)

    def results(self, answers: Sequence[str | None], asked: TaskSet) -> dict[str, tuple[Results, Metric]]:
        rows = numbered([item.answer for item in asked.items], answers, asked.labels)
        return {"macro_f1": (rows, partial(macro_f1, num_labels=len(asked.labels))), "accuracy": (rows, mean)}

    def labels_of(self, items: Sequence[Item]) -> tuple[str, ...]:
        """Every output that the items have, in order. Raises UserError if there is but one, or over MAX_LABELS."""
        labels = tuple(sorted({item.answer for item in items}))
        if not 1 < len(labels) <= MAX_LABELS:
            found = f"{len(labels)} different outputs for the task {self.name!r}, as in {labels[0]!r}."
            needed = f"A label task has 2 to {MAX_LABELS}."
            raise UserError("task-labels-unfit", found, needed, f"Name the file for another task ({', '.join(TASKS)}).")
        by_form: dict[str, str] = {}
        for label in labels:
            if (other := by_form.setdefault(label_form(label), label)) != label:
                found = f"{other!r} and {label!r} are outputs of the task {self.name!r}, and read as one label."
                raise UserError("task-labels-alike", found, "Write both alike, or as different words.")
        return labels

    def group(self, item: Item) -> str:
        return item.answer

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """Always the commonest label, naive Bayes on words, the best rule on the place of a sentence."""
        common = floors.commonest([item.answer for item in asked.items])
        return {
            f"always {common}": [common] * len(asked.items),
            "naive Bayes": _naive_bayes(asked, seed),
            "place in the abstract": _by_place(asked.items),
        }


def _naive_bayes(asked: TaskSet, seed: int) -> list[str] | None:
    """Naive Bayes fitted on the pool; where that is small, on four fifths of the items for the last fifth."""
    texts, answers = [item.input for item in asked.items], [item.answer for item in asked.items]
    known = Counter(item.answer for item in asked.pool)
    if all(known[label] >= floors.FOLDS for label in asked.labels):
        learnt = floors.bayes().fit([item.input for item in asked.pool], [item.answer for item in asked.pool])
        return list(learnt.predict(texts))
    if min(Counter(answers).values()) < floors.FOLDS:
        return None
    return floors.cross_predicted(floors.bayes(), texts, answers, seed)


def _by_place(items: Sequence[Item]) -> list[str] | None:
    """The best rule on the place of a sentence in its abstract; None where a record does not state that place."""
    places, answers = [item.place for item in items], [item.answer for item in items]
    if None in places or len(set(answers)) > floors.MAX_ORDERED:
        return None
    return list(floors.position(places, answers)[1])
