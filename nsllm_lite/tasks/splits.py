"""`nsllm-lite tasks`: instruction files {id, document, instruction, input, output} made from a finished corpus.

    classification   abstract -> discipline         moves   sentence of an abstract -> its move
    title            abstract -> title              paper_title   text of a paper -> its title
    multiple_choice, open   questions written about the corpus's papers

All that is made of one paper stands in one split: test where the corpus held the paper out of training, else train. A
paper that the corpus dropped (a duplicate, or too near to a held-out one) is in neither.
"""

import hashlib
import heapq
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsllm_lite import intact, run
from nsllm_lite import recipe as recipes
from nsllm_lite.document import Document, read_documents
from nsllm_lite.errors import UserError

SPLITS = ("train", "test")
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


class Made(NamedTuple):
    """An item or, where `reason` is not empty, why there is none."""

    item: dict[str, str] | None
    reason: str = ""


# ------------------------------------------------------------------------------------------- items of one document


def document_items(document: Document, disciplines: list[str], max_paper_chars: int) -> dict[str, list[Made]]:
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
            Made(None, "no abstract") if not document.abstract
            else Made(None, "no discipline") if not document.discipline
            else Made(None, "all have the same discipline") if not disciplines
            else Made(None, f"not one of the {MAX_LABELS} commonest disciplines")
            if document.discipline not in disciplines
            else Made(classification)
        ],
        "moves": _move_items(document, item),
        "title": [_titled(document, item("title", TITLE, document.abstract, document.title), "no abstract")],
        "paper_title": [_titled(document, item("paper_title", PAPER_TITLE, text, document.title), "no sections")],
    }  # fmt: skip


def _titled(document: Document, item: dict[str, str], reason: str) -> Made:
    if not document.title:
        return Made(None, "no title")
    return Made(item) if item["input"] else Made(None, reason)


def _move_items(document: Document, item: Any) -> list[Made]:
    if not document.moves:
        return [Made(None, "no moves")]
    instruction, made = MOVE.format(labels=", ".join(MOVES)), []
    for label, text in document.moves:
        move = move_of(label)
        for sentence in SENTENCE_END.split(text.strip()):
            name = f"moves/{len(made) + 1}"
            made.append(Made(item(name, instruction, sentence, move)) if move else Made(None, "another heading"))
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
        UserError: a line is no such question.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            try:
                yield question_item(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
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


# ----------------------------------------------------------------------------------------------------- the corpus


class Papers:
    """The papers of a finished corpus by split, general text left out.

    Raises:
        UserError: the folder holds no finished corpus.
    """

    def __init__(self, folder: Path):
        manifest = run.read_manifest(folder)
        if manifest is None or manifest["verb"] != "corpus":
            raise UserError(
                "tasks-no-corpus",
                f"No finished corpus at {folder}.",
                "Tasks are made from what `nsllm-lite corpus` wrote.",
                "Run it first, or name its folder with corpus=DIR.",
            )
        intact.require_intact(folder)
        intact.require_intact(folder / "documents")
        self._documents = folder / "documents"
        self._sources = {source["name"] for source in manifest["recipe"]["sources"]}
        ledger = pq.read_table(folder / "ledger.parquet", columns=["id", "phase", "outcome"])
        held = ledger.filter(pc.and_(pc.equal(ledger["outcome"], "heldout"), pc.not_equal(ledger["phase"], "general")))
        self._held = set(held["id"].to_pylist())

    def split(self, name: str) -> str:
        return "test" if name in self._held else "train"

    def __iter__(self) -> Iterator[Document]:
        for document in read_documents(self._documents):
            if document.source in self._sources:
                yield document

    def disciplines(self) -> list[str]:
        """The commonest MAX_LABELS disciplines, in alphabetic order; none where all papers have the same."""
        counts: Counter[str] = Counter()
        for file in sorted(self._documents.glob("*.parquet")):
            table = pq.read_table(file, columns=["source", "discipline"])
            for row in table.group_by(["source", "discipline"]).aggregate([("source", "count")]).to_pylist():
                if row["source"] in self._sources and row["discipline"]:
                    counts[row["discipline"]] += row["source_count"]
        ranked = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_LABELS]
        return sorted(ranked) if len(ranked) > 1 else []


