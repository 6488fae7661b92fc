"""Records of the tasks' instruction files, made from papers and from questions about papers."""

from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from nsllm_lite.errors import UserError
from nsllm_lite.formats.documents import Document
from nsllm_lite.formats.records import RecordError, read_records
from nsllm_lite.tasks.task import ItemOrReason, Making, all_tasks

BUNDLED_QUESTIONS = "bundled:questions"


def document_items(document: Document, disciplines: list[str], max_paper_chars: int) -> dict[str, list[ItemOrReason]]:
    """{task: records} of a paper; `disciplines` are the labels of classification."""
    making = Making(disciplines, max_paper_chars)
    return {name: list(task.of_paper(document, making)) for name, task in all_tasks().items()}


def question_files(names: Iterable[str]) -> list[Path]:
    """The files of `names`, each a file of questions or `bundled:questions`. Raises UserError where one is absent."""
    files: list[Path] = []
    for name in names:
        if name == BUNDLED_QUESTIONS:
            files += sorted(Path(str(resources.files("nsllm_lite") / "sample" / "questions")).glob("*.jsonl"))
        elif Path(name).is_file():
            files.append(Path(name))
        else:
            found = f"No questions at {name}."
            needed = f"`questions` needs files of JSON lines, or {BUNDLED_QUESTIONS}."
            raise UserError("questions-absent", found, needed, "Correct the path, or give questions: [].")
    return files


def read_questions(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(task, record) of each line {id, paper, kind, question, choices, answer}; choices are lettered A, B, C, ...
    Raises UserError where a line is no such question, or no UTF-8."""
    try:
        for line, record in read_records(path):
            try:
                yield question_item(record)
            except (KeyError, TypeError, ValueError) as error:
                raise RecordError(line, error) from None
    except RecordError as error:
        raise UserError(
            "questions-line-unfit",
            f"{path}, {error}: this is no question.",
            'Needed are id, paper, kind ("multiple choice" or "open"), question and answer, and for multiple choice '
            "a list of choices and as answer the letter of one.",
            "Correct the line, or remove it.",
        ) from None


def question_item(record: dict) -> tuple[str, dict[str, str]]:
    """(task, record) of one question; KeyError, TypeError or ValueError where it is none."""
    name, document = record["id"], record["paper"]
    task = next((task for task in all_tasks().values() if task.question_kind == (record["kind"] or None)), None)
    if task is None:
        raise ValueError(f"kind is {record['kind']!r}")  # caught by read_questions
    values = task.record(name, document, *task.of_question(record))
    if odd := [name for name, value in values.items() if not isinstance(value, str) or not value.strip()]:
        raise ValueError(f"{', '.join(odd)} is no text")  # caught by read_questions
    return task.name, values
