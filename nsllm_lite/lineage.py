"""How a model came about: the manifests that lead from it back to its corpus."""

from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite import run

MAX_STEPS = 20  # phases and merges behind one another


class Step(NamedTuple):
    """A finished folder, and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        return self.manifest["recipe"]


def steps_of(*folders: str | Path) -> list[Step]:
    """The trainings and merges behind local models and adapters, the last one first.

    Empty where nothing is known: a model from elsewhere, or one whose folders are gone.
    """
    found: list[Step] = []
    waiting = [Path(folder) for folder in folders]
    while waiting and len(found) < MAX_STEPS:
        step = _step_at(waiting.pop(0))
        if step is None or step.folder in [known.folder for known in found]:
            continue
        found.append(step)
        adapter = step.recipe.get("adapter")
        adapters = [a["path"] for a in adapter] if isinstance(adapter, list) else [adapter]
        before = [*adapters, step.recipe.get("base"), step.recipe.get("model")]
        waiting += [Path(name) for name in before if isinstance(name, str)]
    return found


def corpora_of(model: str) -> list[Path]:
    """The folders of the corpora whose papers a local model, or an adapter, was trained on, the last one first."""
    return list(dict.fromkeys(corpus for step in steps_of(model) if (corpus := corpus_of(step))))


def corpus_of(step: Step) -> Path | None:
    """The finished corpus that a step's rows lie in, as RUN/corpus/rows/PHASE/train.

    None for a base made of general text, which has seen no paper.
    """
    rows = Path(step.recipe.get("rows") or "x/x/x/x")
    corpus = rows.parents[2] if len(rows.parents) > 2 else rows
    return corpus if rows.parent.name != "general" and _manifest_at(corpus) else None


def _step_at(folder: Path) -> Step | None:
    """The step that made a folder; an adapter and a built base lie one below it."""
    places = [folder, folder.parent] if folder.name in ("adapter", "model") else [folder]
    return next((Step(place, manifest) for place in places if (manifest := _manifest_at(place))), None)


def _manifest_at(folder: Path) -> dict[str, Any] | None:
    """None where there is none of ours that can be read."""
    try:
        manifest = run.read_manifest(folder)
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("recipe"), dict) else None
