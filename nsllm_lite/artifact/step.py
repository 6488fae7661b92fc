"""A step's output folder: begun, finished, or absent.

Every verb writes one folder. Its `manifest.json` is written last, by rename, so a folder without one is unfinished.
Dates and durations are in `times.json` (and a training's in `trainer_log.jsonl`), so that all else is the same byte for
byte when run again.
"""

import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nsllm_lite import __version__
from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import damaged, read_object, write_json, write_sealed
from nsllm_lite.errors import WRITE_ELSEWHERE, UserError
from nsllm_lite.recipe.load import without_paths

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "pyarrow", "numpy")
Hashes = dict[str, str | None]  # of a step's inputs, by label
BESIDE = "beside "  # begins labels of what may change where it lies, such as a chat template beside a model's weights


def read_manifest(out: Path) -> dict | None:
    """The manifest of `out`; None where there is none yet. Raises UserError where it is not what `finish` wrote."""
    path = Path(out) / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_object(path, recipe=dict, inputs=dict, results=dict)
    if not isinstance(manifest.get("verb"), str):
        raise damaged(path, "no verb is named in it")
    return manifest


def manifest_sha256(out: Path) -> str | None:
    """Hash of an input directory's manifest: one link of the lineage. None where it has none (a plain model)."""
    path = Path(out) / "manifest.json"
    return sha256_file(path) if path.is_file() else None


def _changes(recipe: dict, inputs: Hashes, before: dict) -> list[str]:
    """What differs from the recipe and inputs of `before`. Where every hash is known and the same, inputs that lie
    elsewhere now are the same inputs."""
    known, former = before["inputs"], before["recipe"]
    if None not in inputs.values() and all(inputs[key] == known.get(key) for key in inputs):
        recipe, former = without_paths(recipe), without_paths(former)
    former = dict.fromkeys((key for key in recipe if recipe[key] is False), False) | former  # of a version without them
    changed = [f"recipe.{key}" for key in sorted(recipe) if _stated(recipe[key]) != _stated(former.get(key))]
    asked = (key for key in sorted(inputs) if key in known or not key.startswith(BESIDE))  # older runs have none
    return changed + [key for key in asked if inputs[key] != known.get(key)]


def _stated(value: Any) -> Any:
    """Without keys that are None: a recipe of an earlier version says the same without them."""
    if isinstance(value, dict):
        return {key: _stated(inner) for key, inner in value.items() if inner is not None}
    return [_stated(inner) for inner in value] if isinstance(value, list) else value


def is_same(before: Any, recipe: dict, inputs: Hashes) -> bool:
    """Whether a marker {"recipe", "inputs"} is that of this recipe on these inputs, wherever they lie."""
    parts = [before.get(key) for key in ("recipe", "inputs")] if isinstance(before, dict) else []
    return all(isinstance(part, dict) for part in parts or [None]) and not _changes(recipe, inputs, before)


def begin(out: Path, recipe: dict, inputs: Hashes) -> None:
    """Writes `run.json`, the recipe and inputs of this run, so that only the same run continues in `out`. A verb calls
    it before it writes anything else there: what it finds in a folder that it has begun is its own.

    Raises:
        UserError: `out` holds an unfinished run of another recipe or of other inputs, or what no run has made.
    """
    path = out / "run.json"
    there = os.listdir(out) if out.is_dir() else []
    own = (path.name, f"{path.name}.part")
    strange = sorted(name for name in there if name not in own and not name.startswith("."))  # hidden: no verb's
    if strange and not path.is_file():
        found = f"{out} holds {strange[0]} ({len(strange)} names in all), and no run of this program has made it."
        needed = "Only a folder that is empty or not there yet is written to:"
        raise UserError("out-not-empty", found, needed, f"move that away, or {WRITE_ELSEWHERE}.")
    before = read_object(path, recipe=dict, inputs=dict) if path.is_file() else None
    if before and strange and (changed := _changes(recipe, inputs, before)):  # alone it is of a run that failed at once
        found = f"{out} holds an unfinished run made differently (changed: {', '.join(changed)})."
        todo = f"Undo the change to continue it, {WRITE_ELSEWHERE}, or delete that folder."
        raise UserError("unfinished-run-differs", found, todo)
    write_json(path, {"recipe": recipe, "inputs": inputs})


def finished(out: Path, recipe: dict, inputs: Hashes, tell: Callable[[str], None] = print) -> dict[str, Any] | None:
    """The results that `out` already holds of this recipe on these inputs, which is told; or None.

    Raises:
        UserError: it holds the finished result of another recipe or of other inputs, which is never overwritten.
    """
    manifest = read_manifest(out)
    if manifest is None:
        return None
    if changed := _changes(recipe, inputs, manifest):
        found = f"{out} holds a finished result made differently (changed: {', '.join(changed)})."
        todo = f"{WRITE_ELSEWHERE}, or delete that folder to make it anew."
        raise UserError("finished-result-differs", found, "It is not overwritten:", todo)
    tell(f"{out}: finished, skipped")
    return manifest["results"]


def finish(
    out: Path, verb: str, recipe: dict, inputs: Hashes, results: dict, started: float, measured: dict | None = None
) -> None:
    """Writes `times.json`, then `manifest.json`: from here on `out` is finished.

    `started` is the run's `time.time()`; `measured` holds what differs from machine to machine (speed, memory).
    """
    versions = {"nsllm-lite": __version__} | versions_of(PACKAGES)
    now = time.time()
    times = {"started": utc(started), "finished": utc(now), "seconds": round(now - started, 1)}
    write_json(out / "times.json", times | (measured or {}))
    manifest = {"verb": verb, "recipe": recipe, "inputs": inputs, "versions": versions, "results": results}
    write_sealed(out / "manifest.json", manifest)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
