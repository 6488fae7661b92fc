"""Questions with lettered choices, one of which is right."""

from collections.abc import Sequence

from nsllm_lite.errors import UserError
from nsllm_lite.tasks.floors import commonest
from nsllm_lite.tasks.items import LETTERS, Item, stem_of
from nsllm_lite.tasks.letters import gold_letter, lettered, parse_letter
from nsllm_lite.tasks.task import Task, TaskSet


class MultipleChoice(Task):
    is_ranked = True
    question_kind = "multiple choice"

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        return parse_letter(text, options)

    def options(self, item: Item, labels: Sequence[str]) -> tuple[str, ...]:
        """The letters of its choices."""
        return tuple(item.choices)

    def fitted(self, items: Sequence[Item], where: str) -> tuple[Item, ...]:
        """The items with the letter alone as output. Raises UserError where an item has no choices, or its output names
        none of them."""
        for item in items:
            if gold_letter(item) is None:
                raise UserError(
                    "task-answer-unfit",
                    f"{where}: record {item.number} has the answer {item.answer[:20]!r}, and choices "
                    f"{list(item.choices)}.",
                    f"A question for {self.name!r} lists its choices in lines such as (A): ... or A. ..., and its "
                    "output is the letter of one.",
                    "Correct that record, or name the file for another task.",
                )
        return lettered(items)

    def cloze(self, item: Item, shots: Sequence[Item] = ()) -> tuple[str, tuple[str, ...]]:
        """The form in which small base models answer such questions best: Gu et al., OLMES, arXiv:2406.08446."""
        examples = "".join(f"{self._stem(shot)} {shot.choices[shot.answer]}\n\n" for shot in shots)
        return f"{examples}{self._stem(item)}", tuple(item.choices.values())

    def _stem(self, item: Item) -> str:
        return f"{self.lead}: {stem_of(item.input)}\n{self.cue}:"

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """Always the commonest letter, and the longest choice."""
        common = commonest([item.answer for item in asked.items])
        longest = [max(item.choices, key=lambda letter: len(item.choices[letter])) for item in asked.items]
        return {f"always {common}": [common] * len(longest), "longest choice": longest}

    def of_question(self, record: dict) -> tuple[str, str]:
        if not isinstance(record["choices"], list):
            raise TypeError("choices is no list")  # caught by read_questions
        letters = LETTERS[: len(record["choices"])]
        if record["answer"] not in list(letters):
            found = f"the answer is {record['answer']!r}, the choices are {', '.join(letters)}"
            raise ValueError(found)  # caught by read_questions
        choices = "\n".join(f"({letter}): {choice}" for letter, choice in zip(letters, record["choices"], strict=True))
        return f"{record['question']}\nChoices:\n{choices}", record["answer"]


TASK = MultipleChoice(
    name="multiple_choice",
    version=5,
    title="Multiple choice",
    instruction="Answer the question with the letter of the right choice.",
    lead="Question",
    cue="Answer",
    shots=5,
    new_tokens=8,
    chat_tokens=1024,
)
