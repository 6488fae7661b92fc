"""What a task is: how an item is asked, how its answer is read and scored, and what scores without understanding.

Each task is one file of this folder and one line of a table of `recipe.evals`. A change of any prompt, parser or score
raises the task's version, which stands beside every result.
Source of the six tasks: NSLLM's evaluation files (github.com/hsc748NLP/NSLLM).
"""

import hashlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.evals import CRYSTAL_TASKS, EXTRACTION_TASKS, TASKS, WORD_TASKS
from nsllm_lite.tasks import gold
from nsllm_lite.tasks.gold import GoldItem
from nsllm_lite.tasks.items import Item, read_items
from nsllm_lite.tasks.scores import Metric, Results, mean


class Score(NamedTuple):
    """The score of one answer; `value`, from 0 to 1, can serve as a reward."""

    read: bool  # whether an answer could be read; where not, the value is 0
    value: float
    exact: bool
    parts: dict[str, float]  # by name, the metrics that are means over the items


class Making(NamedTuple):
    """Settings of the items made from papers: the disciplines that are labels, and where a paper's text is cut."""

    disciplines: list[str]
    max_paper_chars: int


class ItemOrReason(NamedTuple):
    """A record of an instruction file or, where `reason` is not empty, why there is none."""

    item: dict[str, Any] | None
    reason: str = ""


