"""Loads task sets, the items that are scored and the few-shot examples: of files, of folders of `nsllm-lite tasks`, or
bundled, made from the sample papers and the questions written about them."""

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.recipe.evals import TASKS, Eval, TaskFile
from nsllm_lite.tasks.from_papers import BUNDLED_QUESTIONS, question_files, read_questions
from nsllm_lite.tasks.items import Item, item_of, normal, prompt_key
from nsllm_lite.tasks.task import Making, Task, TaskSet, all_tasks

BUNDLED = "bundled"
SHOT_PAPERS = ("01", "02")  # of each discipline: few-shot examples come from these papers, test items from the others
MAX_PAPER_CHARS = 3_000  # of the bundled papers
MAX_OWN_SHARE = 0.2  # of the records of a file without `shots`, used as examples


def load_sets(recipe: Eval) -> list[TaskSet]:
    """The sets of a recipe, in the order of the tasks and then of its files. Raises UserError where a folder holds no
    tasks, or a file does not fit its task."""
    found = {name: _found(name, task, recipe.tasks) for name, task in all_tasks().items() if recipe.tasks}
    sets = [
        make_set(name, all_tasks()[name], test, pool, recipe, f"{recipe.tasks}: {name}")
        for name, (test, pool) in found.items() if test
    ]  # fmt: skip
    if any(one.name in TASKS for one in sets):  # a folder of gold answers promises none of these
        for name in (name for name, (test, _) in found.items() if name in TASKS and not test):
            print(f"{all_tasks()[name].title}: no items in {recipe.tasks}, left out")
    if recipe.tasks and not sets:
        needed = "Needed is a folder with test/classification.jsonl and the like."
        todo = "Set `tasks` to `bundled`, or to the folder that `nsllm-lite tasks RECIPE` wrote."
        raise UserError("tasks-folder-empty", f"{recipe.tasks} holds no tasks.", needed, todo)
    if clash := {file.name for file in recipe.files} & {one.name for one in sets}:
        found = f"Own files have the names of tasks: {', '.join(sorted(clash))}."
        raise UserError("eval-file-name-taken", found, "Give them other names in the recipe.")
    return sets + [_own_set(file, recipe) for file in recipe.files]


def _found(name: str, task: Task, where: str) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """(items, pool) of a task in a folder, or bundled; empty where it has none there."""
    if where == BUNDLED:
        return bundled(name)["test"], bundled(name)["train"]
    files = (Path(where) / split / f"{name}.jsonl" for split in ("test", "train"))
    test, pool = (tuple(task.read_items(file)) if file.is_file() else () for file in files)
    return test, pool


@cache
def bundled(task: str) -> dict[str, tuple[Item, ...]]:
    """{"train": items that examples are taken from, "test": all others} of one task."""
    making = Making(sorted({paper.discipline for paper in _papers()}), MAX_PAPER_CHARS)
    records = [item for paper in _papers() for item, _ in all_tasks()[task].of_paper(paper, making) if item]
    for path in question_files([BUNDLED_QUESTIONS]):
        records += [item for name, item in read_questions(path) if name == task]
    found: dict[str, list[Item]] = {"train": [], "test": []}
    for record in records:
        split = "train" if record["document"].endswith(SHOT_PAPERS) else "test"
        found[split].append(item_of(record, len(found[split])))
    return {split: tuple(items) for split, items in found.items()}


@cache
def _papers() -> list[Document]:
    folder = Path(str(resources.files("nsllm_lite") / "sample/papers"))
    return [_paper(json.loads(line)) for path in sorted(folder.glob("*.jsonl")) for line in path.open(encoding="utf-8")]


def _paper(record: dict[str, Any]) -> Document:
    moves = tuple((label, sentence) for label, sentence in record["abstract"])
    abstract = " ".join(sentence for _, sentence in moves)
    sections = tuple(Section(section["heading"], section["text"]) for section in record["sections"])
    known = {name: record[name] for name in ("id", "title", "discipline")}
    return Document(source="sample", origin=record["id"], abstract=abstract, sections=sections, moves=moves, **known)


def _own_set(file: TaskFile, recipe: Eval) -> TaskSet:
    task = all_tasks()[file.task]
    items = tuple(task.read_items(Path(file.path)))
    if file.shots:
        pool = tuple(task.read_items(Path(file.shots)))
        kept = {item.number for item in apart(pool, items, task)}
        if doubled := [item.number for item in pool if item.number not in kept]:
            found = f"{file.shots}: record {doubled[0]} and {len(doubled) - 1} more are in {file.path} too."
            needed = "Examples must be other items than those that are scored."
            raise UserError("eval-examples-scored", found, needed, "Split the data by document.")
    elif (labels := task.labels_of(items)) and set(labels) == {item.answer for item in bundled(file.task)["test"]}:
        pool = tuple(task.choose_shots(apart(bundled(file.task)["train"], items, task), recipe.seed))
    else:
        shots = task.choose_shots(items, recipe.seed)[: int(MAX_OWN_SHARE * len(items))]
        pool = tuple(item for item in items if item in shots)
        if scored := apart(items, pool, task):
            if left := len(items) - len(scored):
                print(
                    f"{file.name}: {left} of its {len(items):,} records are the examples, or equal to one: not scored"
                )
            items = scored
        else:
            pool = ()
    return make_set(file.name, task, items, pool, recipe, file.path)


def apart(pool: Sequence[Item], items: Sequence[Item], task: Task) -> tuple[Item, ...]:
    """What of `pool` shows the answer of none of `items`: it asks something else and has another input or output; of a
    task that asks about its input alone, it has another input."""
    there = set().union(*(_keys(item, task) for item in items))
    return tuple(item for item in pool if there.isdisjoint(_keys(item, task)))


def _keys(item: Item, task: Task) -> set[tuple[str, ...]]:
    text = normal(item.input)
    return {prompt_key(item)} | ({("", text, "" if task.is_of_input else item.answer)} if text else set())


def make_set(
    name: str, task: Task, items: tuple[Item, ...], pool: tuple[Item, ...], recipe: Eval, where: str
) -> TaskSet:
    """A checked set of at most `recipe.max_items` items, spread evenly over the file; none of them is in its pool."""
    items, pool = task.fitted(items, where), task.fitted(pool, where)
    pool, given = apart(pool, items, task), len(pool)
    if len(pool) < given:
        print(f"{name}: {given - len(pool)} of its {given:,} examples are scored too, and left out")
    labels = task.labels_of((*items, *pool))
    if recipe.max_items and len(items) > recipe.max_items:
        items = tuple(items[place] for place in np.linspace(0, len(items) - 1, recipe.max_items).astype(int))
    return TaskSet(name, task, items, pool, tuple(task.choose_shots(pool, recipe.seed)), labels)
