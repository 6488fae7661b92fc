"""The steps of runs, read from what they left on disk, and what each was made from.

A step is a directory that a verb writes. Its inputs are found by the paths in its recipe, and where the manifest has
their hash it is taken again: what was made anew since is said to have changed.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.artifact import manifests
from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import damaged, read_json, sha256_json
from nsllm_lite.artifact.step import manifest_sha256, utc
from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import fingerprint_weights

BEGUN = ("run.json", "merging.json", "work/reading.json")  # what an unfinished train, merge and corpus leave
FINISHED, UNFINISHED, DAMAGED = "finished", "unfinished", "damaged"
AS_USED, CHANGED, ABSENT, UNCHECKED = "as used", "changed since", "not here", "not checked"
MAX_BEHIND = 20  # phases and merges behind one another
LEVELS = 3  # that a step may lie above what it hands on: corpus/rows/phase1/train


@dataclass(frozen=True, slots=True)
class Step:
    """What the files of an output directory tell."""

    folder: Path
    kind: str
    state: str
    recipe: dict[str, Any]
    inputs: dict[str, str | None]
    results: dict[str, Any]
    times: dict[str, Any]

    @property
    def rows(self) -> str:
        """phase1, phase2 or general, of a training on rows of a corpus."""
        path = Path(self.recipe.get("rows") or "")
        return path.parent.name if path.name == "train" else path.name

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to one that is being written, or is none."""
        path, lines = self.folder / "metrics.jsonl", []
        for line in path.read_text(errors="replace").split("\n") if path.is_file() else []:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not manifests.is_line(value):
                break
            lines.append(value)
        return lines

    def tokens(self) -> int | None:
        """Tokens trained on; of a corpus, those to train on."""
        if rows := self.results.get("rows"):
            return sum(found["tokens"] for name, found in rows.items() if name.endswith("/train"))
        metrics = self.metrics() if self.state == UNFINISHED else []
        return metrics[-1]["tokens"] if metrics else self.results.get("tokens")

    def losses(self) -> dict[str, tuple[dict, dict]]:
        """{domain, general or answers: held-out figures before and after}; of an unfinished run, so far."""
        heldout = self.results.get("heldout")
        if self.state == UNFINISHED:
            found = [line["heldout"] for line in self.metrics() if line.get("heldout")]
            heldout = {"before": found[0], "after": found[-1]} if found else None
        if not heldout or "before" not in heldout:
            return {}
        before, after = heldout["before"], heldout["after"]
        both = {name: (before.get(name, {}).get("all"), after[name].get("all")) for name in after}
        return {name: pair for name, pair in both.items() if all(pair)}

    def dates(self) -> tuple[str, str]:
        """When it was started and finished, in UTC; of an unfinished one, when it was first and last written to."""
        if self.times:
            return self.times["started"], self.times["finished"]
        written = [path.stat().st_mtime for path in self.folder.iterdir()]
        return utc(min(written)), utc(max(written))

    def num_bytes(self) -> int:
        files = (Path(here) / name for here, _, names in os.walk(self.folder) for name in names)
        return sum(path.lstat().st_size for path in files if path.exists())


class Input(NamedTuple):
    """One thing a step was made from; `step` is None where no manifest tells who made it."""

    label: str
    path: str
    step: Step | None
    state: str
    words: str = ""


# ---------------------------------------------------------------------------------------------------------- finding


def read_step(folder: Path) -> Step | None:
    """What lies in `folder`; None where no verb wrote it.

    Raises:
        UserError: its manifest is damaged.
    """
    path = folder / "manifest.json"
    manifest = read_json(path) if path.is_file() else None
    if isinstance(manifest, dict) and {"verb", "recipe", "inputs", "results"} <= manifest.keys():
        times = read_json(folder / "times.json") if (folder / "times.json").is_file() else {}
        parts = (manifest["recipe"], manifest["inputs"], manifest["results"], times)
        return _whole(folder, path, manifest["verb"], FINISHED, *parts)
    for path in (folder / name for name in BEGUN):
        begun = read_json(path) if path.is_file() else None
        if isinstance(begun, dict) and {"recipe", "inputs"} <= begun.keys():
            kind = begun["recipe"].get("kind", "corpus") if isinstance(begun["recipe"], dict) else None
            return _whole(folder, path, kind, UNFINISHED, begun["recipe"], begun["inputs"], {}, {})
    return None


def _whole(folder: Path, path: Path, kind: Any, state: str, *parts: Any) -> Step:
    """The step that the file at `path` tells of; UserError where a part of it is not what such a step has."""
    if not isinstance(kind, str):
        raise damaged(path, "it does not tell of which kind it is")
    if wrong := manifests.wrong_in(kind, *parts):
        raise damaged(path, wrong)
    return Step(folder, kind, state, *parts)


