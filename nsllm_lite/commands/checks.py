"""Checks a step's inputs: whether each still exists at the path in the recipe, with the hash in the manifest."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.artifact.lineage import Step, here, read_step
from nsllm_lite.artifact.step import manifest_sha256
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights

AS_USED, CHANGED, ABSENT, UNCHECKED = "as used", "changed since", "not here", "not checked"
LEVELS = 3  # that a step may lie above what it hands on: corpus/rows/phase1/train

HASHED = {
    "weights": fingerprint_weights,
    "rows": lambda place: Rows(place).sha256,
    "adapter": lambda place: sha256_file(place / "adapter_model.safetensors"),
    "manifest": manifest_sha256,
    "file": sha256_file,
}
"""How each hash of `recipe.kinds.Input` is taken; that of data "files" is of all of them together."""


class Checked(NamedTuple):
    """One input of a step; `step` is None where no manifest names the step that made it."""

    label: str
    path: str
    step: Step | None
    state: str
    words: str = ""


def checked_inputs(step: Step) -> list[Checked]:
    """The inputs of a step, the model before the rows."""
    found = []
    for label, path, key, hashed in step.made_from():
        place = here(path, step)
        if place is None:
            state = UNCHECKED if path.startswith("bundled") else ABSENT
        else:
            state = _compare(step, place, step.inputs.get(key), hashed)
        words = _source_words(step, key) if label == "source" else ""
        found.append(Checked(label, path, _maker(place, step) if place else None, state, words))
    return found


def _maker(place: Path, step: Step) -> Step | None:
    place, own = place.resolve(), step.folder.resolve()
    for folder in (place, *place.parents[:LEVELS]):
        if folder != own and (found := read_step(folder)):
            return replace(found, folder=folder)
    return None


def _compare(step: Step, place: Path, known: str | None, hashed: str) -> str:
    if known is None or not hashed:
        return UNCHECKED
    try:
        now = _sha256_data(step) if hashed == "files" else HASHED[hashed](place)
        return AS_USED if now == known else CHANGED
    except (ValueError, OSError):
        return CHANGED


def _sha256_data(step: Step) -> str:
    """Hash over all data files of a step, computed as the step computes it."""
    files: list[Path] = []
    for path in (here(one.path, step) for one in step.made_from() if one.hashed == "files"):
        if path:
            files += sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl")) if path.is_dir() else [path]
    return sha256_json([sha256_file(path) for path in files])


def _source_words(step: Step, key: str) -> str:
    name = key.removeprefix("source:")
    words = step.results.get("licences", {}).get(name) or "no licence stated"
    counts = step.results.get("documents", {}).get(name)
    return words + (f", {counts['in']:,} records, {counts['kept']:,} kept" if counts else "")
