"""Recipes from the command line: a file with `key=value` words, or the options of merge and eval."""

import argparse
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.layout import Layout
from nsllm_lite.artifact.lineage import here, read_step
from nsllm_lite.commands.recipe_folder import located
from nsllm_lite.commands.stories import planned_steps
from nsllm_lite.errors import UserError
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import ENCODER_TASKS, Eval
from nsllm_lite.recipe.kinds import KINDS, Recipe
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.values import Strict, expanded, options_of

YAML = (".yaml", ".yml")
SPLITS = ("test", "dev", "devel", "val", "valid", "validation")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Raises UserError where the recipe is wrong, or of another kind than the verb."""
    first = args.models[0] if args.verb == "eval" else args.recipe
    has_file = first is not None and (args.verb not in ("eval", "convert") or str(first).endswith(YAML))
    if args.run and not has_file:
        todo = f"Name one (nsllm-lite {args.verb} RECIPE --run {args.run}), or leave --run out."
        raise UserError("run-without-recipe", f"--run {args.run}, but no recipe has paths to fill in.", todo)
    if recipe_with_options := {"convert": convert_recipe, "merge": merge_recipe, "eval": eval_recipe}.get(args.verb):
        return recipe_with_options(args)
    return recipes.validate(read_kind(args.verb, args.recipe, args.overrides, args.run), str(args.recipe))


def read_kind(kind: str, path: Path, words: list[str], run: str | None = None) -> dict[str, Any]:
    """The values of a recipe file of this kind; the paths that it does not state from the `run` in that folder."""
    values = recipes.read(located(path), words)
    if isinstance(found := values.get("kind"), str) and found in KINDS and found != kind:
        raise UserError("recipe-of-other-kind", f"{path} is a recipe of kind {found}.", f"Run `nsllm-lite {found}`.")
    if not run:
        return values
    at = Layout(run.rstrip("/"))
    steps = {step.recipe: step for step in reversed(planned_steps(at, base_of(at)))}  # of several the first
    if path.stem not in steps:
        todo = "Leave --run out, and give its paths as key=value."
        raise UserError("run-without-step", f"A run has no step of the recipe {path.name}.", todo)
    changes = steps[path.stem].changes
    return recipes.changed(values, {key: changes[key] for key in changes if not recipes.has(values, key)})


def base_of(at: Layout) -> str:
    """The model that phase 1 of a run has begun with; before that the one that the run makes."""
    phase1 = read_step(Path(at.step("phase1")))
    if phase1 is None or not phase1.recipe.model:
        return at.base
    return str(here(phase1.recipe.model, phase1) or phase1.recipe.model)


def convert_recipe(args: argparse.Namespace) -> Recipe:
    """A recipe file, or a GGUF, each with overrides."""
    if str(args.recipe).endswith(YAML):
        return recipes.validate(read_kind("convert", args.recipe, args.overrides, args.run), str(args.recipe))
    values = {"kind": "convert", "gguf": str(args.recipe)}
    return recipes.validate(recipes.overridden(values, args.overrides), "nsllm-lite convert")


def merge_recipe(args: argparse.Namespace) -> Recipe:
    given: dict[str, Any] = {"out": "nowhere"} if args.compare and not args.out else {}
    if args.adapter:
        pairs = [parse_adapter(word) for word in args.adapter]
        given["adapter"] = pairs[0]["path"] if len(pairs) == 1 and pairs[0]["weight"] == 1 else pairs
    values = read_kind("merge", args.recipe, args.overrides, args.run) if args.recipe else None
    where = str(args.recipe or "nsllm-lite merge: --base, --adapter and --out")
    return with_options(args, Merge, values, given, where)


def with_options(
    args: argparse.Namespace, recipe: type[Strict], values: dict | None, given: dict[str, Any], where: str
) -> Recipe:
    """The recipe of a file's `values`, or of what a command without a file begins with, changed by its options and by
    `given`."""
    options = {key: field.json_schema_extra["typed"] for key, field in options_of(recipe)}
    if values is None:
        values = {"kind": args.verb} | {key: value for key, value in options.items() if value is not None}
    words = {key: getattr(args, key.rpartition(".")[2]) for key in options}
    changes = {key: word for key, word in words.items() if word is not None} | given
    return recipes.validate(recipes.changed({"execution": {}} | values, changes), where)


def parse_adapter(word: str) -> dict:
    """DIR or DIR:WEIGHT; a colon belongs to the path where no number follows it, or where a folder is there."""
    path, colon, weight = word.rpartition(":")
    if colon and Path(expanded(word)).is_dir():
        return {"path": word, "weight": 1.0}
    try:
        return {"path": path, "weight": float(weight)} if colon else {"path": word, "weight": 1.0}
    except ValueError:
        return {"path": word, "weight": 1.0}


def eval_recipe(args: argparse.Namespace) -> Recipe:
    """A recipe file with overrides, or models with the options of eval."""
    first, *others = args.models
    is_file = first.endswith(YAML)
    given: dict[str, Any] = {"files": [parse_task_file(word) for word in args.file]} if args.file else {}
    if args.file and not (args.tasks or is_file):
        given["tasks"] = None
    if is_file:
        return with_options(args, Eval, read_kind("eval", Path(first), others, args.run), given, first)
    given["models"] = [{"name": word.rstrip("/"), "path": word} for word in args.models]
    return with_options(args, Eval, None, given, "nsllm-lite eval")


def parse_task_file(word: str) -> dict:
    """TASK=PATH as an entry of a recipe's `files`, named by its file."""
    task, equals, path = word.partition("=")
    if not equals or not path:
        todo = "Write it like --file multiple_choice=MMLU-stem.json"
        raise UserError("task-file-form", f"--file {word}", "needs a task and a path.", todo)
    name = Path(path).stem
    if task in ENCODER_TASKS and name in SPLITS and Path(path).parent.name:
        name = f"{Path(path).parent.name}/{name}"  # several sets have a test.txt
    return {"name": name, "task": task, "path": path}
