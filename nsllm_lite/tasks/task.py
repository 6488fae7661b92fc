"""The six tasks of NSLLM's evaluation: how each is asked, which answers it has, and how one is scored.

Source of the tasks: NSLLM's evaluation files (github.com/hsc748NLP/NSLLM). A change of any prompt, parser or score
raises the task's version, which stands beside every result.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nsllm_lite.errors import UserError
from nsllm_lite.tasks import answers, floors
from nsllm_lite.tasks.items import Item

MAX_LABELS = 20


@dataclass(frozen=True, slots=True)
class Task:
    """One task. Its `kind` says what an answer is, and so how it is asked for and scored:

    label   one of the outputs that the file has         macro-F1, accuracy
    letter  the letter of an option of the question      accuracy
    text    a line of text                               ROUGE-L (BERTScore with an encoder)
    answer  a number, formula or phrase                  accuracy, equal as text or as mathematics
    """

    name: str
    version: int
    title: str
    kind: Literal["label", "letter", "text", "answer"]
    instruction: str  # where the file has none of its own
    lead: str
    cue: str
    shots: int
    new_tokens: int  # of a generated answer: in a few-shot prompt; a chat model may reason before it
    chat_tokens: int

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores of this task, the one that stands in charts first."""
        return {"label": ("macro_f1", "accuracy"), "text": ("rouge_l",)}.get(self.kind, ("accuracy",))

    @property
    def is_ranked(self) -> bool:
        """Whether a few-shot answer is the likeliest of a few, and not written out."""
        return self.kind in ("label", "letter")


TASKS = {
    task.name: task
    for task in (
        Task(
            "classification", 1, "Discipline of an abstract", "label",
            "To which discipline does the research in this abstract belong?",
            "Abstract", "Discipline", 5, 16, 512,
        ),
        Task(
            "moves", 1, "Move of an abstract's sentence", "label",
            "Which part of a structured abstract is this sentence: its background, its objective, its methods, its "
            "results or its conclusions?",
            "Sentence", "Part", 10, 16, 512,
        ),
        Task(
            "title", 1, "Title from an abstract", "text",
            "Write the title of the paper that has this abstract.",
            "Abstract", "Title", 3, 64, 512,
        ),
        Task(
            "paper_title", 1, "Title from a paper's text", "text",
            "Write the title of the paper that this text is taken from.",
            "Text", "Title", 2, 64, 512,
        ),
        Task(
            "multiple_choice", 1, "Multiple choice", "letter",
            "Answer the question with the letter of the right choice.",
            "Question", "Answer", 5, 8, 1024,
        ),
        Task(
            "open", 1, "Open questions", "answer",
            "Answer the question with the result alone: a number, a formula or a few words.",
            "Question", "Answer", 4, 64, 2048,
        ),
    )
}  # fmt: skip
"""In the order of NSLLM's radar chart."""


def labels_of(task: Task, items: Sequence[Item]) -> tuple[str, ...]:
    """The labels of a label task: every output that the items have, in order of the alphabet; else nothing.

    Raises:
        UserError: there is but one, or more than 20.
    """
    if task.kind != "label":
        return ()
    labels = tuple(sorted({item.answer for item in items}))
    if not 1 < len(labels) <= MAX_LABELS:
        raise UserError(
            "task-labels-unfit",
            f"{len(labels)} different outputs for the task {task.name!r}, as in {labels[0]!r}.",
            f"A label task has 2 to {MAX_LABELS}.",
            f"Name the file for another task ({', '.join(TASKS)}).",
        )
    return labels


def options_of(item: Item, labels: Sequence[str]) -> tuple[str, ...]:
    """What the item may be answered with: the task's labels, or the letters of its choices."""
    return tuple(labels) or tuple(item.choices)


def require_fit(task: Task, items: Sequence[Item], where: str) -> None:
    """Raises UserError where a multiple-choice item has no choices, or an answer that is none of them."""
    if task.kind != "letter":
        return
    for item in items:
        if item.answer not in item.choices:
            raise UserError(
                "task-answer-unfit",
                f"{where}: record {item.number} has the answer {item.answer[:20]!r}, and choices {list(item.choices)}.",
                f"A question for {task.name!r} lists its choices in lines such as (A): ..., and its output is the "
                "letter of one.",
                "Correct that record, or name the file for another task.",
            )


# -------------------------------------------------------------------------------------------------------- prompts


def few_shot_prompt(task: Task, item: Item, shots: Sequence[Item] = ()) -> str:
    """What a base model is to continue. All that stands before the item itself is the same for all items."""
    asked = "".join(f"{_question(task, shot)} {shot.answer}\n\n" for shot in shots)
    return f"{instruction_of(task, item)}\n\n{asked}{_question(task, item)}"


def chat_prompt(task: Task, item: Item, labels: Sequence[str] = ()) -> str:
    """What a chat model is told."""
    asked = f"{instruction_of(task, item)}\n\n{item.input.strip()}"
    if labels and not item.instruction:
        asked += f"\n\nAnswer with one of: {', '.join(labels)}."
    return asked


def instruction_of(task: Task, item: Item) -> str:
    return item.instruction.strip() or task.instruction


def _question(task: Task, item: Item) -> str:
    return f"{task.lead}: {item.input.strip()}\n{task.cue}:"


def choose_shots(task: Task, pool: Sequence[Item], seed: int) -> list[Item]:
    """Examples for the prompt: of a label task each label in turn, else any; drawn and ordered by a hash.

    The same examples stand before every item, so that their tokens are computed once.
    """

    def drawn(item: Item) -> bytes:
        return hashlib.sha256(f"{seed} {item.input}".encode()).digest()

    by_label: dict[str, list[Item]] = {}
    for item in sorted(pool, key=drawn):
        by_label.setdefault(item.answer if task.kind == "label" else "", []).append(item)
    shots: list[Item] = []
    while len(shots) < task.shots and any(by_label.values()):
        shots += [items.pop(0) for _, items in sorted(by_label.items()) if items]
    return sorted(shots[: task.shots], key=drawn)


# --------------------------------------------------------------------------------------------------------- scores


def parse(task: Task, text: str, options: Sequence[str]) -> str | None:
    """The answer in a generated text; None where there is none, which counts as wrong."""
    if task.kind == "label":
        return answers.parse_label(text, options)
    if task.kind == "letter":
        return answers.parse_letter(text, options)
    if task.kind == "text":
        return answers.parse_line(text)
    return answers.parse_result(text)


def score(task: Task, answer: str | None, item: Item) -> float:
    """1 or 0, or for a text the ROUGE-L F1 with the reference."""
    if answer is None:
        return 0.0
    if task.kind == "text":
        return floors.rouge_l(answer, item.answer)
    if task.kind == "answer":
        return float(answers.is_equal(answer, item.answer))
    return float(answer == item.answer)
