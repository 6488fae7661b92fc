"""What makes a score doubtful: items that may stand in the papers that a model was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.lineage import corpora_behind, steps_behind
from nsllm_lite.artifact.step import manifest_sha256, read_manifest
from nsllm_lite.recipe.evals import Eval

ENCODERS = ("mlm", "distill")  # trainings whose corpus is one for encoders


def warnings_of(recipe: Eval, asked: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Warnings that items may stand in the papers that one of the recipe's models was trained on, by the manifests from
    it back to its corpus. `asked` are the files that each model is scored on, None: all. Documents of retrieval may be
    known, and are not among them."""
    found = []
    made = read_manifest(Path(recipe.tasks)) if recipe.tasks else None
    gold = gold_of(made["recipe"]) if made else []
    for model in recipe.models:
        of_encoder = any(step.kind in ENCODERS for step in steps_behind(model.path))
        place = (
            "`encoder-corpus.decontaminate`"
            if of_encoder
            else "the corpus's `decontaminate`, or in the run's eval.yaml"
        )
        for corpus in corpora_behind(model.path):
            checked = {str(Path(name).resolve()) for name in corpus.recipe.decontaminate or ()}
            own = [*gold, *(file.path for file in recipe.files)] if asked is None else asked[model.name]
            unchecked = [path for path in own if str(Path(path).resolve()) not in checked]
            if unchecked:
                found.append(
                    f"{model.name} was trained on {corpus.folder}, which was not decontaminated against "
                    f"{', '.join(unchecked)}: papers in it may hold their items. Name such files in {place} before the "
                    "corpus is made."
                )
            if made and "corpus" in made["inputs"] and made["inputs"]["corpus"] != manifest_sha256(corpus.folder):
                found.append(
                    f"{model.name} was trained on {corpus.folder}, and the tasks of {recipe.tasks} were made from "
                    "another corpus: papers that it was trained on may be among them."
                )
            paths = [source.path for source in corpus.recipe.sources or ()]
            if recipe.tasks == "bundled" and "bundled:papers" in paths:
                found.append(
                    f"{model.name} was trained on the bundled sample, of which the bundled tasks are made. Score on "
                    "held-out papers: nsllm-lite tasks recipes/nano/tasks.yaml, then --tasks runs/nano/tasks."
                )
    return list(dict.fromkeys(found))


def gold_of(recipe: Mapping[str, Any]) -> list[str]:
    """The files of gold answers that the test items of a folder of tasks were made of; those of the sample stand in no
    paper."""
    paths = [path for one in recipe.get("gold") or () for path in one.get("test") or ()]
    return [path for path in paths if not path.startswith("bundled:")]
