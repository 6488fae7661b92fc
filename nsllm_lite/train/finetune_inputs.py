"""What a fine-tuning reads: examples, split by paper, checked before anything starts."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, compress
from pathlib import Path
from typing import Any

import numpy as np

from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.artifact.step import BESIDE
from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import Examples, counted
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, require_savable
from nsllm_lite.formats.weights import fingerprint_settings, fingerprint_weights
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.windows import token_spans
from nsllm_lite.recipe.finetune import Finetune
from nsllm_lite.tasks import entities
from nsllm_lite.tasks.answer_limits import limit_note
from nsllm_lite.tasks.heads import Given, given, labels_in, read_items
from nsllm_lite.tasks.pairs import require_both


@dataclass(frozen=True)
class Split:
    """Items with what the model is given of them; `names` say where each was read."""

    items: list[Any]
    names: list[str]
    given: Given

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Data:
    train: Split
    development: Split
    test: Split | None
    labels: tuple[str, ...]  # that training has
    base_dir: Path
    hashes: dict[str, str | None]
    counts: dict[str, int]
    notes: list[str]

    @property
    def words(self) -> str:
        parts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.counts.items())
        return "\n".join([f"Examples: {parts}", *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True, slots=True)
class Placed:
    """An item with where it was read, the paper it is of ("" where that is not stated), and its text, which tells it
    where it is not; `is_numbered`: the paper is a number of its file, which says nothing of others."""

    item: Any
    name: str
    paper: str
    text: str
    is_numbered: bool


def read_data(recipe: Finetune) -> Data:
    """Opens every input. Raises UserError where one is missing, broken, or does not fit the others."""
    base_dir = resolve_model(recipe.model)
    require_savable(base_dir)
    paths = {"data": [Path(name) for name in recipe.data]}
    paths |= {name: [Path(path)] for name in ("development", "test") if (path := getattr(recipe, name))}
    files = {name: [read_items(recipe.task, path) for path in of] for name, of in paths.items()}
    notes = [f"{file.path}: {note}" for of in files.values() for file in of for note in file.notes]
    hashes: dict[str, str | None] = {"base": fingerprint_weights(base_dir)}
    hashes[f"{BESIDE}base"] = fingerprint_settings(base_dir)
    hashes |= {"data": sha256_json([file.sha256 for file in files["data"]])}
    hashes |= {name: files[name][0].sha256 for name in ("development", "test") if name in files}
    by_file = {name: [placed_in(recipe.task, file) for file in of] for name, of in files.items()}
    placed = {name: [one for file in of for one in file] for name, of in by_file.items()}
    require_apart(placed)
    if "development" not in placed:
        options = recipe.task, recipe.development_share, recipe.seed
        placed["data"], placed["development"] = split_off(by_file["data"], *options)
        how = "by blocks of the file" if recipe.task == "ner" else "text by text"
        bare = [file.path for file, of in zip(files["data"], by_file["data"], strict=True) if is_bare(of)]
        notes += [f"{path}: no paper is stated: split {how}" for path in bare]
    if recipe.task == "qa":
        placed["data"] = without_lost(placed["data"], notes)
    splits = {name: _split(recipe.task, of) for name, of in placed.items()}
    train = splits["data"]
    labels = labels_in(recipe.task, train.items)
    require_learnable(recipe, splits, labels)
    notes += [
        note for name in ("development", "test") if name in splits for note in unlike(recipe.task, name, placed, labels)
    ]
    parts = {"training": "data", "development": "development", "test": "test"}
    counts = {part: len(splits[name]) for part, name in parts.items() if name in splits}
    return Data(train, splits["development"], splits.get("test"), labels, base_dir, hashes, counts, notes)


def limit_notes(recipe: Finetune, data: Data) -> list[str]:
    """What answers that are longer than a model may give cost."""
    if recipe.task != "qa":
        return []
    tokens_of = partial(token_spans, load_auto_tokenizer(data.base_dir))
    splits = {"training": data.train, "development": data.development, "test": data.test}
    told = {
        name: limit_note(split.items, tokens_of, recipe.max_answer_tokens, is_scored=name != "training")
        for name, split in splits.items()
        if split
    }
    return [f"{name}: {note}" for name, note in told.items() if note]


def _split(task: str, placed: Sequence[Placed]) -> Split:
    items = [one.item for one in placed]
    return Split(items, [one.name for one in placed], given(task, items))


def placed_in(task: str, file: Examples) -> list[Placed]:
    numbers = [one.paper for one in file.items if one.paper]
    is_numbered = bool(numbers) and all(name.isdigit() and int(name) <= len(file.items) for name in numbers)
    return [
        Placed(
            one,
            f"{file.path}:{getattr(one, 'line', '') or getattr(one, 'id', '') or number}",
            f"{file.path} {one.paper}" if is_numbered and one.paper else one.paper,
            " ".join((one.context if task == "qa" else " ".join(one.words) if task == "ner" else one.text).split()),
            is_numbered,
        )
        for number, one in enumerate(file.items)
    ]  # fmt: skip


def require_apart(placed: dict[str, list[Placed]]) -> None:
    """Raises UserError where two files hold the same paper, or one file is given for two parts."""
    for one, other in combinations(placed, 2):
        named = [{item.paper for item in placed[name] if item.paper and not item.is_numbered} for name in (one, other)]
        if shared := sorted(named[0] & named[1]):
            found = f"{one} and {other} share papers: {counted(shared)}."
            raise UserError("finetune-papers-shared", found, "A score on them would be one of memory.", "Part them.")
        texts = [{item.text for item in placed[name]} for name in (one, other)]
        if texts[0] == texts[1]:
            found = f"{one} and {other} hold the same texts."
            raise UserError("finetune-files-same", found, "A score on them would be one of memory.", "Name another.")


def is_bare(placed: Sequence[Placed]) -> bool:
    """Whether a file states no papers."""
    return not any(one.paper for one in placed)


def split_off(
    files: Sequence[Sequence[Placed]], task: str, share: float, seed: int
) -> tuple[list[Placed], list[Placed]]:
    """(training, development): whole papers, of sentences (ner) of a file that states none a block of the file, as
    neighbours are mostly of one paper; texts that are the same stay on one side. Raises UserError where nothing is left
    on one side."""
    by_block = [task == "ner" and is_bare(of) for of in files]
    stated = [one for of, is_block in zip(files, by_block, strict=True) for one in of if not is_block]
    train, held = by_paper(stated, share, seed)
    for of in compress(files, by_block):
        count = math.ceil(share * len(of))
        first = int(np.random.default_rng(seed).integers(len(of) - count + 1))
        held += of[first : first + count]
        train += [*of[:first], *of[first + count :]]
    known = {one.text for one in held}
    held += [one for one in train if not one.paper and one.text in known]
    train = [one for one in train if one.paper or one.text not in known]
    if not train or not held:
        found = (
            f"{len(train) + len(held):,} examples of {len({one.paper or one.text for one in [*train, *held]}):,} papers"
        )
        found += f" give no development split of {share:g}."
        raise UserError("finetune-no-split", found, "Name a file: development=FILE, or add papers.")
    return train, held


def by_paper(placed: Sequence[Placed], share: float, seed: int) -> tuple[list[Placed], list[Placed]]:
    """(training, development): whole papers, drawn by the hash of their name until there are enough."""
    groups: dict[str, str] = {}  # paper or text -> the one that stands for its group

    def top(key: str) -> str:
        while groups.setdefault(key, key) != key:
            key = groups[key]
        return key

    keys = [(f"paper {one.paper}" if one.paper else f"text {one.text}", f"text {one.text}") for one in placed]
    for key, text in keys:
        groups[top(key)] = top(text)
    of = [top(key) for key, _ in keys]
    sizes = Counter(of)
    drawn, taken = set(), 0
    for name in sorted(sizes, key=lambda name: hashlib.blake2b(f"{seed} {name}".encode()).digest()):
        if taken >= share * len(placed):
            break
        drawn.add(name)
        taken += sizes[name]
    train = [one for one, name in zip(placed, of, strict=True) if name not in drawn]
    held = [one for one, name in zip(placed, of, strict=True) if name in drawn]
    return train, held


def without_lost(placed: Sequence[Placed], notes: list[str]) -> list[Placed]:
    """Those that teach something: an answer that stands nowhere in its context would be taught as none."""

    def is_lost(one: Placed) -> bool:
        return bool(one.item.answers) and all(answer.start < 0 for answer in one.item.answers)

    if lost := [one.name for one in placed if is_lost(one)]:
        notes.append(f"not trained on, as no answer stands in the context: {counted(lost)}")
    return [one for one in placed if not is_lost(one)]


def require_learnable(recipe: Finetune, splits: dict[str, Split], labels: Sequence[str]) -> None:
    """Raises UserError where the training examples cannot teach the task, or a step is larger than all of them."""
    train = splits["data"]
    if recipe.batch_size > len(train):
        found = f"batch_size={recipe.batch_size}, and there are {len(train):,} training examples."
        raise UserError("finetune-batch-large", found, f"Set batch_size={len(train)} or less.")
    least = {"classification": 2, "multilabel": 1, "ner": 3}.get(recipe.task, 0)
    if len(labels) < least:
        found = f"The training examples have {len(labels)} different labels ({', '.join(labels)})."
        raise UserError("finetune-labels-few", found, f"The task {recipe.task} needs {least}.", "Add examples.")
    if recipe.task == "qa" and not any(any(answer.start >= 0 for answer in one.answers) for one in train.items):
        found = "No training question has an answer that stands in its context."
        raise UserError("finetune-no-answers", found, "Add questions with answers, or correct their offsets.")
    for name, split in splits.items():
        if recipe.task == "pair":
            require_both(split.items, name)
        if recipe.task in ("ner", "multilabel") and not label_counts(recipe.task, split.items):
            found = f"{name}: none of {len(split):,} examples has a label."
            raise UserError("finetune-none-labelled", found, "A score needs some.", "Add some, or split otherwise.")


def label_counts(task: str, items: Sequence[Any]) -> Counter[str]:
    """How many items have each label or type."""
    if task == "ner":
        return Counter(kind for one in items for kind in {span[2] for span in entities.entities(one.tags)})
    return Counter(label for one in items for label in one.labels) if task not in ("qa", "pair") else Counter()


def unlike(task: str, name: str, placed: dict[str, list[Placed]], labels: Sequence[str]) -> list[str]:
    """What of a split was seen in training, and what was not, in words."""
    notes = []
    known = {one.text for one in placed["data"]}
    if seen := sum(one.text in known for one in placed[name]):
        notes.append(f"{name}: {seen:,} of {len(placed[name]):,} texts stand in the training examples too")
    held = label_counts(task, [one.item for one in placed[name]])
    lost = {kind: count for kind, count in held.items() if not {kind, f"B-{kind}"} & set(labels)}
    if lost:
        words = ", ".join(f"{label} ({count:,})" for label, count in sorted(lost.items()))
        notes.append(f"{name}: labels that no training example has, counted as not found: {words}")
    return notes
