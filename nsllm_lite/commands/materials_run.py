"""The materials' story: both phases, then stages of instruction tuning, each from the merged model before it, and the
scores of extraction.

A recipe folder has the recipes of two phases, `tasks` and `gold` (items made of the corpus, and of files with answers),
`eval`, and the stages: stage1-NAME.yaml, stage2-NAME.yaml and so on, of kind sft. In their `data` and `heldout`
run:tasks and run:gold stand for the items of those two steps.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.plan import Run, plan
from nsllm_lite.commands.recipe_folder import located
from nsllm_lite.commands.steps import STORIES, materials_steps, planned_steps
from nsllm_lite.commands.stories import by_recipe, chosen_steps, command, join, load_run, require_known_recipes
from nsllm_lite.errors import UserError
from nsllm_lite.models.device import find_device
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.kinds import Recipe
from nsllm_lite.recipe.values import expanded

ON_A_CARD, ON_A_CPU = "recipes/materials", "recipes/nano-materials"
NEEDED = ("tasks", "gold", "eval")
OF_RUN = "run:"


def load_materials_run(
    folder: Path,
    corpus: str | None = None,
    general: str | None = None,
    model: str | None = None,
    out: str | None = None,
    overrides: dict[str, list[str]] | None = None,
) -> Run:
    """The recipes of all steps, as `load_run` gives those of the phases.

    Raises UserError where a recipe is missing or wrong, an override concerns nothing, or a path does not exist.
    """
    overrides = overrides or {}
    stages = stages_of(folder)
    files = {name: folder / f"{name}.yaml" for name in (*NEEDED, *stages)}
    if missing := [f"{name}.yaml" for name, path in files.items() if not path.is_file()]:
        found, needed = f"{folder} has no {', '.join(missing)}.", "The materials' story needs them:"
        todo = f"Set RECIPES={ON_A_CPU} or {ON_A_CARD}, or copy these files from there."
        raise UserError("materials-recipes-missing", found, needed, todo)
    phases = {step.recipe: step.kind for step in planned_steps(Layout(""), "") if step.recipe not in NEEDED}
    kinds = phases | {"tasks": "tasks", "gold": "tasks", "eval": "eval"} | dict.fromkeys(stages, "sft")
    require_known_recipes(overrides, kinds, first=stages[0])
    of_phases = {name: words for name, words in overrides.items() if name in phases}
    run = load_run(folder, corpus, general, model, out, of_phases)
    at = Layout(str(Path(run["corpus"].out).parent))
    values = {name: recipes.read(path, overrides.get(name, ())) for name, path in files.items()}
    heldout = {name: of_run(values[name].get("heldout"), at, "test") for name in stages}
    for name in stages:
        values[name]["data"] = of_run(values[name].get("data"), at, "train")
        values[name]["heldout"] = list(dict.fromkeys(path for paths in heldout.values() for path in paths))
        require_there(name, [path for key in ("data", "heldout") for path in own_paths(values[name][key], at)])
    steps = materials_steps(at, run["model2"].out, stages, heldout)
    merge = {"merge": folder / "merge.yaml"}
    values |= {"merge": recipes.read(merge["merge"], overrides.get("merge", ())), "stages": {"kind": "stages"}}
    paths = files | merge | {"stages": folder}
    return run | join(steps, paths, values, overrides, {}, {})


def stages_of(folder: Path) -> list[str]:
    """The recipes of the stages, in the order of their numbers. Raises UserError where there is none."""
    found = [path.stem for path in folder.glob("stage*.yaml")]
    numbered = {name: name.removeprefix("stage").partition("-")[0] for name in found}
    if odd := [name for name, number in numbered.items() if not number.isdecimal()]:
        todo = "Name the recipe of a stage by its number and a word: stage1-general.yaml"
        raise UserError("materials-stage-unnumbered", f"{folder}/{odd[0]}.yaml has no number.", todo)
    if not found:
        todo = f"Set RECIPES={ON_A_CPU} or {ON_A_CARD}, or copy the stages from there."
        raise UserError("materials-stages-missing", f"{folder} has no stage1-NAME.yaml.", todo)
    return sorted(found, key=lambda name: (int(numbered[name]), name))


def of_run(paths: Any, at: Layout, split: str) -> Any:
    """`paths`, with run:STEP as the folder of that step's items of a split; what is no list of texts is left as it is,
    for the recipe's own check."""
    if not isinstance(paths, list):
        return paths
    steps = {f"{OF_RUN}{step}": f"{at.step(step)}/{split}" for step in ("tasks", "gold")}
    return [steps.get(path, path) for path in paths]


def own_paths(paths: Any, at: Layout) -> list[str]:
    """Those that are no folder of the run."""
    listed = paths if isinstance(paths, list) else []
    return [path for path in listed if isinstance(path, str) and not path.startswith(f"{at.root}/")]


def require_there(stage: str, paths: list[str]) -> None:
    """Raises UserError where a file of a stage is absent: the stage begins when the phases have ended."""
    if missing := [path for path in paths if not Path(expanded(path)).exists()]:
        found = f"{stage}: nothing at {', '.join(missing)}; its records are to lie there."
        todo = f"Put your files there, name others ({stage}.data=[...] {stage}.heldout=[...]), or delete {stage}.yaml."
        raise UserError("materials-stage-data-missing", found, todo)


def story(args: argparse.Namespace) -> Iterator[Recipe]:
    """The recipes of the story as typed, in order. Raises UserError where --only names a kind that it has not."""
    asked = args.recipes or (ON_A_CARD if args.corpus and find_device().device == "cuda" else ON_A_CPU)
    given = (args.corpus, args.general, args.model, args.out, by_recipe(args.overrides))
    run = load_materials_run(located(Path(asked)), *given)
    if not args.only:
        plan({name: recipe for name, recipe in run.items() if name in STORIES["two-phase"]}, f"{asked} (as asked)")
    yield from chosen_steps(args, run)
    if not args.only:
        print(f"\nDone: {Path(run['corpus'].out).parent}\n{next_words(run, asked)}")


def next_words(run: Run, asked: str) -> str:
    """What was made, and the commands that put it to use."""
    model, root = run["eval"].models[-1].path, Path(run["corpus"].out).parent
    lines = [
        f"Extraction:    {model}",
        f"Your answers:  nsllm-lite eval {model} --file doping=FILE.jsonl --constrain",
        f"One page:      nsllm-lite show {root} --html materials.html",
    ]
    if asked == ON_A_CPU:
        lines.append(f"The real run:  {command('materials', {'corpus': 'path/to/your/papers'})}")
    return "\n".join(lines)
