"""Open questions: the answer is a number, a formula or a phrase, equal to the right one as text or as mathematics."""

from collections.abc import Sequence

from nsllm_lite.tasks.answers import is_equal, parse_result
from nsllm_lite.tasks.floors import majority
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.task import Task, TaskSet


class Open(Task):
    question_kind = "open"

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        return parse_result(text)

    def compare(self, answer: str, item: Item) -> float:
        return float(is_equal(answer, item.answer))

    def floors(self, asked: TaskSet, seed: int) -> dict[str, dict[str, float]]:
        return {"commonest answer": {"accuracy": majority([item.answer for item in asked.items])}}


TASK = Open(
    name="open",
    version=5,
    title="Open questions",
    instruction="Answer the question with the result alone: a number, a formula or a few words.",
    lead="Question",
    cue="Answer",
    shots=4,
    new_tokens=64,
    chat_tokens=2048,
)
