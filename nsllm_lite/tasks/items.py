"""Evaluation and instruction files: records {instruction, input, output}, as a JSON list or as JSON lines."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, read_records

LETTERS = "ABCDEFGHIJ"
CHOICE = re.compile(r"^\(?([A-J])[).:][:.]?(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Item:
    """One record; `choices` has the options of a multiple-choice question by letter."""

    number: int  # from 0, in its file
    input: str
    output: str
    choices: dict[str, str]
    instruction: str = ""
    document: str = ""  # the paper it was made from, where the file states it
    place: float | None = None  # of a sentence in its abstract, 0 the first and 1 the last, where the file states it

    @property
    def answer(self) -> str:
        """The output without the reasoning before it."""
        return without_thinking(self.output)


def read_items(path: Path) -> list[Item]:
    """The records of a JSON list or of JSON lines; `instruction` may be absent. Raises UserError where the file cannot
    be read, is empty, or a record lacks `input` or `output`."""
    try:
        values = [value for _, value in read_records(path)]
    except (OSError, RecordError) as error:
        found = f"{path} cannot be read ({error})."
        needed = 'Needed is a JSON list, or one JSON object a line, of records {"input": ..., "output": ...}.'
        raise UserError("items-file-unreadable", found, needed, "Correct the path, or the file.") from None
    items = []
    for number, value in enumerate(values):
        fields = [value.get(name) for name in ("input", "output")] if isinstance(value, dict) else [None]
        if not all(isinstance(field, str) for field in fields):
            found = f'{path}: record {number} has no "input" and "output" that are text.'
            raise UserError("items-record-unfit", found, "Correct that record, or remove it.")
        items.append(item_of(value, number))
    if not items:
        raise UserError("items-file-empty", f"{path} holds no records.", "Name a file that has some.")
    return items


def item_of(record: dict, number: int) -> Item:
    """The item of a record that has an input and an output; its place is that of `sentence` among `sentences`."""
    more = (str(record.get(name) or "") for name in ("instruction", "document"))
    sentence, sentences = record.get("sentence"), record.get("sentences")
    is_placed = isinstance(sentence, int) and isinstance(sentences, int) and 1 <= sentence <= sentences
    place = (sentence - 1) / max(sentences - 1, 1) if is_placed else None
    return Item(number, record["input"], record["output"], choices_of(record["input"]), *more, place)


def choices_of(question: str) -> dict[str, str]:
    """The last options A, B, C, ... of a question; empty where there are fewer than two."""
    found = CHOICE.findall(question)
    first = max((place for place, (letter, _) in enumerate(found) if letter == "A"), default=len(found))
    lettered = zip(LETTERS, found[first:], strict=False)  # what follows the last letter is no option
    options = {letter: option.strip() for letter, (stated, option) in lettered if letter == stated}
    return options if len(options) > 1 else {}


def without_thinking(text: str) -> str:
    """The text after a model's reasoning; empty where the reasoning has no end."""
    text = text.rpartition("</think>")[2] if "</think>" in text else text
    return text.partition("<think>")[0].strip()


def plain_prompt(instruction: str, text: str) -> str:
    """The prompt of base models, which have no chat template, in tuning and in evaluation: instruction, text and
    "Answer:" with a line end, blank lines between them; what is empty is left out.

    The line end at its end keeps the prompt's tokens the same with and without an answer after it: no byte-level
    tokenizer merges a line end with the first word of the answer.
    """
    parts = [part.strip() for part in (instruction, text) if part.strip()]
    return "\n\n".join([*parts, "Answer:\n"])


def prompt_key(item: Item) -> tuple[str, str]:
    """Instruction and input in normal form: items with the same key ask the same."""
    return normal(item.instruction), normal(item.input)


def normal(text: str) -> str:
    """Letters and digits of a text, in lower case, with single spaces."""
    return " ".join(re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).lower()).split())
