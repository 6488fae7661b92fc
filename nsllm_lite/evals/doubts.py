"""What makes a score doubtful: items that may stand in the papers that a model was trained on."""

from pathlib import Path

from nsllm_lite.artifact.lineage import corpora_behind
from nsllm_lite.artifact.step import manifest_sha256, read_manifest
from nsllm_lite.recipe.evals import Eval

RETRIEVAL = "retrieval"


def warnings_of(recipe: Eval) -> list[str]:
    """Warnings that items may stand in the papers that one of the recipe's models was trained on, by the manifests from
    it back to its corpus."""
    found = []
    for model in recipe.models:
        for corpus in corpora_behind(model.path):
            checked = {str(Path(name).resolve()) for name in corpus.recipe.decontaminate or ()}
            asked = [file.path for file in recipe.files if file.task != RETRIEVAL]  # documents there may be known
            unchecked = [path for path in asked if str(Path(path).resolve()) not in checked]
            if unchecked:
                found.append(
                    f"{model.name} was trained on {corpus.folder}, which was not decontaminated against "
                    f"{', '.join(unchecked)}: papers in it may hold their items. Name such files in the corpus's "
                    "`decontaminate`, or in the run's eval.yaml before the corpus is made."
                )
            made = read_manifest(Path(recipe.tasks)) if recipe.tasks else None
            if made and made["inputs"].get("corpus") != manifest_sha256(corpus.folder):
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
