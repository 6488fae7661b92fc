"""`nsllm-lite corpus`: from dumps of papers to packed rows, with an account of every record.

The order of stages, each a function from what the one before left on disk:

    join      file by file   papers that a source keeps in two files -> shares of both; mostly there are none
    ingest    task by task   files -> cleaned documents in parts, with the keys of each; unusable records are dropped
    choose    at once        keys -> duplicates, held-out papers, surplus of one kind
    settle    part by part   training documents too near to a held-out one are dropped; the others are written
    pack      task by task   documents -> the texts of each phase -> tokens -> packed rows
    ledger    part by part   what became of each record

A run that was killed continues where its last finished task ended, and so does one whose later settings were changed.
One whose sources were changed reads only these again (see `reuse`).
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from nsllm_lite import terminal
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import require_disk
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.artifact.step import Hashes, finish, finished, read_manifest
from nsllm_lite.corpus import assign, join, ledger, near_heldout, pack, reuse, shards, sources, tokenizer
from nsllm_lite.corpus.encoder import Encoder
from nsllm_lite.corpus.ingest import evaluation_index, ingest
from nsllm_lite.corpus.parts import Part, open_parts
from nsllm_lite.corpus.shards import Stage
from nsllm_lite.corpus.texts.render import RENDER, texts_of
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import RowTotals, finish_rows
from nsllm_lite.formats.tokenizer import chosen_begin_of_text, save_tokenizer
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Corpus, Source

# Bytes on disk for one byte of text, work files among them: 3.6 for abstracts as JSON lines, 0.35 for full text as XML.
# A disk that is certainly too small is refused; if it fills up later, finished tasks are kept.
DISK_FACTOR = 0.35


def build(recipe: Corpus) -> dict:
    """Builds the corpus in `recipe.out` unless it is finished there; returns the results in its manifest.

    Raises:
        UserError: a source that is absent or unreadable, a tokenizer without the end-of-text token, too little disk,
            no document left, or a larger share of dropped records than `max_drop_share`.
        RunError: a worker process died; the same call continues.
    """
    started = time.time()
    inputs = begin(recipe)
    if inputs is None:
        return read_manifest(Path(recipe.out))["results"]
    is_small = _num_bytes(recipe) < shards.SMALL_BYTES
    workers = recipe.execution.workers or (1 if is_small else len(os.sched_getaffinity(0)))
    if (halves := joining(recipe)).tasks:
        shards.run_stage(halves, workers)
    shards.run_stage(reading(recipe), workers)
    choose_at_once(recipe)
    settled = shards.run_stage(settling(recipe), workers)
    prepare_packing(recipe)
    stage = packing(recipe)
    packed = shards.run_stage(stage, 1)  # the tokenizer's own threads take all cores
    return _finish(recipe, inputs, settled, stage, packed, started, workers)


def begin(recipe: Corpus) -> Hashes | None:
    """The hashes of all inputs, with `recipe.out` ready for this build; None where it is finished."""
    out = Path(recipe.out)
    for source in (*recipe.sources, *recipe.general):  # before the long work
        if unread := sources.unreadable(source, source in recipe.general):
            raise _nothing_readable(source, [record[:3] for record in unread])
    inputs = {f"source:{s.name}": sources.sha256_source(s) for s in (*recipe.sources, *recipe.general)}
    if recipe.tokenizer:
        inputs["tokenizer"] = tokenizer.sha256_tokenizer(recipe.tokenizer)
    if recipe.decontaminate:
        inputs["decontaminate"] = evaluation_index(tuple(recipe.decontaminate)).sha256
    if finished(out, recipes.identity(recipe), inputs) is not None:
        shutil.rmtree(out / "work", ignore_errors=True)  # left by a run that was killed before this last step
        return None
    require_disk(out, int(DISK_FACTOR * _num_bytes(recipe)) + 2**25, "the corpus")
    if recipe.tokenizer:  # a wrong tokenizer is refused before the long work
        _frame(recipe, tokenizer.as_saved(recipe.tokenizer))
    reuse.clear(recipe, inputs)
    return inputs


def _num_bytes(recipe: Corpus) -> int:
    return sum(map(sources.bytes_of, (*recipe.sources, *recipe.general)))


def joining(recipe: Corpus) -> Stage:
    work, tasks = Path(recipe.out, "work"), shards.join_tasks(recipe)
    function = partial(join.divide, work / join.FOLDER)
    return Stage("joining", function, tasks, [task.file.num_bytes for task in tasks], work / "halves")


def reading(recipe: Corpus) -> Stage:
    work, tasks = Path(recipe.out, "work"), shards.read_tasks(recipe)
    function = partial(ingest, recipe, work / "read")
    return Stage("reading", function, tasks, [task.num_bytes for task in tasks], work / "tasks")


def choose_at_once(recipe: Corpus) -> None:
    """The one stage that sees all parts: `choose`, and the index of the held-out documents."""
    work = Path(recipe.out, "work")
    stage = reading(recipe)
    answers = [shards.read_answer(answer) for answer in stage.answers()]
    finished = {name for answer in answers for name in answer["parts"]}
    for folder in (work / "read").iterdir():  # left by a killed task
        if folder.name not in finished:
            shutil.rmtree(folder)
    parts = open_parts(work / "read")
    for source in (*recipe.sources, *recipe.general):
        mine = [answer for answer, task in zip(answers, stage.tasks, strict=True) if task.source == source]
        if not sum(answer["documents"] for answer in mine):
            texts = ((p.folder / "dropped.jsonl").read_text(encoding="utf-8") for p in parts if p.source == source.name)
            lines = [json.loads(line) for text in texts for line in text.splitlines()]
            raise _nothing_readable(source, [(line["origin"], line["reason"], line["text"]) for line in lines])
    answer = work / "chosen.json"
    if not shards.is_done(answer):
        choice = assign.choose(recipe, parts)
        np.save(work / "choice.npy", choice)
        near_heldout.save_known(work / "known.npz", parts, choice["outcome"], recipe.min_chars)
        made = [work / "choice.npy", work / "known.npz"]
        shards.write_answer(answer, {"files": integrity.describe_all(work.parent, made)})


def settling(recipe: Corpus) -> Stage:
    work = Path(recipe.out, "work")
    parts = open_parts(work / "read")
    function = partial(near_heldout.settle, recipe, work, Path(recipe.out) / "documents")
    return Stage("settling", function, parts, [part.num_candidates for part in parts], work / "settled")


def prepare_packing(recipe: Corpus) -> None:
    """Prints the counts of the ledger, requires that enough is left, and puts the tokenizer in its place."""
    out, work = Path(recipe.out), Path(recipe.out, "work")
    parts = open_parts(work / "read")
    ledger.write_dropped(out, work, parts)
    summary = ledger.count(work, parts)
    tables = {"all records": summary["documents"], "by language": summary["languages"], **summary["phases"]}
    for title, counts in tables.items():
        if len(counts) > (title == "by language"):
            print(f"\n{title}\n{ledger.table(counts)}")
    _require_enough_left(recipe, summary)
    folder = out / "tokenizer"
    if (folder / "tokenizer.json").is_file():
        integrity.verify(folder)
        return
    made = folder.with_suffix(".part")
    shutil.rmtree(made, ignore_errors=True)
    if recipe.train_tokenizer:
        train = (task for task in _pack_tasks(out, work, parts) if task.split == "train")
        batches = ((task, batch) for task in train for batch in pack.documents_of(task))
        texts = (text for task, b in batches for text in texts_of(task.phase, b, recipe.min_chars).to_pylist())
        if recipe.train_tokenizer.model:
            tokenizer.train_for_encoder(texts, recipe.train_tokenizer.vocab_size, made)
        else:
            tokenizer.train_tokenizer(texts, recipe.train_tokenizer.vocab_size, recipe.end_of_text, made)
    else:
        save_tokenizer(recipe.tokenizer, made)
    integrity.record(made, [path.name for path in made.iterdir()])
    made.replace(folder)


def packing(recipe: Corpus) -> Stage:
    out, work = Path(recipe.out), Path(recipe.out, "work")
    tasks = _pack_tasks(out, work, open_parts(work / "read"))
    folder = out / "tokenizer"
    frame, _ = _frame(recipe, tokenizer.load_tokenizer(str(folder)))
    sha256 = integrity.sha256_file(folder / "tokenizer.json")
    function = partial(_pack_one, out, frame, sha256, recipe.min_chars)
    return Stage("packing", function, tasks, [task.num_chars for task in tasks], work / "packed")


def _frame(recipe: Corpus, opened: Tokenizer) -> tuple[pack.Frame, str]:
    """What surrounds a text in rows, and what chose the tokens that begin it."""
    begin, chosen_by = chosen_begin_of_text(opened, recipe.begin_of_text)
    end = tokenizer.end_of_text_id(opened, recipe.end_of_text)
    return pack.Frame(begin, end, recipe.row_tokens), chosen_by


def _nothing_readable(source: Source, unread: list[tuple[str, str, str]]) -> UserError:
    """`unread` are (origin, reason, message) of its records."""
    reasons = Counter(reason for _, reason, _ in unread)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    first = f"{unread[0][0].removesuffix('#0')}: {unread[0][2]}"
    found = f"Source {source.name!r}: no paper could be read at {source.path} ({counts}; the first: {first})."
    needed = f"Needed: {', '.join(sources.READERS)} files, as `format` {source.format!r} finds them by content."
    return UserError("source-unreadable", found, needed, "Correct `path` or `format`.")


def _pack_tasks(out: Path, work: Path, parts: list[Part]) -> list[pack.PackTask]:
    """Training documents of consecutive parts, a shard or more a task; all held-out ones of a phase in one."""
    tasks: list[pack.PackTask] = []
    for phase, split in product(RENDER, assign.SPLITS):
        folder = out / "documents" if split == "train" else work / "heldout"
        first = len(tasks)
        files, masks, documents, chars = [], [], 0, 0
        mine = [part for part in parts if phase in part.phases]
        for number, part in enumerate(mine):
            outcome = np.load(near_heldout.final_choice(work, part))["outcome"]
            wanted = (outcome == assign.SPLITS[split]) & part.fits(phase)
            written = (assign.KEPT, assign.HELDOUT) if split == "train" else (assign.HELDOUT,)
            files.append(folder / f"{part.name}.parquet")
            masks.append(wanted[np.isin(outcome, written)])
            documents, chars = documents + int(wanted.sum()), chars + int(part.keys["chars"][wanted].sum())
            full = documents >= pack.SHARD_DOCUMENTS or chars >= 4 * pack.SHARD_TOKENS
            if number == len(mine) - 1 or (full and split == "train"):
                tasks.append(pack.PackTask(phase, split, len(tasks) - first, tuple(files), tuple(masks), chars))
                files, masks, documents, chars = [], [], 0, 0
        if len(tasks) == first:
            tasks.append(pack.PackTask(phase, split, 0, (), (), 0))
    return tasks


def _pack_one(out: Path, frame: pack.Frame, sha256: str, min_chars: int, task: pack.PackTask) -> dict:
    encoder = _encoder(out / "tokenizer", sha256)
    rows = out / "rows" / task.phase / task.split
    counts = out / "work" / "packed" / task.phase / task.split
    return pack.pack(task, encoder, frame, min_chars, rows, counts)


@lru_cache(maxsize=1)
def _encoder(folder: Path, sha256: str) -> Encoder:
    """One a process; `sha256` distinguishes two tokenizers that were in the same folder."""
    return Encoder(tokenizer.load_tokenizer(str(folder)))


def _finish(
    recipe: Corpus, inputs: Hashes, settled: list[dict], stage: Stage, packed: list[dict], started: float, workers: int
) -> dict:
    """Writes ledger and manifest and finishes the rows, from the answers of the tasks; `stage` is that of packing."""
    out, work = Path(recipe.out), Path(recipe.out, "work")
    parts = open_parts(work / "read")
    totals, tokens = _finish_rows(recipe, stage.tasks, packed)
    read = reading(recipe)
    answers = [shards.read_answer(answer) for answer in read.answers()]
    by_source = [(task.source.name, answer) for task, answer in zip(read.tasks, answers, strict=True)]
    summary = ledger.write(out, work, parts, tokens, ledger.encodings_of(by_source))
    write_json(out / "ledger.json", summary)
    ledger.draw(summary, out / "ledger.png")
    documents = {Path(name).name: entry for answer in settled for name, entry in answer["files"].items()
                 if Path(name).parent.name == "documents"}  # fmt: skip
    integrity.record(out / "documents", (), documents)
    integrity.record(out, ("ledger.parquet", "ledger_files.parquet", "ledger.json"))
    lost: Counter[str] = Counter()
    stated: dict[str, Counter[str]] = {}
    for part, answer in zip(parts, settled, strict=True):
        lost[part.source] += answer["lost"]
        stated.setdefault(part.source, Counter()).update(answer["stated"])
    results = _results(recipe, by_source, summary, totals, dict(sorted(lost.items())))
    results["stated"] = {source: dict(counts) for source, counts in sorted(stated.items())}
    _print_results(results)
    measured = {"workers": workers, "tokenised_by": sorted({answer["encoder"] for answer in packed})}
    finish(out, "corpus", recipes.identity(recipe), inputs, results, started, measured)
    shutil.rmtree(work)
    return results


def _finish_rows(
    recipe: Corpus, tasks: Sequence[pack.PackTask], packed: list[dict]
) -> tuple[dict[str, RowTotals], ledger.Tokens]:
    """Of each phase and split the rows' totals, and the tokens of each document in order."""
    out, work = Path(recipe.out), Path(recipe.out, "work")
    folder = out / "tokenizer"
    frame, chosen_by = _frame(recipe, tokenizer.load_tokenizer(str(folder)))
    sha256 = integrity.sha256_file(folder / "tokenizer.json")
    totals, tokens = {}, {}
    for phase, split in product(RENDER, assign.SPLITS):
        mine = [n for n, task in enumerate(tasks) if (task.phase, task.split) == (phase, split)]
        made = [shard for n in mine for shard in packed[n]["shards"]]
        empty = RowTotals(recipe.row_tokens, frame.end, sha256, list(frame.begin), chosen_by)
        totals[f"{phase}/{split}"] = finish_rows(out / "rows" / phase / split, made, empty)
        files = [work / "packed" / phase / split / f"tokens-{tasks[n].number:05d}.npy" for n in mine]
        tokens[phase, split] = np.concatenate([np.load(file) for file in files])
    return totals, tokens