class Chosen:
    """At most `most` items of one task and split, whichever a hash of (seed, id) puts first; in order of arrival."""

    def __init__(self, most: int, seed: int):
        self._most, self._seed = most, seed
        self._heap: list[tuple[int, int, dict[str, str]]] = []  # (-hash, place of arrival, item): the worst first
        self.num_seen = 0

    def add(self, item: dict[str, str]) -> None:
        key = hashlib.blake2b(f"{self._seed} {item['id']}".encode(), digest_size=8).digest()
        entry = (-int.from_bytes(key, "big"), self.num_seen, item)
        self.num_seen += 1
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[dict[str, str]]:
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[1])]


def make_tasks(recipe: recipes.Tasks) -> dict[str, Any]:
    """Writes OUT/{train,test}/TASK.jsonl; returns the manifest's results, in which every item is accounted for.

    Raises:
        UserError: there is no finished corpus, a file of questions is wrong, or no task can be made.
    """
    started, out = time.time(), Path(recipe.out)
    papers, files = Papers(Path(recipe.corpus)), question_files(recipe.questions)
    questions = [question for path in files for question in read_questions(path)]
    identity = recipes.identity(recipe)
    inputs = {"corpus": run.manifest_sha256(Path(recipe.corpus))}
    inputs |= {f"questions:{path.name}": run.sha256_file(path) for path in files}
    if run.is_finished(out, identity, inputs):
        print(f"{out}: finished, skipped")
        return run.read_manifest(out)["results"]
    run.begin(out, identity, inputs)
    chosen = {(task, split): Chosen(recipe.max_per_task, recipe.seed) for task in TASKS for split in SPLITS}
    left_out: dict[str, Counter[str]] = {task: Counter() for task in TASKS}

    disciplines, splits = papers.disciplines(), {}
    about = {item["document"] for _, item in questions}
    for document in papers:
        split = papers.split(document.id)
        if document.id in about:
            splits[document.id] = split
        for task, made in document_items(document, disciplines, recipe.max_paper_chars).items():
            for item, reason in made:
                if item:
                    chosen[task, split].add(item)
                else:
                    left_out[task][reason] += 1
    for task, item in questions:
        if item["document"] in splits:
            chosen[task, splits[item["document"]]].add(item)
        else:
            left_out[task]["its paper is not in this corpus"] += 1

    tasks = {}
    for task in TASKS:
        items = {split: chosen[task, split].items() for split in SPLITS}
        surplus = sum(chosen[task, split].num_seen - len(items[split]) for split in SPLITS)
        reasons = dict(sorted(left_out[task].items())) | ({"max_per_task": surplus} if surplus else {})
        tasks[task] = {split: len(items[split]) for split in SPLITS} | {"left_out": reasons}
        for split in SPLITS:
            lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items[split])
            path = out / split / f"{task}.jsonl"
            path.unlink(missing_ok=True)
            if lines:
                run.write_atomic(path, lines)
    print("\n".join(words_of(tasks)))
    if not any(counts[split] for counts in tasks.values() for split in SPLITS):
        raise UserError(
            "tasks-none-made",
            f"No task can be made from {recipe.corpus}: its papers have no titles, disciplines, moves or questions.",
            "Needed are papers with titles and abstracts.",
            "Look at its ledger.json.",
        )
    results = {"tasks": tasks, "disciplines": disciplines}
    run.finish(out, "tasks", identity, inputs, results, started)
    return results


def words_of(tasks: dict[str, dict]) -> list[str]:
    """The counts as a table; a task without items is said to be absent, and why."""
    lines = [f"{'task':<16} {'train':>7} {'test':>7}  left out"]
    for task, counts in tasks.items():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts["left_out"].items())
        if counts["train"] + counts["test"]:
            lines.append(f"{task:<16} {counts['train']:>7,} {counts['test']:>7,}  {reasons}".rstrip())
        else:
            lines.append(f"{task:<16} absent: {reasons or 'there are no questions'}")
    return lines
