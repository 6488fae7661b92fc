"""What encoders are scored on: the files of a recipe, read and checked, with what their floors learn from."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.artifact.json_files import read_object, sha256_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import counted
from nsllm_lite.recipe.evals import LABELLED, Eval, TaskFile
from nsllm_lite.retrieval.sets import Judged, RetrievalSet, read_retrieval
from nsllm_lite.tasks import classes, heads
from nsllm_lite.tasks.pairs import require_both

RETRIEVAL = "retrieval"
LEARNT = ("ner", LABELLED, "multilabel")  # tasks with floors that learn from training items
SPLIT = re.compile(r"(?<![A-Za-z])(test|development|devel|dev|validation|valid|val)(?![A-Za-z])")


class EncoderSet(NamedTuple):
    """Items of one file, of retrieval the `collection`; `train` are those that floors learn from."""

    name: str
    task: str
    items: Sequence[Any]
    train: Sequence[Any]
    collection: RetrievalSet | None
    notes: list[str]
    sha256: str

    @property
    def num_items(self) -> int:
        return len(self.collection.test.ids) if self.collection else len(self.items)


def read_set(file: TaskFile, recipe: Eval) -> EncoderSet:
    """Raises UserError where the file does not fit its task."""
    path = Path(file.path)
    if file.task == RETRIEVAL:
        found = read_retrieval(path)
        if recipe.max_items:
            found = _fewer_queries(found, recipe.max_items)
        return EncoderSet(file.name, RETRIEVAL, (), (), found, list(found.notes), found.sha256)
    task = file.task
    if task == LABELLED and heads.READERS[LABELLED](path).multi:
        task = "multilabel"
    read = heads.read_items(task, path)
    if task == "pair":
        require_both(read.items, path)
    notes, train, digests = list(read.notes), (), [read.sha256]
    if beside := Path(file.shots) if file.shots else training_file(path):
        learnt = heads.read_items(task, beside)
        train, digests = learnt.items, [*digests, learnt.sha256]
        notes += [f"floors learn from {beside}"] * (task in LEARNT) + [
            f"{beside.name}: {note}" for note in learnt.notes
        ]
        notes += _shared(task, read.items, train)
    elif task in LEARNT:
        notes.append("there is no training file: floors learn from the other four fifths of these items")
        if task == LABELLED and (note := classes.rare_note(read.items)):
            notes.append(note)
    items = read.items
    if recipe.max_items and len(items) > recipe.max_items:
        items = tuple(items[place] for place in spread(len(items), recipe.max_items))
        notes.append(f"{len(items):,} of {len(read.items):,} items, spread evenly over the file")
    return EncoderSet(file.name, task, items, train, None, notes, sha256_json([task, *digests]))


def training_file(path: Path) -> Path | None:
    """The training file beside a test file: train.txt beside test.txt, en.train.txt beside en.val.txt."""
    name = SPLIT.sub("train", path.name, count=1)
    beside = path.with_name(name)
    return beside if name != path.name and beside.is_file() else None


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` places, spread evenly over `total`."""
    return np.linspace(0, total - 1, min(wanted, total)).astype(int).tolist()


def kind_of(folder: Path) -> str:
    """The task that a model's folder is for: that of finetune.json or of its head, else retrieval."""
    from nsllm_lite.models.head_settings import ABOUT, task_of  # with torch

    if (folder / ABOUT).is_file():
        return read_object(folder / ABOUT, task=str)["task"]
    config = read_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    return task_of(config) or RETRIEVAL


def require_matches(models: dict[str, Path], sets: Sequence[EncoderSet]) -> None:
    """Raises UserError where a model is for no file, or a file for no model."""
    kinds = {name: kind_of(folder) for name, folder in models.items()}
    asked = {one.name: one.task for one in sets}
    if idle := [f"{name} ({kind})" for name, kind in kinds.items() if kind not in asked.values()]:
        found = f"Models whose task no file is of: {counted(idle)}."
        needed = f"The files are for {', '.join(sorted(set(asked.values())))}."
        todo = "Give a --file of that task, or train a head for it with nsllm-lite finetune."
        raise UserError("eval-model-without-file", found, needed, todo)
    if idle := [f"{name} ({task})" for name, task in asked.items() if task not in kinds.values()]:
        found = f"Files of a task that no model is for: {counted(idle)}."
        needed = f"The models are for {', '.join(sorted(set(kinds.values())))}."
        todo = "Name a model of that task, which nsllm-lite finetune trains."
        raise UserError("eval-file-without-model", found, needed, todo)


def _fewer_queries(found: RetrievalSet, wanted: int) -> RetrievalSet:
    places = spread(len(found.test.ids), wanted)
    test = Judged(*(tuple(column[place] for place in places) for column in found.test))
    note = f"{len(places):,} of {len(found.test.ids):,} queries, spread evenly; all documents"
    return replace(found, test=test, notes=(*found.notes, note))


def _shared(task: str, items: Sequence[Any], train: Sequence[Any]) -> list[str]:
    """A sentence about test items whose text stands in the training file too."""
    known = set(_texts(task, train))
    shared = sum(text in known for text in _texts(task, items))
    return [f"{shared:,} of {len(items):,} items have a text that the training file has too"] if shared else []


def _texts(task: str, items: Sequence[Any]) -> list[tuple[str, str]]:
    given = heads.given(task, items)
    return list(zip(given.texts, given.seconds or [""] * len(items), strict=True))
