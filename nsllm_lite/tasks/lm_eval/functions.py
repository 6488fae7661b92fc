"""The tasks for lm-evaluation-harness: prompts, items, parsing and scores are those of `nsllm-lite eval`.

    lm_eval run --model hf --model_args pretrained=MODEL --tasks nsllm --include_path nsllm_lite/tasks/lm_eval

Other items than the bundled ones come by metadata:

    --metadata '{"tasks": "runs/NAME/tasks"}'                     a folder that `nsllm-lite tasks` wrote
    --metadata '{"files": {"multiple_choice": "MMLU-stem.json"}}' own records {instruction, input, output}

The YAML files beside this one are written by `python docs/harness.py`.
"""

from nsllm_lite.errors import UserError
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks import scores
from nsllm_lite.tasks.items import Item, item_of
from nsllm_lite.tasks.sets import BUNDLED, load_sets
from nsllm_lite.tasks.task import TaskSet, all_tasks


def dataset(task: str, tasks: str = BUNDLED, files: dict[str, str] | None = None, **_: object) -> dict:
    """The splits `test` and `shots` of a task, a record an item."""
    from datasets import Dataset

    own = [{"name": "own", "task": task, "path": files[task]}] if files and task in files else []
    values = {"kind": "eval", "out": "unused", "models": [{"name": "x", "path": "x"}], "seed": 0, "files": own}
    recipe = recipes.validate(values | {"tasks": None if own else tasks}, "metadata")
    found = next((one for one in load_sets(recipe) if one.task.name == task), None)
    if found is None:
        found = f"{tasks} holds no items for {task!r}."
        raise UserError("lm-eval-no-items", found, "Give --metadata with `tasks` or `files` that have some.")
    splits = {"test": found.items, "shots": found.shots}
    return {split: Dataset.from_list([_record(found, item) for item in items]) for split, items in splits.items()}


def _record(task_set: TaskSet, item: Item) -> dict:
    task = task_set.task
    return {
        "task": task.name,
        "instruction": task.instruction_of(item),
        "input": item.input.strip(),
        "output": item.answer,
        "question": task.question(item),
        "options": list(task.options(item, task_set.labels)),
    }


def gold(doc: dict) -> int:
    return doc["options"].index(doc["output"])


def of_generated(doc: dict, results: list[str]) -> dict[str, float]:
    task = all_tasks()[doc["task"]]
    return task.score(task.parse(results[0], doc["options"]), item_of(doc, 0)).parts


def of_ranked(doc: dict, results: list[tuple[float, bool]]) -> dict[str, object]:
    """Accuracy and, of a task that has it, what macro-F1 is made of."""
    task = all_tasks()[doc["task"]]
    answer = doc["options"][max(range(len(results)), key=lambda place: results[place][0])]
    found = task.score(answer, item_of(doc, 0)).parts
    return found | ({"macro_f1": (doc["output"], answer, doc["options"])} if "macro_f1" in task.metrics else {})


def macro_f1(answered: list[tuple[str, str, list[str]]]) -> float:
    """Of (gold, given, labels) of each item; the labels are the same for all."""
    golds, given, (labels, *_) = zip(*answered, strict=True)
    return scores.macro_f1(scores.numbered(golds, given, labels), len(labels))
