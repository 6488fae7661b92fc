"""Gold answers of published files as records of instruction files, for `nsllm-lite tasks`.

The output is written as its task writes answers. What is left out or repaired is counted by task, and listed line by
line in OUT/gold.jsonl. A training record whose question or document is in test is left out too, and so is one whose
text holds a question of test, or is a part of one.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.evals import GoldFiles
from nsllm_lite.tasks.items import normal
from nsllm_lite.tasks.task import all_tasks

BUNDLED = "bundled:"
MIN_LETTERS = 40  # of a text that is looked for within others


class Gold(NamedTuple):
    """Of each task; `lines` are those of gold.jsonl."""

    items: dict[tuple[str, str], list[dict[str, Any]]]  # by (task, split)
    left_out: dict[str, Counter[str]]
    repaired: dict[str, Counter[str]]
    lines: list[dict[str, Any]]


class Asked(NamedTuple):
    """What the test files of a task ask: questions in normal form, and documents."""

    questions: set[str]
    documents: set[str]

    def why_shared(self, item: dict[str, str]) -> tuple[str, str]:
        """(why a training record shows what is asked, what was found); ("", "") where it does not."""
        text = normal(item["input"])
        if text in self.questions:
            return "its question is in test", item["input"][:80]
        if item.get("document") in self.documents:
            return "its document is in test", item["document"]
        if any(_holds(text, other) or _holds(other, text) for other in self.questions):
            return "its question holds one of test, or is a part of one", item["input"][:80]
        return "", ""


def _holds(text: str, part: str) -> bool:
    """Whether words of at least MIN_LETTERS letters and digits stand in a text, both in normal form."""
    return part in text and f" {part} " in f" {text} " and len(part.replace(" ", "")) >= MIN_LETTERS


def gold_paths(recipe: Sequence[GoldFiles]) -> dict[tuple[str, str, int], Path]:
    """{(task, split, number): file}; a path that begins with `bundled:` is within the sample. Raises UserError where a
    file is absent."""
    found = {}
    for one in recipe:
        for split in ("test", "train"):
            for number, name in enumerate(getattr(one, split), 1):
                sample = Path(str(resources.files("nsllm_lite") / "sample"))
                path = sample / name.removeprefix(BUNDLED) if name.startswith(BUNDLED) else Path(name)
                if name.startswith(BUNDLED) and ".." in Path(name.removeprefix(BUNDLED)).parts:
                    raise UserError("gold-outside-sample", f"{name} leads out of the sample.", "Give its own path.")
                if not os.path.isfile(path):
                    raise UserError("gold-absent", f"No file of gold answers at {name}.", "Correct the path.")
                found[one.task, split, number] = path
    return found


def read_gold_files(paths: dict[tuple[str, str, int], Path]) -> Gold:
    """Raises UserError where a file cannot be read, or has no gold answer of its task."""
    tasks = {name for name, _, _ in paths}
    gold = Gold({}, {name: Counter() for name in tasks}, {name: Counter() for name in tasks}, [])
    asked = {name: Asked(set(), set()) for name in tasks}
    for (name, split, number), path in paths.items():  # test before train
        task, test = all_tasks()[name], asked[name]
        kept = gold.items.setdefault((name, split), [])
        for place, one in enumerate(task.read_gold(path), 1):
            about = {"task": name, "split": split, "file": path.name, "line": one.line}
            for rule, times in Counter(one.repairs).items():
                gold.lines.append(about | {"repaired": rule, "times": times})
            gold.repaired[name].update(set(one.repairs))
            reason, what = one.reason, one.what
            if one.item and split == "train":
                reason, what = test.why_shared(one.item)
            if one.item is None or reason:
                gold.left_out[name][reason] += 1
                gold.lines.append(about | {"left_out": reason, "found": what})
                continue
            if split == "test":
                test.questions.add(normal(one.item["input"]))
                test.documents.update(filter(None, [one.item.get("document")]))
            item = {"id": f"{name}/{split}/{number}/{place}"} | one.item
            kept.append(item | {"instruction": one.item["instruction"] or task.instruction})
    return gold


def as_lines(gold: Gold) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in gold.lines)
