"""The bundled task sets: items made from the sample papers, and the questions written about them."""

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.tasks.from_papers import BUNDLED_QUESTIONS, question_files, read_questions
from nsllm_lite.tasks.items import Item, item_of
from nsllm_lite.tasks.task import Making, all_tasks

SHOT_PAPERS = ("01", "02")  # of each discipline: few-shot examples come from these papers, test items from the others
MAX_PAPER_CHARS = 3_000


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
