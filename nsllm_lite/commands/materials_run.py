"""The materials' story: both phases, then stages of instruction tuning, each from the merged model before it, and the
scores of extraction.

Its recipe, materials.yaml, names the folder of the recipes it starts from (`phases`, beside its own), and has a section
for each recipe that it changes; `gold` is a recipe of kind tasks, and each of `stages` a change of sft.yaml, in whose
`data` and `heldout` run:tasks and run:gold stand for the items of those two steps.
"""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.plan import Run, plan
from nsllm_lite.commands.recipe_folder import MATERIALS, located, pick_recipes
from nsllm_lite.commands.steps import STORIES, materials_steps
from nsllm_lite.commands.stories import (
    by_recipe,
    chosen_steps,
    command,
    join,
    load_run,
    require_known_recipes,
    stem_of,
    without_bfloat16,
)
from nsllm_lite.errors import UserError
from nsllm_lite.evals.gold_files import gold_paths
from nsllm_lite.evals.stages import stems_of
from nsllm_lite.models.device import find_device
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import BEFORE, TASKS, Tasks
from nsllm_lite.recipe.kinds import Recipe
from nsllm_lite.recipe.values import expanded

ON_A_CARD, ON_A_CPU = f"recipes/{MATERIALS}", "recipes/nano"
FILE = "materials.yaml"
BEHIND = {"tasks": "tasks", "gold": "tasks", "eval": "eval", "merge": "merge"}
KINDS_OF = {"corpus": "corpus", "base": "train", "phase1": "train", "phase2": "train", "report": "report"} | BEHIND
"""The recipes that a section may change -> their kinds."""

OWN_KEYS = ("kind", "phases", "stages", *KINDS_OF)
KIND = "story"
STEPS = {*STORIES["two-phase"], *OWN_KEYS, BEFORE}
"""What no stage may be called: a folder, a section or a row of the table has that name."""

STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
RUN = "run:"


def read_story(folder: Path) -> dict[str, Any]:
    """The sections of `folder`'s story. Raises UserError where one is missing, or none of this story."""
    path = folder / FILE
    if not path.is_file():
        todo = f"Set RECIPES={ON_A_CPU} or {ON_A_CARD}, or copy theirs."
        raise UserError("materials-recipe-missing", f"{folder} has no {FILE}.", todo)
    story = recipes.read(path)
    if (kind := story.get("kind")) != KIND:
        raise UserError("materials-recipe-kind", f"{path}: kind is {kind!r}.", f"Write kind: {KIND}.")
    stages = story.get("stages")
    fit = isinstance(stages, dict) and stages and all(isinstance(one, dict) for one in stages.values())
    if not fit or not all(isinstance(story.get(name, {}), dict) for name in KINDS_OF):
        found = f"{path}: a section is no list of keys, or `stages` holds none."
        raise UserError("materials-recipe-unfit", found, f"Write it as {ON_A_CPU}/{FILE} is written.")
    if odd := [str(name) for name in story if name not in OWN_KEYS]:
        found = f"{path}: {', '.join(odd)} is no section of this story."
        raise UserError("materials-section-unknown", found, f"Its sections are {', '.join(OWN_KEYS)}.")
    require_stage_names(list(stages), path)
    return story


def require_stage_names(names: list[Any], path: Path) -> None:
    """Raises UserError where a stage's name is no folder's, or that of another step of the run: one would overwrite the
    other. Some file systems do not tell cases apart."""
    if odd := [repr(name) for name in names if not (isinstance(name, str) and STAGE_NAME.fullmatch(name))]:
        found = f"{path}: {', '.join(odd)} cannot name a stage's folder."
        needed = "Needed are at most 64 letters, digits, - and _, the first a letter or digit"
        raise UserError("materials-stage-name", found, needed, "(in quotes where YAML reads another value).")
    taken = set(STEPS)
    for name in names:
        taken |= {f"model-{other}".lower() for other in names if other != name}
    lowered = [name.lower() for name in names]
    if odd := [name for name in names if name.lower() in taken or lowered.count(name.lower()) > 1]:
        found = f"{path}: {', '.join(odd)}: another step of the run has a stage's name, or has it in another case."
        raise UserError("materials-stage-name-taken", found, "Call the stage something else.")


def phases_of(folder: Path, story: dict[str, Any]) -> Path:
    return folder.parent / str(story.get("phases", folder.name))


