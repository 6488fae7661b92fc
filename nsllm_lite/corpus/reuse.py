"""What an unfinished build keeps when its recipe or inputs change: the reading of each source that stays the same."""

import shutil
from collections import Counter
from pathlib import Path

from nsllm_lite import __version__
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import Hashes
from nsllm_lite.corpus import shards, shingles
from nsllm_lite.corpus.parts import KEYS
from nsllm_lite.errors import WRITE_ELSEWHERE, UserError
from nsllm_lite.formats.documents import SCHEMA as DOCUMENTS
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Corpus

READ_FIELDS = ("near_duplicate_jaccard", "languages", "decontaminate", "min_chars")
LATER = ("choice.npy", "known.npz", "chosen.json", "near", "heldout", "final", "settled", "packed", "later.json")
MADE = ("tokenizer", "rows", "documents", "dropped.jsonl", "ledger.parquet", "ledger_files.parquet", "ledger.json")
MADE += ("ledger.png", "times.json", integrity.FILES)


def clear(recipe: Corpus, inputs: Hashes) -> None:
    """Removes the files of an unfinished build with other settings or inputs, but for the reading of the same sources.

    Raises:
        UserError: no build was begun in `out`, and files that a build would replace are there.
    """
    out, work = Path(recipe.out), Path(recipe.out, "work")
    read, later = work / "reading.json", work / "later.json"
    if not read.is_file() and not (out / integrity.FILES).is_file():
        strange = [out / name for name in MADE if (out / name).exists()]
        strange += [path for path in work.glob("*") if path.name != "reading.json.part"]
        if strange:
            found = f"{strange[0]} would be replaced, and no corpus build has written it."
            raise UserError("corpus-folder-in-use", found, f"Move it away, or {WRITE_ELSEWHERE}.")
    identity = recipes.identity(recipe)
    reading = _reading(recipe, identity, inputs)
    before = read_json(read) if read.is_file() else {}
    if before != reading:
        write_json(read, {})  # where the rest is cut off, nothing is kept
        _renumber(work, _same_tasks(before, reading))
        write_json(read, reading)
    value = {key: value for key, value in identity.items() if key != "max_drop_share"} | inputs
    if not later.is_file() or recipes.without_paths(read_json(later), Corpus) != recipes.without_paths(value, Corpus):
        _remove(*(work / name for name in LATER), *(out / name for name in MADE))
        write_json(later, value)


def _reading(recipe: Corpus, identity: dict, inputs: Hashes) -> dict:
    """All that the reading stage depends on, source by source; where they lie does not matter, their hashes do."""
    num_tasks = Counter(task.source.name for task in shards.read_tasks(recipe))
    sources = []
    for kind in ("sources", "general"):
        for source in identity[kind]:
            name = source["name"]
            own = {"general": kind == "general", "input": inputs[f"source:{name}"], "tasks": num_tasks[name]}
            sources.append({key: value for key, value in source.items() if key not in ("licence", "path")} | own)
    shared = {key: identity[key] for key in READ_FIELDS}
    return {
        "recipe": shared,
        "input": inputs.get("decontaminate"),
        "version": __version__,
        "fields": [*DOCUMENTS.names, *KEYS.names],  # parts that lack some are read anew
        "hashing": shingles.HASHING,
        "sources": sources,
    }


def _same_tasks(before: dict, now: dict) -> dict[int, int]:
    """{number of a task before: its number now}, of sources that are read alike."""
    if any(before.get(key) != now[key] for key in now if key != "sources"):
        return {}
    same: dict[int, int] = {}
    first_before = 0
    for source in before["sources"]:
        if source in now["sources"]:
            place = now["sources"].index(source)
            first_now = sum(other["tasks"] for other in now["sources"][:place])
            same.update({first_before + n: first_now + n for n in range(source["tasks"])})
        first_before += source["tasks"]
    return same


def _renumber(work: Path, numbers: dict[int, int]) -> None:
    """Leaves in `work` only the parts and answers of these tasks of the reading stage, under their new numbers."""
    old = work / "before"
    _remove(*(path for path in work.glob("*") if path.name not in ("read", "tasks", "reading.json")))
    for name in ("read", "tasks"):
        if numbers and (work / name).is_dir():
            old.mkdir(exist_ok=True)
            (work / name).replace(old / name)
        _remove(work / name)
        (work / name).mkdir(parents=True)
    for before, now in numbers.items():
        try:
            answer = shards.read_answer(old / "tasks" / f"{before:05d}.json")
        except (OSError, UserError):  # not finished, or damaged: it is read again
            continue
        parts = {name: f"{now:05d}{name.removeprefix(f'{before:05d}')}" for name in answer["parts"]}
        for name, new in parts.items():
            if (old / "read" / name).is_dir():  # else `is_done` sees that it is missing
                (old / "read" / name).replace(work / "read" / new)
        answer["parts"] = list(parts.values())
        answer["files"] = {_under(path, parts): entry for path, entry in answer["files"].items()}
        shards.write_answer(work / "tasks" / f"{now:05d}.json", answer)
    _remove(old)


def _under(path: str, parts: dict[str, str]) -> str:
    folder, part, name = path.split("/")
    return f"{folder}/{parts[part]}/{name}"


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
