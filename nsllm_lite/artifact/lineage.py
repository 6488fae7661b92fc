"""The steps of runs, read from what they left on disk, and the steps behind them.

A step is a directory that a verb writes; what it was made from follows from its recipe (`recipe.kinds`).
"""

import os
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from nsllm_lite.artifact.json_files import damaged, read_json, read_lines, validated
from nsllm_lite.artifact.step import Hashes, utc
from nsllm_lite.errors import UserError
from nsllm_lite.recipe.kinds import KINDS, Input, Kind
from nsllm_lite.recipe.results import Lenient, Line, Times, lenient
from nsllm_lite.recipe.values import Strict

FINISHED, UNFINISHED, DAMAGED = "finished", "unfinished", "damaged"
MAX_BEHIND = 20  # phases and merges behind one another
WEIGHTS = ("weights", "adapter")  # inputs that the weights of a step's result come from


@dataclass(frozen=True, slots=True)
class Step:
    """One step, from the files in its folder."""

    folder: Path
    kind: str
    state: str
    recipe: BaseModel  # `lenient` of its kind's
    inputs: Hashes
    results: dict[str, Any]
    times: dict[str, Any]

    @property
    def about(self) -> Kind:
        return KINDS.get(self.kind, _UNKNOWN)

    def made_from(self) -> list[Input]:
        """Its inputs that its recipe names."""
        return [one for one in self.about.inputs(self.recipe) if one.path]

    @property
    def rows(self) -> str:
        """phase1, phase2 or general, of a training on rows of a corpus."""
        path = Path(getattr(self.recipe, "rows", None) or "")
        return path.parent.name if path.name == "train" else path.name

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to one that is being written or damaged."""
        return list(takewhile(_is_metrics, read_lines(self.folder / "metrics.jsonl")))

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


def _is_metrics(line: dict[str, Any]) -> bool:
    try:
        return bool(Line.model_validate(line))
    except ValidationError:
        return False


_UNKNOWN = Kind(Strict, "", lambda recipe: ())  # of a later version, say


def read_step(folder: Path) -> Step | None:
    """The step in `folder`; None where no verb wrote one. Raises UserError where its manifest is damaged."""
    path = folder / "manifest.json"
    manifest = read_json(path) if path.is_file() else None
    if isinstance(manifest, dict) and {"verb", "recipe", "inputs", "results"} <= manifest.keys():
        times = read_json(folder / "times.json") if (folder / "times.json").is_file() else {}
        if times:
            validated(folder / "times.json", times=(Times, times))
        parts = (manifest["recipe"], manifest["inputs"], manifest["results"])
        return _whole(folder, path, manifest["verb"], FINISHED, *parts, times)
    for path in dict.fromkeys(folder / kind.begun for kind in KINDS.values()):
        begun = read_json(path) if path.is_file() else None
        if isinstance(begun, dict) and {"recipe", "inputs"} <= begun.keys():
            kind = begun["recipe"].get("kind", "corpus") if isinstance(begun["recipe"], dict) else None
            return _whole(folder, path, kind, UNFINISHED, begun["recipe"], begun["inputs"], {}, {})
    return None


def _whole(folder: Path, path: Path, kind: Any, state: str, recipe: Any, inputs: Any, results: Any, times: Any) -> Step:
    """The step that the file at `path` describes; UserError where a part is not of its type."""
    if not isinstance(kind, str):
        raise damaged(path, "it does not state its kind")
    about = KINDS.get(kind, _UNKNOWN)
    parts = {"recipe": (lenient(about.recipe), recipe), "results": (about.leaves, results), "inputs": (Hashes, inputs)}
    return Step(folder, kind, state, validated(path, **parts)["recipe"], inputs, results, times)


def find_steps(root: Path) -> list[Step]:
    """All steps in `root` and below, by run and then by date; a damaged one is among them.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        todo = "Nothing has run here yet (`make phase1`), or name the folder that runs were written to."
        raise UserError("runs-folder-absent", f"No folder {root}.", todo)
    found = []
    for here, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        try:
            step = read_step(Path(here))
        except ValueError:
            step = Step(Path(here), "?", DAMAGED, Lenient(), {}, {}, {})
        found += [step] if step else []
    return sorted(found, key=lambda step: (str(step.folder.parent), *step.dates(), str(step.folder)))


def steps_behind(*folders: str | Path) -> list[Step]:
    """The finished trainings, merges and conversions behind local models and adapters, the last one first.

    Empty where nothing is known: a model from elsewhere, or one whose folders are gone or damaged.
    """
    found: list[Step] = []
    waiting = [Path(folder) for folder in folders]
    while waiting and len(found) < MAX_BEHIND:
        folder = waiting.pop(0)
        places = [folder, folder.parent] if folder.name in ("adapter", "model") else [folder]
        step = next(filter(None, map(finished_step, places)), None)
        if step is None or step.folder in [known.folder for known in found]:
            continue
        found.append(step)
        before = [one.path for one in step.made_from() if one.hashed in WEIGHTS]
        waiting += [here(path, step) or Path(path) for path in before]
    return found


def quantised_behind(*folders: str | Path) -> dict[str, int]:
    """{type: tensors} of the GGUF whose dequantised weights a local model began with; {} where none is known."""
    return next(filter(None, (step.results.get("quantised") for step in steps_behind(*folders))), {})


def corpus_of(step: Step) -> Step | None:
    """The finished corpus that a training's rows lie in, as RUN/corpus/rows/PHASE/train.

    None for a base made of general text, which has seen no paper.
    """
    rows = Path(getattr(step.recipe, "rows", None) or "")
    place = here(str(rows.parents[2]), step) if len(rows.parents) > 2 and step.rows != "general" else None
    return finished_step(place) if place else None


def corpora_behind(model: str) -> list[Step]:
    """The corpora whose papers a local model, or an adapter, was trained on, the last one first."""
    found = {corpus.folder.resolve(): corpus for step in steps_behind(model) if (corpus := corpus_of(step))}
    return list(found.values())


def finished_step(folder: Path) -> Step | None:
    """The finished step in `folder`; None where there is none that can be read."""
    try:
        step = read_step(folder)
    except (ValueError, OSError):
        return None
    return step if step and step.state == FINISHED else None


def here(path: str, step: Step) -> Path | None:
    """Where `path` is: recipes are written for the folder that the run was started in, one above the step's."""
    for start in (Path(), *step.folder.resolve().parents):
        if (start / path).exists():
            return start / path
    return None
