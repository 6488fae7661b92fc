"""The six tasks for lm-evaluation-harness: prompts, items, parsing and scores are those of `nsllm-lite eval`.

    lm_eval run --model hf --model_args pretrained=MODEL --tasks nsllm --include_path nsllm_lite/tasks/lm_eval

Other items than the bundled ones come by metadata:

    --metadata '{"tasks": "runs/NAME/tasks"}'                     a folder that `nsllm-lite tasks` wrote
    --metadata '{"files": {"multiple_choice": "MMLU-stem.json"}}' own records {instruction, input, output}
"""

from functools import partial

from datasets import Dataset

from nsllm_lite.errors import UserError
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks import scores
from nsllm_lite.tasks.items import item_of
from nsllm_lite.tasks.sets import BUNDLED, TaskSet, load_sets
from nsllm_lite.tasks.task import TASKS, chat_prompt, instruction_of, options_of, parse, score


def _dataset(task: str, tasks: str = BUNDLED, files: dict[str, str] | None = None, **_: object) -> dict[str, Dataset]:
    """The splits `test` and `shots` of a task, a record an item."""
    own = [{"name": "own", "task": task, "path": files[task]}] if files and task in files else []
    values = {"kind": "eval", "out": "unused", "models": [{"name": "x", "path": "x"}], "seed": 0, "files": own}
    recipe = recipes.validate(values | {"tasks": None if own else tasks}, "metadata")
    found = next((one for one in load_sets(recipe) if one.task.name == task), None)
    if found is None:
        raise UserError(
            "lm-eval-no-items",
            f"{tasks} holds no items for {task!r}.",
            "Give --metadata with `tasks` or `files` that have some.",
        )
    return {"test": Dataset.from_list(_records(found, "items")), "shots": Dataset.from_list(_records(found, "shots"))}


def _records(task_set: TaskSet, which: str) -> list[dict]:
    task = task_set.task
    return [
        {
            "task": task.name,
            "instruction": instruction_of(task, item),
            "input": item.input.strip(),
            "output": item.answer,
            "question": f"{task.lead}: {item.input.strip()}\n{task.cue}:",
            "told": chat_prompt(task, item, task_set.labels),
            "options": list(options_of(item, task_set.labels)),
        }
        for item in getattr(task_set, which)
    ]


classification, moves, title, paper_title, multiple_choice, open_questions = (partial(_dataset, name) for name in TASKS)


def gold(doc: dict) -> int:
    return doc["options"].index(doc["output"])


def of_generated(doc: dict, results: list[str]) -> dict[str, float]:
    """ROUGE-L of a text, equality of a result."""
    task, item = TASKS[doc["task"]], item_of(doc, 0)
    value = score(task, parse(task, results[0], doc["options"]), item)
    return {"rouge_l" if task.kind == "text" else "accuracy": value}


def of_labels(doc: dict, results: list[tuple[float, bool]]) -> dict[str, object]:
    """Accuracy and what macro-F1 is made of."""
    best = max(range(len(results)), key=lambda place: results[place][0])
    return of_letters(doc, results) | {"macro_f1": (doc["output"], doc["options"][best])}


def of_letters(doc: dict, results: list[tuple[float, bool]]) -> dict[str, object]:
    best = max(range(len(results)), key=lambda place: results[place][0])
    return {"accuracy": float(best == gold(doc))}


def macro_f1(pairs: list[tuple[str, str]]) -> float:
    labels = sorted({gold for gold, _ in pairs})
    golds, given = zip(*pairs, strict=True)
    return scores.macro_f1(scores.numbered(golds, given, labels), len(labels))