def _require_enough_left(recipe: Corpus, summary: dict) -> None:
    """Raises UserError where no paper is left, or more were dropped than the recipe allows; general text is none."""
    counts = ledger.total(summary["documents"][source.name] for source in recipe.sources)
    total, reasons = counts["in"], Counter(counts["dropped"])
    left = counts["kept"] + counts["heldout"]
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    if not left:
        found = f"Every document was dropped: of {total} records none is left ({listed})."
        needed = "Training needs papers with a title and an abstract or experimental sections."
        todo = f"See {recipe.out}/dropped.jsonl for what was found, then correct the sources, or lower `min_chars`."
        raise UserError("corpus-all-dropped", found, needed, todo)
    share = reasons.total() / total
    if share > recipe.max_drop_share:
        limit, enough = recipe.max_drop_share, min(1.0, np.ceil(share * 100) / 100)
        found = f"{share:.1%} of the records were dropped ({reasons.total()} of {total}: {listed}), "
        found += f"more than max_drop_share={limit}."
        todo = f"Look at {recipe.out}/dropped.jsonl; if the drops are right, consent with max_drop_share={enough:.2f}."
        raise UserError("corpus-many-dropped", found, todo)


def _results(
    recipe: Corpus,
    answers: list[tuple[str, dict]],
    summary: dict,
    totals: dict[str, RowTotals],
    lost: dict[str, int],
) -> dict:
    formats: dict[str, set[str]] = {}  # by source, those of its files
    encodings: dict[str, set[str]] = {}  # the same, beside UTF-8
    for source, answer in answers:
        formats.setdefault(source, set()).update(answer["formats"])
        for used in answer["encodings"].values():
            encodings.setdefault(source, set()).update(used)
    rows = {}
    for name, total in totals.items():
        phase, split = name.split("/")
        outcome = "kept" if split == "train" else "heldout"
        counts = summary["phases"][phase].values()
        rows[name] = {
            "documents": sum(c[outcome] for c in counts),
            "chars": sum(c["chars"][outcome] for c in counts),
            "tokens": total.num_tokens,
            "rows": total.num_rows,
            "fill": round(total.fill, 4),
            "source_tokens": total.source_tokens,
        }
        assert total.num_tokens == sum(c["tokens"][outcome] for c in counts), "rows and ledger disagree"
    return {
        "documents": summary["documents"],
        "languages": summary["languages"],
        "phases": summary["phases"],
        "rows": rows,
        "lost_characters": lost,
        "licences": {s.name: s.licence for s in (*recipe.sources, *recipe.general)},
        "formats": {source: sorted(names) for source, names in formats.items()},
        "encodings": {source: sorted(names) for source, names in encodings.items()},
    }


def _print_results(results: dict) -> None:
    """Prints the rows, each source's licence as the recipe states it, and a warning for formats with terms of use."""
    heads = ("rows of", "documents", "tokens", "rows", "fill")
    counted = ((name, row, (f"{row[key]:,}" for key in heads[1:4])) for name, row in results["rows"].items())
    print()
    terminal.table(heads, [(name, *counts, f"{row['fill']:.4f}") for name, row, counts in counted], right=heads[1:])
    print("\nlicences: " + "; ".join(f"{source}: {licence}" for source, licence in results["licences"].items()))
    of_wos = [source for source, formats in results["formats"].items() if "wos" in formats]
    if of_wos:
        print(
            f"{', '.join(of_wos)}: holds Web of Science exports, which are not free to redistribute. Keep documents/ "
            "and rows/ to those who have access."
        )
