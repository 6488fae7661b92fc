"""`nsllm-lite tasks`: instruction files {id, document, instruction, input, output} made from a finished corpus, and
from files of gold answers (gold_files.py).

Each task of `recipe.evals.TASKS` says which items it makes of a paper, or of a question about one;
those of `moves` also state which of its abstract's `sentences` the `sentence` is, from 1.
All items of one paper are in one split: test where the corpus holds the paper out of training, else train. A paper that
the corpus dropped (a duplicate, or too similar to a held-out one) is in neither.
"""

import hashlib
import heapq
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.step import begin, finish, finished, manifest_sha256
from nsllm_lite.errors import UserError
from nsllm_lite.evals.gold_files import as_lines, gold_paths, read_gold_files
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import TASKS, Tasks
from nsllm_lite.recipe.kinds import gold_key
from nsllm_lite.tasks.from_papers import document_items, question_files, read_questions
from nsllm_lite.tasks.labels import MAX_LABELS
from nsllm_lite.tasks.task import all_tasks
from nsllm_lite.terminal import as_text

SPLITS = ("train", "test")


def disciplines_of(papers: CorpusPapers) -> list[str]:
    """The commonest MAX_LABELS disciplines, in alphabetic order; none where all papers have the same."""
    counts: Counter[str] = Counter()
    for file in sorted(papers.documents.glob("*.parquet")):
        table = pq.read_table(file, columns=["source", "discipline"])
        for row in table.group_by(["source", "discipline"]).aggregate([("source", "count")]).to_pylist():
            if row["source"] in papers.sources and row["discipline"]:
                counts[row["discipline"]] += row["source_count"]
    ranked = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_LABELS]
    return sorted(ranked) if len(ranked) > 1 else []


class HashSample:
    """At most `most` items of one task and split, those with the smallest hash of (seed, id), in order of arrival."""

    def __init__(self, most: int, seed: int):
        self._most, self._seed = most, seed
        self._heap: list[tuple[int, int, dict[str, Any]]] = []  # (-hash, place of arrival, item): the worst first
        self.num_seen = 0

    def add(self, item: dict[str, Any]) -> None:
        key = hashlib.blake2b(f"{self._seed} {item['id']}".encode(), digest_size=8).digest()
        entry = (-int.from_bytes(key, "big"), self.num_seen, item)
        self.num_seen += 1
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[dict[str, Any]]:
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[1])]


def make_tasks(recipe: Tasks) -> dict[str, Any]:
    """Writes OUT/{train,test}/TASK.jsonl; returns the manifest's results, in which every item is accounted for. Raises
    UserError where there is no finished corpus, a file of questions or of gold is wrong, or no task can be made."""
    started, out = time.time(), Path(recipe.out)
    papers = CorpusPapers(Path(recipe.corpus)) if recipe.corpus else None
    files, paths = question_files(recipe.questions), gold_paths(recipe.gold)
    questions = [question for path in files for question in read_questions(path)]
    identity = recipes.identity(recipe)
    inputs = {"corpus": manifest_sha256(Path(recipe.corpus))} if recipe.corpus else {}
    inputs |= {f"questions:{path.name}": integrity.sha256_file(path) for path in files}
    inputs |= {gold_key(*about): integrity.sha256_file(path) for about, path in paths.items()}
    if (results := finished(out, identity, inputs)) is not None:
        return results
    gold = read_gold_files(paths)
    begin(out, identity, inputs)
    names = [name for name in all_tasks() if name in gold.left_out or (papers and name in TASKS)]
    chosen = {(task, split): HashSample(recipe.max_per_task, recipe.seed) for task in names for split in SPLITS}
    left_out = {task: gold.left_out.get(task, Counter()) for task in names}
    disciplines = disciplines_of(papers) if papers else []
    if papers:
        _take_papers(papers, questions, disciplines, recipe, chosen, left_out)
    for key, items in gold.items.items():
        for item in items:
            chosen[key].add(item)

    tasks = {}
    for task in names:
        items = {split: chosen[task, split].items() for split in SPLITS}
        surplus = sum(chosen[task, split].num_seen - len(items[split]) for split in SPLITS)
        reasons = dict(sorted(left_out[task].items())) | ({"max_per_task": surplus} if surplus else {})
        tasks[task] = {split: len(items[split]) for split in SPLITS} | {"left_out": reasons}
        if task in gold.repaired:
            tasks[task]["repaired"] = dict(sorted(gold.repaired[task].items()))
        for split in SPLITS:
            lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items[split])
            path = out / split / f"{task}.jsonl"
            path.unlink(missing_ok=True)
            if lines:
                write_atomic(path, lines)
    if gold.lines:
        write_atomic(out / "gold.jsonl", as_lines(gold))
    print(words_of(tasks))
    if gold.lines:
        print(f"{out}/gold.jsonl: each answer that was repaired or left out, with its line")
    if recipe.gold:
        print(f"Scores: nsllm-lite eval MODEL --tasks {out}")
    if not any(counts[split] for counts in tasks.values() for split in SPLITS):
        found = f"No task can be made from {recipe.corpus}: its papers have no titles, disciplines, moves or questions."
        needed = "Needed are papers with titles and abstracts."
        raise UserError("tasks-none-made", found, needed, "Look at its ledger.json.")
    results = {"tasks": tasks, "disciplines": disciplines}
    finish(out, "tasks", identity, inputs, results, started)
    return results


def _take_papers(
    papers: CorpusPapers, questions: list[tuple[str, dict]], disciplines: list[str], recipe: Tasks,
    chosen: dict[tuple[str, str], HashSample], left_out: dict[str, Counter[str]],
) -> None:  # fmt: skip
    """Adds the items of a corpus's papers, and of questions about them."""
    splits: dict[str, str] = {}
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


def words_of(tasks: dict[str, dict]) -> str:
    """The counts as a table; a task without items is absent, with the reason."""
    lines = []
    for task, counts in tasks.items():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts["left_out"].items())
        if not counts["train"] + counts["test"]:
            reasons = f"absent: {reasons or 'there are no questions'}"
        lines.append((task, f"{counts['train']:,}", f"{counts['test']:,}", reasons))
    table = as_text(("task", "train", "test", "left out"), lines, right=("train", "test"))
    repairs = {task: counts["repaired"] for task, counts in tasks.items() if counts.get("repaired")}
    told = ("; ".join(f"{rule}: {count:,}" for rule, count in rules.items()) for rules in repairs.values())
    return "\n".join(
        [table, *(f"{task}: gold answers repaired: {words}" for task, words in zip(repairs, told, strict=True))]
    )