def find_steps(root: Path) -> list[Step]:
    """All steps in `root` and below, by run and then by date; a damaged one is among them.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(
            "runs-folder-absent", f"No folder {root}.", "Name one that runs were written to, such as runs or runs/NAME."
        )
    found = []
    for here, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        try:
            step = read_step(Path(here))
        except ValueError:
            step = Step(Path(here), "?", DAMAGED, {}, {}, {}, {})
        found += [step] if step else []
    return sorted(found, key=lambda step: (str(step.folder.parent), *step.dates(), str(step.folder)))


def steps_behind(*folders: str | Path) -> list[Step]:
    """The finished trainings and merges behind local models and adapters, the last one first.

    Empty where nothing is known: a model from elsewhere, or one whose folders are gone or damaged.
    """
    found: list[Step] = []
    waiting = [Path(folder) for folder in folders]
    while waiting and len(found) < MAX_BEHIND:
        folder = waiting.pop(0)
        places = [folder, folder.parent] if folder.name in ("adapter", "model") else [folder]
        step = next(filter(None, map(_finished, places)), None)
        if step is None or step.folder in [known.folder for known in found]:
            continue
        found.append(step)
        adapter = step.recipe.get("adapter")
        adapters = [one["path"] for one in adapter] if isinstance(adapter, list) else [adapter]
        before = (*adapters, step.recipe.get("base"), step.recipe.get("model"))
        waiting += [_here(path, step) or Path(path) for path in before if isinstance(path, str)]
    return found


def corpus_of(step: Step) -> Step | None:
    """The finished corpus that a training's rows lie in, as RUN/corpus/rows/PHASE/train.

    None for a base made of general text, which has seen no paper.
    """
    rows = Path(step.recipe.get("rows") or "")
    here = _here(str(rows.parents[2]), step) if len(rows.parents) > 2 and step.rows != "general" else None
    return _finished(here) if here else None


def corpora_behind(model: str) -> list[Step]:
    """The corpora whose papers a local model, or an adapter, was trained on, the last one first."""
    found = {corpus.folder.resolve(): corpus for step in steps_behind(model) if (corpus := corpus_of(step))}
    return list(found.values())


def _finished(folder: Path) -> Step | None:
    try:
        step = read_step(folder)
    except ValueError:
        return None
    return step if step and step.state == FINISHED else None


def inputs_of(step: Step) -> list[Input]:
    """What a step was made from, the model before the rows."""
    found = []
    for label, path, key, sha256 in named_inputs(step):
        place = _here(path, step)
        maker = _maker(place, step) if place else None
        if place is None:
            state = UNCHECKED if path.startswith("bundled") else ABSENT
        else:
            state = _compare(step.inputs.get(key), place, sha256)
        found.append(Input(label, path, maker, state, _source_words(step, key) if label == "source" else ""))
    return found


def named_inputs(step: Step) -> Iterator[tuple[str, str, str, Callable[[Path], str | None] | None]]:
    """(what it is, its path, the name of its hash in the manifest, how to take that hash)"""
    recipe = step.recipe
    if step.kind == "corpus":
        for source in (*recipe.get("sources", ()), *recipe.get("general", ())):
            yield "source", source["path"], f"source:{source['name']}", None  # dumps are too large to be read again
    if recipe.get("model"):
        yield "model", recipe["model"], "base", fingerprint_weights
    if step.kind == "train":
        yield "rows", recipe["rows"], "rows", _sha256_rows
        if recipe.get("replay"):
            yield "replay", recipe["replay"]["rows"], "replay_rows", _sha256_rows
    if step.kind == "sft":
        for name in recipe["data"]:
            yield "data", name, "data", partial(_sha256_data, recipe["data"], step)
    if step.kind == "merge":
        adapters = recipe["adapter"] if isinstance(recipe["adapter"], list) else [{"path": recipe["adapter"]}]
        for number, adapter in enumerate(adapters, 1):
            yield "adapter", adapter["path"], "adapter" if len(adapters) == 1 else f"adapter {number}", _sha256_adapter
        yield "base", recipe["base"], "base", fingerprint_weights
    if step.kind == "report":
        for name in ("model2", "phase2", "model1", "phase1"):
            yield name, recipe[name], name, manifest_sha256
    if step.kind == "eval":
        for model in recipe["models"]:
            yield model["name"], model["path"], f"model:{model['name']}", fingerprint_weights
        if recipe.get("tasks"):
            yield "tasks", recipe["tasks"], "", None
    if step.kind == "tasks":
        yield "corpus", recipe["corpus"], "corpus", manifest_sha256


def _here(path: str, step: Step) -> Path | None:
    """Where `path` is: recipes are written for the folder that the run was started in, one above the step's."""
    for start in (Path(), *step.folder.resolve().parents):
        if (start / path).exists():
            return start / path
    return None


def _maker(place: Path, step: Step) -> Step | None:
    place, own = place.resolve(), step.folder.resolve()
    for folder in (place, *place.parents[:LEVELS]):
        if folder != own and (found := read_step(folder)):
            return replace(found, folder=folder)
    return None


def _compare(known: str | None, place: Path, sha256: Callable[[Path], str | None] | None) -> str:
    if known is None or sha256 is None:
        return UNCHECKED
    try:
        return AS_USED if sha256(place) == known else CHANGED
    except (ValueError, OSError):
        return CHANGED


def _sha256_rows(place: Path) -> str:
    from nsllm_lite.formats.rows import Rows

    return Rows(place).sha256


def _sha256_adapter(place: Path) -> str:
    return sha256_file(place / "adapter_model.safetensors")


def _sha256_data(names: list[str], step: Step, place: Path) -> str:
    """Of all data files of an instruction tuning, as it takes them."""
    files: list[Path] = []
    for path in (_here(name, step) for name in names):
        if path:
            files += sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl")) if path.is_dir() else [path]
    return sha256_json([sha256_file(path) for path in files])


def _source_words(step: Step, key: str) -> str:
    name = key.removeprefix("source:")
    words = step.results.get("licences", {}).get(name) or "no licence stated"
    counts = step.results.get("documents", {}).get(name)
    return words + (f", {counts['in']:,} records, {counts['kept']:,} kept" if counts else "")