@dataclass(frozen=True)
class TaskSet:
    """The items of one task from one place; examples and what floors learn from are taken from `pool`."""

    name: str
    task: "Task"
    items: tuple[Item, ...]
    pool: tuple[Item, ...]
    shots: tuple[Item, ...]
    labels: tuple[str, ...]

    @property
    def has_pool(self) -> bool:
        """Whether the pool is more than the examples, so that floors learn from it and not from the items."""
        return len(self.pool) > self.task.shots

    @property
    def sha256(self) -> str:
        """Identity of what is asked and of what floors learn from: version, items, examples, pool and labels."""
        rows = [
            [(item.instruction, item.input, item.output, item.place) for item in row]
            for row in (self.items, self.shots, self.pool)
        ]
        return sha256_json([self.task.name, self.task.version, rows, self.labels])


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One task. A file of a task makes one, `TASK`, of a subclass that has at least `parse`."""

    name: str
    version: int
    title: str
    instruction: str  # of the records made, and in prompts where an item has none of its own
    lead: str  # before the input, and
    cue: str  # before the answer of a few-shot prompt
    shots: int
    new_tokens: int  # of a generated answer: in a few-shot prompt,
    chat_tokens: int  # and of a chat model, which may reason before it

    metrics: ClassVar[Mapping[str, str]] = {"accuracy": "accuracy"}  # name in results -> in charts; the first is drawn
    details: ClassVar[Mapping[str, str]] = {}  # the same of more figures, which stand in a table of their own
    value_is: ClassVar[str] = "accuracy"  # the metric that is the mean of the items' values
    is_ranked: ClassVar[bool] = False  # whether a few-shot answer is the likeliest of the options, and not generated
    is_prose: ClassVar[bool] = False  # whether BERTScore, where an encoder is given, is a metric too
    is_of_input: ClassVar[bool] = False  # whether items of one input ask the same, whatever their instructions are
    stop: ClassVar[str] = "\n"  # what ends an answer behind a few-shot prompt
    question_kind: ClassVar[str] = ""  # `kind` of the lines of question files that are items of this task

    @abstractmethod
    def parse(self, text: str, options: Sequence[str]) -> str | None:
        """The answer in a generated text; None where there is none, which counts as wrong."""

    def compare(self, answer: str, item: Item) -> float:
        """From 0 to 1, how far an answer is the item's own; here 1 where it is the same text."""
        return float(answer == item.answer)

    def score(self, answer: str | None, item: Item) -> Score:
        """The score of what `parse` returned."""
        value = 0.0 if answer is None else self.compare(answer, item)
        return Score(answer is not None, value, value == 1, {self.value_is: value})

    def results(self, answers: Sequence[str | None], asked: TaskSet) -> dict[str, tuple[Results, Metric]]:
        """{metric: (what it is computed from, item by item, and how)}"""
        scores = [self.score(answer, item) for answer, item in zip(answers, asked.items, strict=True)]
        return {name: (Results(None, np.array([s.parts[name] for s in scores])), mean) for name in self.metrics}

    def figures(self, answers: Sequence[str | None], asked: TaskSet) -> dict[str, float]:
        """{metric: score} of answers to all items."""
        return {name: metric(rows) for name, (rows, metric) in self.results(answers, asked).items()}

    def told(self, texts: Sequence[str], answers: Sequence[str | None], asked: TaskSet, seed: int) -> dict[str, Any]:
        """What stands beside the scores of answers to all items: how the generated texts were read; {}: nothing."""
        return {}

    def floors(self, asked: TaskSet, seed: int) -> dict[str, dict[str, float]]:
        """{rule: {metric: score}} of `rules`."""
        given = self.rules(asked, seed)
        return {rule: self.figures(answers, asked) for rule, answers in given.items() if answers is not None}

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """{rule: its answers to all items} of rules that answer without understanding; None where one does not fit."""
        return {}

    def labels_of(self, items: Sequence[Item]) -> tuple[str, ...]:
        """The labels that all items share; () where answers are no labels. Raises UserError where they are unfit."""
        return ()

    def answer_schema(self, item: Item) -> dict[str, Any] | None:
        """The JSON Schema that an answer must satisfy, keys in the order in which they are written; None where an
        answer is no JSON."""
        return None

    def options(self, item: Item, labels: Sequence[str]) -> tuple[str, ...]:
        """What the item may be answered with; () where that is open."""
        return tuple(labels)

    def fitted(self, items: Sequence[Item], where: str) -> tuple[Item, ...]:
        """The items with their outputs as this task writes them. Raises UserError where one is none of this task."""
        return tuple(items)

    def read_items(self, path: Path) -> list[Item]:
        """The items of a file. Raises UserError where it cannot be read, or a record does not fit."""
        return read_items(path)

    def read_gold(self, path: Path) -> list[GoldItem]:
        """The records of a file of gold answers as others publish them, of which instruction files are made."""
        return gold.read_gold(path)

    def instruction_of(self, item: Item) -> str:
        return item.instruction.strip() or self.instruction

    def question(self, item: Item) -> str:
        return f"{self.lead}: {item.input.strip()}\n{self.cue}:"

    def few_shot_prompt(self, item: Item, shots: Sequence[Item] = ()) -> str:
        """What a base model continues. All that stands before the item itself is the same for all items."""
        examples = "".join(f"{self.question(shot)} {shot.answer}\n\n" for shot in shots)
        return f"{self.instruction_of(item)}\n\n{examples}{self.question(item)}"

    def cloze(self, item: Item, shots: Sequence[Item] = ()) -> tuple[str, tuple[str, ...]] | None:
        """A prompt that does not list the options, and the words of each that may follow it; None where an option has
        no words but its name."""
        return None

    def chat_prompt(self, item: Item, labels: Sequence[str] = ()) -> str:
        """The message to a chat model."""
        prompt = f"{self.instruction_of(item)}\n\n{item.input.strip()}"
        return prompt if item.instruction or not labels else f"{prompt}\n\n{one_of(labels)}"

    def choose_shots(self, pool: Sequence[Item], seed: int) -> list[Item]:
        """Examples for the prompt: each label in turn, where the task has labels; drawn and ordered by a hash. They are
        the same before every item, so that their tokens are computed once."""

        def drawn(item: Item) -> bytes:
            return hashlib.sha256(f"{seed} {item.input}".encode()).digest()

        groups: dict[str, list[Item]] = {}
        for item in sorted(pool, key=drawn):
            groups.setdefault(self.group(item), []).append(item)
        shots: list[Item] = []
        while len(shots) < self.shots and any(groups.values()):
            shots += [items.pop(0) for _, items in sorted(groups.items()) if items]
        return sorted(shots[: self.shots], key=drawn)

    def group(self, item: Item) -> str:
        """Examples are taken from each group in turn."""
        return ""

    def of_paper(self, paper: Document, making: Making) -> Iterable[ItemOrReason]:
        """The items made from one paper, or why there is none; nothing where they are made from questions."""
        return ()

    def of_question(self, record: dict) -> tuple[str, str]:
        """(input, output) of a question of this task's kind; KeyError, TypeError or ValueError where it is unfit."""
        return record["question"], record["answer"]

    def record(self, name: str, document: str, text: str, answer: str, labels: Sequence[str] = ()) -> dict[str, str]:
        """A record of an instruction file."""
        instruction = f"{self.instruction} {one_of(labels)}" if labels else self.instruction
        return {"id": name, "document": document, "instruction": instruction, "input": text, "output": answer}


def one_of(labels: Sequence[str]) -> str:
    return f"Answer with one of: {', '.join(labels)}."


def all_tasks() -> dict[str, Task]:
    """{name: task} in the order of the tables."""
    tables = TASKS | EXTRACTION_TASKS | WORD_TASKS | CRYSTAL_TASKS
    return {name: pkgutil.resolve_name(where) for name, where in tables.items()}
