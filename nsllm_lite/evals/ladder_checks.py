"""Whether finished trainings are a ladder: one training of several bases, on the same papers, for as long."""

from pathlib import Path
from typing import Any

from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.trained_on import require_trained_on
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.ladder import Adapted, Ladder

NEEDED = "A ladder compares bases under the same training."
TRAINED_ON = {"rows": "phase1/train", "replay_rows": "general/train"}  # in a manifest's inputs -> of a corpus
SOURCE = "source:"  # what the inputs of a corpus's sources begin with


def require_alike(adapted: list[Adapted], manifests: dict[str, list[dict]]) -> None:
    """Raises UserError where trainings differ in more than base, rows, seed and steps, or a base has a seed twice."""
    folders = [path for one in adapted for path in one.trainings]
    shared = [_shared(manifest["recipe"]) for one in adapted for manifest in manifests[one.name]]
    for folder, values in zip(folders, shared, strict=True):
        if changed := sorted(key for key in {*values, *shared[0]} if values.get(key) != shared[0].get(key)):
            found = f"{folder} and {folders[0]} were trained differently: {', '.join(changed)}."
            todo = "Name trainings of one recipe, or let the ladder make them (leave `adapted` out)."
            raise UserError("ladder-trainings-differ", found, NEEDED, todo)
    for one in adapted:
        seeds = [manifest["recipe"]["seed"] for manifest in manifests[one.name]]
        if len(set(seeds)) < len(seeds):
            found = f"The trainings of {one.name} have the seeds {', '.join(map(str, seeds))}:"
            raise UserError("ladder-seeds-repeat", found, "name each seed once.")


def _shared(recipe: dict[str, Any]) -> dict[str, Any]:
    kept = recipes.without_paths(recipe)
    budget = {"tokens_per_step": recipe["budget"]["tokens_per_step"]}
    return {key: value for key, value in kept.items() if key != "seed"} | {"budget": budget}


def require_base(one: Adapted, manifests: list[dict]) -> None:
    """Raises UserError where a training began with other weights than those of the base."""
    base = resolve_model(one.model)
    fingerprint = fingerprint_weights(base)
    for path, manifest in zip(one.trainings, manifests, strict=True):
        told = {"base": manifest["recipe"].get("model"), "base_fingerprint": manifest["inputs"].get("base")}
        require_trained_on(base, Path(path), told, fingerprint)


def require_equal(recipe: Ladder, adapted: list[Adapted], manifests: dict[str, list[dict]]) -> None:
    """Raises UserError where two bases have other seeds, or a training is not as long as the ladder says."""
    seeds = {one.name: sorted(manifest["recipe"]["seed"] for manifest in manifests[one.name]) for one in adapted}
    for name, of_base in seeds.items():
        if of_base != (first := seeds[adapted[0].name]):
            found = f"The seeds of {name} are {', '.join(map(str, of_base))}; those of {adapted[0].name} are "
            found += f"{', '.join(map(str, first))}."
            raise UserError("ladder-seeds-differ", found, NEEDED, "Name trainings with the same seeds of each base.")
    made = [
        (path, manifest) for one in adapted for path, manifest in zip(one.trainings, manifests[one.name], strict=True)
    ]
    for path, manifest in made:
        require_budget(recipe, path, manifest)
    if recipe.equal == "bytes":
        require_equal_bytes(made)


def require_budget(recipe: Ladder, path: str, manifest: dict[str, Any]) -> None:
    """Raises UserError where a training is of another budget; with equal bytes it may have fewer steps."""
    budget, steps = recipe.budget, manifest["results"]["steps"]
    per_step = manifest["recipe"]["budget"]["tokens_per_step"]
    is_long = steps == budget.steps if recipe.equal == "tokens" else steps <= budget.steps
    if per_step != budget.tokens_per_step or not is_long:
        found = f"{path} has {steps:,} steps of {per_step:,} tokens; with equal: {recipe.equal} the ladder's budget is "
        found += f"{budget.steps:,} of {budget.tokens_per_step:,}."
        raise UserError("ladder-budget-differs", found, NEEDED, "Correct `budget` or `equal`, or name other trainings.")


def require_equal_bytes(made: list[tuple[str, dict[str, Any]]]) -> None:
    """Raises UserError where two trainings, each at most a step from the same bytes, cannot have read as much."""

    def in_steps(manifest: dict[str, Any]) -> tuple[int, float]:
        return manifest["results"]["bytes"], manifest["results"]["bytes"] / manifest["results"]["steps"]

    low, high = (pick(made, key=lambda one: in_steps(one[1])) for pick in (min, max))
    (fewest, step), (most, other) = in_steps(low[1]), in_steps(high[1])
    if most - fewest > step + other:
        found = f"{low[0]} has read {fewest:,} bytes and {high[0]} {most:,}, which is more than a step's apart."
        todo = "Name trainings of as many bytes, or let the ladder make them (leave `adapted` out)."
        raise UserError("ladder-bytes-differ", found, NEEDED, todo)


def require_rows(adapted: list[Adapted], manifests: dict[str, list[dict]]) -> None:
    """Raises UserError where a training's rows are not those of the corpus that is named, or two corpora are of other
    sources."""
    sources = {one.corpus: _sources(Path(one.corpus)) for one in adapted}
    first = adapted[0].corpus
    for one in adapted:
        if sources[one.corpus] != sources[first]:
            found = f"{one.corpus} and {first} were made of other sources."
            raise UserError("ladder-sources-differ", found, NEEDED, "Make both of one recipe, but for the tokenizer.")
        hashes = {key: Rows(Path(one.corpus) / "rows" / phase).sha256 for key, phase in TRAINED_ON.items()}
        for path, manifest in zip(one.trainings, manifests[one.name], strict=True):
            if odd := [key for key in hashes if manifest["inputs"].get(key, hashes[key]) != hashes[key]]:
                found = f"{path} was not trained on the {', '.join(odd)} of {one.corpus}."
                todo = "Name the corpus it was trained on, or other trainings."
                raise UserError("ladder-rows-differ", found, "Its held-out papers are those of its own corpus.", todo)


def _sources(corpus: Path) -> dict[str, str] | None:
    manifest = read_manifest(corpus)
    return manifest and {key: value for key, value in manifest["inputs"].items() if key.startswith(SOURCE)}
