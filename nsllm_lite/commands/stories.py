"""The recipes of one two-phase run, and how their folders join.

A recipe folder holds corpus, phase1, phase2, merge and report (`base` where the base model is made on the spot; tasks,
eval and sft where the models are to be scored and model 2 tuned on instructions).
Each YAML is complete by itself; `load_chain` only redirects them together when the caller names another corpus, model,
size or output folder.
"""

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nsllm_lite.errors import UserError
from nsllm_lite.models.sizes import QWEN3, REFERENCE, SIZED
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Corpus
from nsllm_lite.recipe.evals import Eval, Report, Tasks
from nsllm_lite.recipe.kinds import Recipe
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.train import Sft, Train

JOINED = {"out", "model", "rows", "replay.rows", "evaluation.domain_rows", "evaluation.general_rows", "build.tokenizer"}
JOINED |= {
    "base",
    "adapter",
    "phase1",
    "model1",
    "phase2",
    "model2",
    "abstract_rows",
    "experiment_rows",
    "general_rows",
    "documents",
    "then_requantize",
    "heldout_rows",
}
"""The recipe keys that `load_chain` sets itself."""

JOINED_OF_STEP = {"tasks.corpus", "sft.data", "sft.heldout", "eval.models", "eval.tasks"}
"""And those that it sets in one step only."""

TUNING = ("tasks", "eval", "sft")  # recipes that a folder has all or none of


@dataclass(frozen=True, slots=True)
class Chain:
    """All steps of a run, in order; `base` is None where the base model comes from outside, the last five where the
    folder has no recipes for them."""

    folder: Path
    corpus: Corpus
    base: Train | None
    phase1: Train
    merge1: Merge
    phase2: Train
    merge2: Merge
    report: Report
    tasks: Tasks | None = None
    eval: Eval | None = None
    sft: Sft | None = None
    merge_sft: Merge | None = None
    eval_sft: Eval | None = None


def load_chain(
    folder: Path,
    corpus: str | None = None,
    general: str | None = None,
    model: str | None = None,
    out: str | None = None,
    overrides: dict[str, list[str]] | None = None,
    size: str | None = None,
) -> Chain:
    """The chain of a recipe folder, redirected to another corpus path, general text, base model or output folder.

    `overrides` maps a step ("phase1") to `key=value` words for its recipe. `size`, one of QWEN3, gives the model where
    none is named; a recipe such as phase1-0.6b.yaml is taken in place of phase1.yaml when the size is 0.6b.

    Raises:
        UserError: a recipe is missing or wrong, an override concerns nothing, or the corpus path does not exist.
    """
    folder, overrides = Path(folder), overrides or {}
    model = model or (QWEN3[size][0] if size else None)
    tuned = all((folder / f"{name}.yaml").is_file() for name in TUNING)
    has_base = (folder / "base.yaml").is_file() and not model
    steps = ("corpus", *(["base"] if has_base else []), "phase1", "phase2", "merge", "report")
    _require_heeded(overrides, (*steps, *(TUNING if tuned else ())))
    if not (folder / "phase1.yaml").is_file():
        raise UserError(
            "recipes-missing",
            f"No recipes in {folder}:",
            "needed are corpus.yaml, phase1.yaml, phase2.yaml, merge.yaml and report.yaml.",
            "Run from the project's folder, set RECIPES=recipes/NAME, or write a project with `nsllm-lite init DIR`.",
        )
    for path, word in ((corpus, "CORPUS"), (general, "GENERAL")):
        if path and not Path(path).exists():
            raise UserError(
                "input-path-missing",
                f"{word}={path}: no such file or folder. It must be the path of your papers or texts.",
                "Correct the path.",
            )

    def load(name: str) -> Recipe:
        of_size = folder / f"{name}-{size}.yaml"
        return recipes.load(of_size if of_size.is_file() else folder / f"{name}.yaml", overrides.get(name, ()))

    corpus_recipe, phase1, phase2, merge, report = map(load, ("corpus", "phase1", "phase2", "merge", "report"))
    base = load("base") if has_base else None
    if not out:
        of_reference = str(Path(corpus_recipe.out).parent)
        out = re.sub(f"{SIZED}-{REFERENCE}$", f"{SIZED}-{size}", of_reference) if size else of_reference
        out += f"-{Path(corpus).resolve().stem}" if corpus else ""
    if corpus:
        corpus_recipe = recipes.update(corpus_recipe, sources=[{"name": "corpus", "path": corpus}])
    if general:
        corpus_recipe = recipes.update(corpus_recipe, general=[{"name": "general", "path": general}])
    if model:
        corpus_recipe = recipes.update(corpus_recipe, tokenizer=model, train_tokenizer=None)
        phase1 = recipes.update(phase1, model=model)
    chain = _join(folder, Path(out), corpus_recipe, base, phase1, phase2, merge, report)
    return _join_tuning(chain, Path(out), merge, *map(load, TUNING)) if tuned else chain


def without_bfloat16(chain: Chain) -> Chain:
    """The same chain for a card that computes in fp16 and not in bf16, such as a T4."""
    phases = {name: getattr(chain, name) for name in ("phase1", "phase2", "sft")}
    bf16 = {name: phase for name, phase in phases.items() if phase and phase.compute_dtype == "bfloat16"}
    return replace(chain, **{name: recipes.update(phase, compute_dtype="float16") for name, phase in bf16.items()})