def load_materials_run(
    folder: Path,
    corpus: str | None = None,
    general: str | None = None,
    model: str | None = None,
    out: str | None = None,
    overrides: dict[str, list[str]] | None = None,
    size: str | None = None,
) -> Run:
    """The recipes of all steps, as `load_run` gives those of the phases.

    Raises UserError where a recipe is missing or wrong, an override concerns nothing, or a path does not exist.
    """
    story, overrides = read_story(folder), overrides or {}
    phases, stages = phases_of(folder, story), story["stages"]
    require_known_recipes(overrides, KINDS_OF | dict.fromkeys(stages, "sft"), first="phase1")
    out = out or root_of(folder, corpus, size)
    changes = {name: story.get(name, {}) for name in KINDS_OF if name not in BEHIND}
    words = {name: overrides[name] for name in (*changes, "merge") if name in overrides}
    run = load_run(phases, corpus, general, model, out, words, size, changes)
    run = {name: recipe for name, recipe in run.items() if name in STORIES["two-phase"]}

    at, values = Layout(str(Path(out))), {}
    for name in BEHIND:
        like = {"kind": "tasks", "seed": 0} if name == "gold" else recipes.read(phases / f"{name}.yaml")
        like = {"max_per_task": 20_000, "max_paper_chars": 10_000} | like if name == "gold" else like
        values[name] = recipes.overridden(like | story.get(name, {}), overrides.get(name, ()))
    for name, stage in stages.items():
        like = recipes.read(phases / "sft.yaml")
        like |= {"steps": None, "epochs": None} if stage.keys() & {"steps", "epochs"} else {}
        values[name] = recipes.overridden(like | stage, overrides.get(name, ()))
    heldout = {name: of_run(values[name].get("heldout"), at, "test") for name in stages}
    for name in stages:
        values[name]["data"] = of_run(values[name].get("data"), at, "train")
        values[name]["heldout"] = list(dict.fromkeys(path for paths in heldout.values() for path in paths))
        require_there(name, [path for key in ("data", "heldout") for path in own_paths(values[name][key], at)])
    files = {name: folder / FILE if story.get(name) else phases / f"{name}.yaml" for name in BEHIND}
    files |= dict.fromkeys((*stages, "gold"), folder / FILE)
    steps = materials_steps(at, run["model2"].out, list(stages), heldout)
    values["stages"], files["stages"] = {"kind": "stages"}, folder / FILE
    run |= join(steps, files, values, overrides, {}, {})
    require_gold(run["gold"])
    require_told_apart(heldout, at, run["gold"])
    return run


def root_of(folder: Path, corpus: str | None, size: str | None) -> str:
    name = folder.name if folder.name == MATERIALS else f"{folder.name}-{MATERIALS}"
    return f"runs/{name}" + (f"-{size}" if size else "") + stem_of(corpus)


def of_run(paths: Any, at: Layout, split: str) -> list[str]:
    """`paths`, with run:STEP as the folder of that step's items of a split. Raises UserError where they are no list, or
    the run has no such step."""
    steps = {f"{RUN}{step}": f"{at.step(step)}/{split}" for step in ("tasks", "gold")}
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        todo = f"Write a list: files, folders, {', '.join(steps)}."
        raise UserError("materials-stage-paths", f"`data` and `heldout` of a stage are needed (found {paths!r}).", todo)
    if odd := [path for path in paths if path.startswith(RUN) and path not in steps]:
        raise UserError("materials-stage-run", f"{odd[0]}: a run gives {', '.join(steps)}.", "Name one of these.")
    return [steps.get(path, path) for path in paths]


def own_paths(paths: list[str], at: Layout) -> list[str]:
    """Those that are no folder of the run."""
    return [path for path in paths if not path.startswith(f"{at.root}/")]


def require_there(stage: str, paths: list[str]) -> None:
    """Raises UserError where a file of a stage is absent: the stage begins when the phases have ended."""
    if missing := [path for path in paths if not os.path.exists(expanded(path))]:
        found = f"{stage}: nothing at {', '.join(missing)}; its records are to lie there."
        todo = f"Put your files there, name others ({stage}.data=[...] {stage}.heldout=[...]), or delete the stage."
        raise UserError("materials-stage-data-missing", found, todo)


def require_gold(gold: Tasks) -> None:
    """Raises UserError where a file of gold answers is absent, or a task has none to be scored on: both are read when
    the phases have ended."""
    gold_paths(gold.gold)
    if untested := [one.task for one in gold.gold if not one.test]:
        found = f"gold: {', '.join(untested)} has no `test`, so that nothing scores it."
        raise UserError("materials-gold-without-test", found, "Name files of gold answers to test it with.")


def require_told_apart(heldout: dict[str, list[str]], at: Layout, gold: Tasks) -> None:
    """Raises UserError where two held-out files have one name: the losses of the last table go by these."""
    made = {f"{at.step('tasks')}/test": list(TASKS), f"{at.step('gold')}/test": [one.task for one in gold.gold]}
    seen: dict[str, str] = {}
    for stage, paths in heldout.items():
        for path in paths:
            for stem in made.get(path) or stems_of(Path(expanded(path))):
                if stem in seen:
                    found = f"{stage}: {stem} of {path} is held out by {seen[stem]} too, or another file of this name."
                    todo = "Rename the file, or let one stage alone hold it out."
                    raise UserError("materials-heldout-repeats", found, "Losses are told apart by file names.", todo)
                seen[stem] = f"{stage} ({path})"


def story(args: argparse.Namespace) -> Iterator[Recipe]:
    """The recipes of the story as typed, in order. Raises UserError where --only names a kind that it has not."""
    if args.overrides and "=" not in args.overrides[0]:  # the story's file, or its folder, alone
        args.recipes = args.overrides.pop(0)
    if Path(args.recipes or "").name == FILE:
        args.recipes = str(Path(args.recipes).parent)
    asked = args.recipes or (ON_A_CARD if args.size or (args.corpus and has_card()) else ON_A_CPU)
    folder = located(Path(asked))
    phases = phases_of(folder, read_story(folder))
    chosen = argparse.Namespace(recipes=str(phases), size=args.size, model=args.model, corpus=args.corpus)
    _, size, why = pick_recipes(chosen)
    given = (args.corpus, args.general, args.model, args.out, by_recipe(args.overrides), size)
    run = load_materials_run(folder, *given)
    card = find_device(run["phase1"].execution.device)
    run = without_bfloat16(run) if card.device == "cuda" and not card.has_bfloat16 else run
    if not args.only:
        plan({name: recipe for name, recipe in run.items() if name in STORIES["two-phase"]}, why)
    yield from chosen_steps(args, run)
    if not args.only:
        print(f"\nDone: {Path(run['corpus'].out).parent}\n{next_words(run, asked)}")


def has_card() -> bool:
    return find_device().device == "cuda"


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
