"""Items of the tasks made from a paper, and from questions about papers."""

import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.errors import UserError
from nsllm_lite.formats.documents import Document

TASKS = ("classification", "moves", "title", "paper_title", "multiple_choice", "open")
MAX_LABELS = 20  # disciplines that an instruction lists; papers of rarer ones are left out
BUNDLED_QUESTIONS = "bundled:questions"

CLASSIFICATION = "Which discipline does the paper with this abstract belong to? Answer with one of: {labels}."
MOVE = "What does this sentence do in the abstract it is taken from? Answer with one of: {labels}."
TITLE = "Write the title of the paper with this abstract."
PAPER_TITLE = "Write the title of this paper."
MULTIPLE_CHOICE = "Answer the question with the letter of the one right choice."
OPEN = "Answer the question with a number, a formula or a few words."

MOVES = {
    "Background": "background context introduction rationale importance",
    "Objective": "objective objectives aim aims purpose goal goals",
    "Methods": "methods method methodology design procedure|materials and methods|patients and methods|study design",
    "Results": "results result findings|main results|key results",
    "Conclusions": "conclusions conclusion interpretation significance|discussion and conclusions",
}
"""Each move and the headings of structured abstracts that mean it: words, then phrases."""

SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z])")


class ItemOrReason(NamedTuple):
    """An item or, where `reason` is not empty, why there is none."""

    item: dict[str, str] | None
    reason: str = ""


# ------------------------------------------------------------------------------------------- items of one document


def document_items(document: Document, disciplines: list[str], max_paper_chars: int) -> dict[str, list[ItemOrReason]]:
    """{task: items} of a paper for the four tasks of documents; `disciplines` are the labels that are asked for."""

    def item(task: str, instruction: str, text: str, answer: str) -> dict[str, str]:
        values = (f"{document.id}/{task}", document.id, instruction, text, answer)
        return dict(zip(("id", "document", "instruction", "input", "output"), values, strict=True))

    classification = item(
        "classification", CLASSIFICATION.format(labels=", ".join(disciplines)), document.abstract, document.discipline
    )
    text = paper_text(document, max_paper_chars)
    return {
        "classification": [
            ItemOrReason(None, "no abstract") if not document.abstract
            else ItemOrReason(None, "no discipline") if not document.discipline
            else ItemOrReason(None, "all have the same discipline") if not disciplines
            else ItemOrReason(None, f"not one of the {MAX_LABELS} commonest disciplines")
            if document.discipline not in disciplines
            else ItemOrReason(classification)
        ],
        "moves": _move_items(document, item),
        "title": [_titled(document, item("title", TITLE, document.abstract, document.title), "no abstract")],
        "paper_title": [_titled(document, item("paper_title", PAPER_TITLE, text, document.title), "no sections")],
    }  # fmt: skip


def _titled(document: Document, item: dict[str, str], reason: str) -> ItemOrReason:
    if not document.title:
        return ItemOrReason(None, "no title")
    return ItemOrReason(item) if item["input"] else ItemOrReason(None, reason)


def _move_items(document: Document, item: Any) -> list[ItemOrReason]:
    if not document.moves:
        return [ItemOrReason(None, "no moves")]
    instruction, made = MOVE.format(labels=", ".join(MOVES)), []
    for label, text in document.moves:
        move = move_of(label)
        for sentence in SENTENCE_END.split(text.strip()):
            name = f"moves/{len(made) + 1}"
            made.append(
                ItemOrReason(item(name, instruction, sentence, move)) if move else ItemOrReason(None, "another heading")
            )
    return made


def move_of(heading: str) -> str:
    """The move that a heading of a structured abstract means; empty for one that means several, or none."""
    heading = " ".join(heading.lower().strip(" :.").split())
    for move, known in MOVES.items():
        words, *phrases = known.split("|")
        if heading in (*words.split(), *phrases):
            return move
    return ""


def paper_text(document: Document, max_chars: int) -> str:
    """Abstract and sections under their headings, cut at the last paragraph's (or word's) end before `max_chars`.

    Empty where the document has no sections.
    """
    if not any(section.text for section in document.sections):
        return ""
    parts = [document.abstract, *(part for s in document.sections for part in (s.heading, s.text))]
    text = "\n\n".join(part for part in parts if part)
    if len(text) <= max_chars:
        return text
    end = max(text.rfind("\n\n", 0, max_chars + 1), 0) or max(text.rfind(" ", 0, max_chars + 1), 0)
    return text[: end or max_chars].rstrip()


# ------------------------------------------------------------------------------------------------------- questions


def question_files(names: Iterable[str]) -> list[Path]:
    """The files of `names`, each a file of questions or `bundled:questions`.

    Raises:
        UserError: one does not exist.
    """
    files: list[Path] = []
    for name in names:
        if name == BUNDLED_QUESTIONS:
            folder = Path(str(resources.files("nsllm_lite") / "sample" / "questions"))
            files += sorted(folder.glob("*.jsonl"))
        elif Path(name).is_file():
            files.append(Path(name))
        else:
            raise UserError(
                "questions-absent",
                f"No questions at {name}.",
                f"`questions` needs files of JSON lines, or {BUNDLED_QUESTIONS}.",
                "Correct the path, or give questions: [].",
            )
    return files


def read_questions(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(task, item) of each line {id, paper, kind, question, choices, answer}; choices are lettered A, B, C, ...

    Raises:
        UserError: a line is no such question, or no UTF-8.
    """
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            try:
                yield question_item(json.loads(line.decode()))
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                raise UserError(
                    "questions-line-unfit",
                    f"{path}, line {number}: no question ({type(error).__name__}: {error}).",
                    'Needed are id, paper, kind ("multiple choice" or "open"), question and answer, and for multiple '
                    "choice a list of choices and as answer the letter of one.",
                    "Correct the line, or remove it.",
                ) from None


def question_item(record: dict) -> tuple[str, dict[str, str]]:
    """(task, item) of one question; KeyError, TypeError or ValueError where it is none."""
    values = {"id": record["id"], "document": record["paper"]}
    if record["kind"] == "open":
        values |= {"instruction": OPEN, "input": record["question"], "output": record["answer"]}
        task = "open"
    elif record["kind"] == "multiple choice":
        letters = "ABCDEFGHIJ"[: len(record["choices"])]
        if record["answer"] not in list(letters):
            found = f"the answer is {record['answer']!r}, the choices are {', '.join(letters)}"
            raise ValueError(found)  # caught by read_questions
        choices = "\n".join(f"({letter}): {choice}" for letter, choice in zip(letters, record["choices"], strict=True))
        question = f"{record['question']}\nChoices:\n{choices}"
        values |= {"instruction": MULTIPLE_CHOICE, "input": question, "output": record["answer"]}
        task = "multiple_choice"
    else:
        raise ValueError(f"kind is {record['kind']!r}")  # caught by read_questions
    if odd := [name for name, value in values.items() if not isinstance(value, str) or not value.strip()]:
        raise ValueError(f"{', '.join(odd)} is no text")  # caught by read_questions
    return task, values
