"""The title of a paper from its abstract."""

from collections.abc import Sequence
from typing import ClassVar

from nsllm_lite.formats.documents import Document
from nsllm_lite.tasks.answers import parse_line, rouge_l
from nsllm_lite.tasks.floors import TITLE_RULES
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.task import ItemOrReason, Making, Task, TaskSet


class TitleTask(Task):
    """Scored by ROUGE-L with the paper's own title."""

    metrics: ClassVar[dict[str, str]] = {"rouge_l": "ROUGE-L"}
    value_is = "rouge_l"
    is_prose = True

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        return parse_line(text)

    def compare(self, answer: str, item: Item) -> float:
        return rouge_l(answer, item.answer)

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """The first sentence, the first words, or what follows "we propose"."""
        return {name: [rule(item.input) for item in asked.items] for name, rule in TITLE_RULES.items()}

    def titled(self, paper: Document, text: str, missing: str) -> list[ItemOrReason]:
        """The item of `text`; `missing` is the reason where that is empty."""
        if reason := "" if paper.title and text else missing if paper.title else "no title":
            return [ItemOrReason(None, reason)]
        return [ItemOrReason(self.record(f"{paper.id}/{self.name}", paper.id, text, paper.title))]


class AbstractTitle(TitleTask):
    def of_paper(self, paper: Document, making: Making) -> list[ItemOrReason]:
        return self.titled(paper, paper.abstract, "no abstract")


TASK = AbstractTitle(
    name="title",
    version=3,
    title="Title from an abstract",
    instruction="Write the title of the paper that has this abstract.",
    lead="Abstract",
    cue="Title",
    shots=3,
    new_tokens=64,
    chat_tokens=512,
)
