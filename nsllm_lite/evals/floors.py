"""What stands beside every score: rules that answer without understanding, and the score that nothing can exceed."""

from collections import Counter, defaultdict

import numpy as np

from nsllm_lite.evals.audit import duplicates
from nsllm_lite.tasks import floors, scores
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.sets import TaskSet

MIN_BAYES = 5  # texts of each label that naive Bayes learns from


def floors_of(task_set: TaskSet, seed: int) -> dict[str, dict[str, float]]:
    """{rule: {metric: score}} of what answers without understanding."""
    task, items = task_set.task, task_set.items
    if task.kind == "text":
        rules = floors.TITLE_RULES.items()
        found = {rule: [floors.rouge_l(call(item.input), item.answer) for item in items] for rule, call in rules}
        return {rule: {"rouge_l": float(np.mean(values))} for rule, values in found.items()}
    answers = [item.answer for item in items]
    common = Counter(answers).most_common(1)[0][0]
    rule = "commonest answer" if task.kind == "answer" else f"always {common}"
    given: dict[str, list[str] | None] = {rule: [common] * len(items)}
    if task.kind == "letter":
        given["longest choice"] = [max(item.choices, key=lambda x: len(item.choices[x])) for item in items]
    if task.kind == "label":
        given["naive Bayes"] = _naive_bayes(task_set, seed)
        given["place in the abstract"] = _by_place(items)
    return {
        rule: {
            name: metric(scores.numbered(answers, row, task_set.labels or sorted(set(answers))))
            for name, metric in task_set.metrics().items()
        }
        for rule, row in given.items()
        if row is not None
    }


def _naive_bayes(task_set: TaskSet, seed: int) -> list[str] | None:
    """Naive Bayes fitted on the pool; where that is small, on four fifths of the items for the last fifth."""
    items, counts = task_set.items, Counter(item.answer for item in task_set.pool)
    texts, labels = [item.input for item in items], [item.answer for item in items]
    if all(counts[label] >= MIN_BAYES for label in task_set.labels):
        known = task_set.pool
        classifier = floors.bayes().fit([item.input for item in known], [item.answer for item in known])
        return list(classifier.predict(texts))
    if min(Counter(labels).values()) < floors.FOLDS:
        return None
    return floors.cross_predicted(floors.bayes(), texts, labels, seed)


def _by_place(items: tuple[Item, ...]) -> list[str] | None:
    """The best rule on the place of a sentence among those of its paper; None where papers have but one item."""
    by_document: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        by_document[item.document].append(number)
    labels = [item.answer for item in items]
    if "" in by_document or len(by_document) * 3 > len(items) or len(set(labels)) > floors.MAX_ORDERED:
        return None
    places = np.zeros(len(items))
    for numbers in by_document.values():
        places[numbers] = np.linspace(0, 1, len(numbers))
    return list(floors.position(places.tolist(), labels)[1])


def ceiling_of(task_set: TaskSet) -> float:
    """The accuracy that no model can exceed, because equal inputs have different answers."""
    return duplicates(task_set.items)["ceiling"] if task_set.task.kind != "text" else 1.0