def _require_heeded(overrides: dict[str, list[str]], steps: tuple[str, ...]) -> None:
    """Raises UserError for an override that would change nothing: of no step, or of a path that joining sets."""
    for step, words in overrides.items():
        if step not in steps:
            near = difflib.get_close_matches(step, steps, n=1)
            todo = f"Did you mean {near[0]}?" if near else f"Name one of {', '.join(steps)}."
            raise UserError("setting-step-unknown", f"Setting {step}.{words[0]}: there is no step {step!r} here.", todo)
        for word in words:
            key = word.partition("=")[0].strip()
            if key in JOINED or f"{step}.{key}" in JOINED_OF_STEP:
                raise UserError(
                    "setting-path-derived",
                    f"Setting {step}.{word}: in a whole run this path follows from the others.",
                    "Use OUT=, MODEL=, CORPUS= or GENERAL=, or run the single step: nsllm-lite VERB RECIPE key=value.",
                )


def _join(
    folder: Path,
    root: Path,
    corpus: Corpus,
    base: Train | None,
    phase1: Train,
    phase2: Train,
    merge: Merge,
    report: Report,
) -> Chain:
    """The same recipes with every path under `root`."""
    rows = f"{root}/corpus/rows"

    def train(recipe: Train, name: str, rows_name: str, **changes: Any) -> Train:
        changes["evaluation"] = {
            **recipe.evaluation.model_dump(),
            "domain_rows": f"{rows}/{'phase1' if rows_name == 'general' else rows_name}/heldout",
            "general_rows": f"{rows}/general/heldout",
        }
        if recipe.replay:
            changes["replay"] = {**recipe.replay.model_dump(), "rows": f"{rows}/general/train"}
        return recipes.update(recipe, out=f"{root}/{name}", rows=f"{rows}/{rows_name}/train", **changes)

    if base:
        shape = {**base.build.model_dump(), "tokenizer": f"{root}/corpus/tokenizer"}
        base = train(base, "base", "general", build=shape)
        phase1 = recipes.update(phase1, model=f"{root}/base/model")
    phase1 = train(phase1, "phase1", "phase1")
    phase2 = train(phase2, "phase2", "phase2", model=f"{root}/model1")
    merge1, merge2 = (
        recipes.update(
            merge,
            base=phase.model,
            adapter=f"{phase.out}/adapter",
            out=f"{root}/model{number}",
            then_requantize=number == 1,  # phase 2 holds model 1 in NF4
            heldout_rows=f"{rows}/phase{number}/heldout",
        )
        for number, phase in ((1, phase1), (2, phase2))
    )
    report = recipes.update(
        report,
        base=phase1.model,
        **{name: f"{root}/{name}" for name in ("phase1", "model1", "phase2", "model2")},
        out=f"{root}/report",
        abstract_rows=f"{rows}/phase1/heldout",
        experiment_rows=f"{rows}/phase2/heldout",
        general_rows=f"{rows}/general/heldout",
        documents=f"{root}/corpus/documents",
    )
    corpus = recipes.update(corpus, out=f"{root}/corpus")
    return Chain(folder, corpus, base, phase1, merge1, phase2, merge2, report)


def _join_tuning(chain: Chain, root: Path, merge: Merge, tasks: Tasks, scores: Eval, sft: Sft) -> Chain:
    """The chain with scores of its models, and instruction tuning behind phase 2: from model 2, merged into it.

    What the models are scored on is cleared from the corpus before any training.
    """
    tasks = recipes.update(tasks, out=f"{root}/tasks", corpus=chain.corpus.out)
    sft = recipes.update(
        sft,
        out=f"{root}/sft",
        model=chain.merge2.out,
        data=[f"{tasks.out}/train"],
        heldout=[f"{tasks.out}/test"],
    )
    merge_sft = recipes.update(
        merge,
        base=sft.model,
        adapter=f"{sft.out}/adapter",
        out=f"{root}/model-sft",
        then_requantize=False,
        heldout_rows=chain.merge2.heldout_rows,
    )
    paths = {
        "base": chain.phase1.model,
        "phase 1": chain.merge1.out,
        "phase 2": chain.merge2.out,
        "phase 2, adapter on NF4": f"{chain.phase2.out}/adapter",
    }
    evaluation = recipes.update(
        scores, out=f"{root}/eval", tasks=tasks.out, models=[{"name": n, "path": p} for n, p in paths.items()]
    )
    told = {"modes": ["few-shot", "instruction"]}
    evaluation_sft = recipes.update(
        evaluation,
        out=f"{root}/eval-sft",
        models=[{"name": "phase 2", "path": sft.model, **told}, {"name": "tuned", "path": merge_sft.out, **told}],
    )
    asked = [file.path for file in scores.files if file.path not in chain.corpus.decontaminate]
    corpus = recipes.update(chain.corpus, decontaminate=[*chain.corpus.decontaminate, *asked])
    return replace(
        chain, corpus=corpus, tasks=tasks, eval=evaluation, sft=sft, merge_sft=merge_sft, eval_sft=evaluation_sft
    )
