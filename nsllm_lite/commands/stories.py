"""Stories: the steps of a run, in order, each with its recipe and the paths that follow from where the run is written.

A recipe folder has corpus, phase1, phase2, merge and report (`base` where the base model is made on the spot; tasks,
eval and sft where models are scored and model 2 is tuned on instructions). Each YAML is complete but for those paths.
"""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.plan import Run, plan
from nsllm_lite.commands.recipe_folder import card_elsewhere, choose_size, pick_recipes
from nsllm_lite.commands.steps import STORIES, Planned, planned_steps
from nsllm_lite.errors import UserError, nearest
from nsllm_lite.models.device import find_device
from nsllm_lite.models.sizes import QWEN3, REFERENCE, SIZED
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe import names
from nsllm_lite.recipe.kinds import KINDS, Recipe
from nsllm_lite.recipe.values import expanded, is_gguf

NEXT = {"phase1": "phase2", "phase2": "two-phase"}
AFTER = ("eval-run", "instruct")  # stories that begin where two-phase ends
TUNED = {step for story in AFTER for step in STORIES[story]}
NEEDED, TUNING = ("corpus", "phase1", "phase2", "merge", "report"), ("tasks", "eval", "sft")
ALONE = ("tokenizer",)  # of no story, but its paths follow from a run


def load_run(
    folder: Path,
    corpus: str | None = None,
    general: str | None = None,
    model: str | None = None,
    out: str | None = None,
    overrides: dict[str, list[str]] | None = None,
    size: str | None = None,
    changes: dict[str, dict[str, Any]] | None = None,
) -> Run:
    """The recipes of all steps of a recipe folder, with corpus, general text, base model and output folder filled in;
    before them the conversion of a model that is a GGUF file.

    `overrides` maps a recipe ("phase1") to `key=value` words for it, and `changes` to keys of it that another story
    has other values of. `size`, one of QWEN3, gives the model where none
    is named; a recipe such as phase1-0.6b.yaml is taken in place of phase1.yaml when the size is 0.6b. Raises UserError
    where a recipe is missing or wrong, an override concerns nothing, or the corpus path does not exist.
    """
    folder, overrides = Path(folder), overrides or {}
    size = size or (REFERENCE if folder.name == SIZED else None)
    is_chosen, model = not model, model or (QWEN3[size][0] if size else None)
    require_recipes(folder)
    tuned = all((folder / f"{name}.yaml").is_file() for name in TUNING)
    has_base = (folder / "base.yaml").is_file() and not model
    more = [name for name in ALONE if (folder / f"{name}.yaml").is_file()]
    files = {
        name: next(path for path in (folder / f"{name}-{size}.yaml", folder / f"{name}.yaml") if path.is_file())
        for name in (*NEEDED, *(["base"] if has_base else []), *(TUNING if tuned else ()), *more)
    }
    kinds = {step.recipe: step.kind for step in planned_steps(Layout(""), "") if step.recipe in files}
    require_known_recipes(overrides, kinds, first="phase1")
    values = {name: recipes.read(path) | (changes or {}).get(name, {}) for name, path in files.items()}
    values = {name: recipes.overridden(held, overrides.get(name, ())) for name, held in values.items()}
    if size and is_chosen:
        require_reference(values["phase1"].get("model"), size, files["phase1"])
    at = Layout(str(Path(out)) if out else root_of(folder, values["corpus"], corpus, size))
    run: Run = {}
    if model and is_gguf(model):
        conversion = {"kind": "convert", "gguf": model, "out": at.converted}
        run["convert"] = recipes.validate(conversion, f"MODEL={model}")
        model = at.converted
    base = model or (at.base if has_base else values["phase1"].get("model"))
    steps = [one for one in planned_steps(at, base) if one.step not in TUNED or tuned]
    inputs = corpus_changes(corpus, general)
    inputs |= {"tokenizer": model, "train_tokenizer": None} if model else {}
    heeded = {"phase1": {"model"}, "corpus": set() if out else {"out"}}
    run |= join(steps, files, values, overrides, inputs, heeded)
    cleared = run["corpus"].decontaminate  # of what the models are scored on, before any training
    added = [file.path for file in (run["eval"].files if tuned else ()) if file.path not in cleared]
    return run | {"corpus": recipes.update(run["corpus"], decontaminate=[*cleared, *added])}


def corpus_changes(corpus: str | None, general: str | None) -> dict[str, Any]:
    """What CORPUS= and GENERAL= change of the corpus's recipe. Raises UserError where there is no such path."""
    for path, word in ((corpus, "CORPUS"), (general, "GENERAL")):
        if path and not Path(path).exists():
            found = f"{word}={path}: no such file or folder. It must be the path of your papers or texts."
            raise UserError("input-path-missing", found, "Correct the path.")
    changes = {"sources": [{"name": "corpus", "path": corpus}]} if corpus else {}
    return changes | ({"general": [{"name": "general", "path": general}]} if general else {})


def join(
    steps: Sequence[Planned],
    files: dict[str, Path],
    values: dict[str, dict],
    overrides: dict[str, list[str]],
    of_corpus: dict[str, Any],
    heeded: dict[str, set[str]],
) -> Run:
    """The recipes of `steps` that have a file, by step, with what follows from the run filled in.

    `files` and `values` are by recipe, and so are the `heeded` keys, which a recipe may state although they follow from
    the run. Raises UserError where a recipe is wrong, or an override concerns what follows from the run.
    """
    run: Run = {}
    unread: dict[str, list[str]] = {}
    for step in steps:
        if step.recipe not in files:
            continue
        kept = heeded.get(step.recipe, ())
        stated = [key for key in step.changes if key not in kept and recipes.has(values[step.recipe], key)]
        unread.setdefault(step.recipe, []).extend(stated)
        changes = step.changes | (of_corpus if step.kind == "corpus" else {})
        require_free(overrides.get(step.recipe, ()), step.recipe, changes)
        whole = recipes.changed(values[step.recipe], changes)
        run[step.step] = recipes.validate(whole, str(files[step.recipe]), f"{step.recipe}.")
    for name, keys in unread.items():
        if keys:
            listed = ", ".join(dict.fromkeys(keys))
            print(f"{files[name]}: {listed} not read, since in a whole run they follow from where it is written (OUT=)")
    return run


def require_recipes(folder: Path) -> None:
    if not all((folder / f"{name}.yaml").is_file() for name in NEEDED):
        found = f"No recipes in {folder}:"
        todo = "Run from the project's folder, set RECIPES=recipes/NAME, or write a project with `nsllm-lite init DIR`."
        raise UserError("recipes-missing", found, f"needed are {', '.join(f'{name}.yaml' for name in NEEDED)}.", todo)


def require_reference(stated: Any, size: str, path: Path) -> None:
    """Raises UserError where the model that a recipe of all sizes states was changed: the size would hide it."""
    if stated not in (None, QWEN3[REFERENCE][0], QWEN3[size][0]):
        found = f"{path} states the model {stated}, but the size {size} takes {QWEN3[size][0]}."
        todo = f"Say which: MODEL={stated}, or model: {QWEN3[REFERENCE][0]} in that file again."
        raise UserError("model-of-recipe-changed", found, todo)


def root_of(folder: Path, stated: dict, corpus: str | None, size: str | None) -> str:
    """Output folder of a run without OUT=: from the names of the recipes, the size and the corpus."""
    root = f"runs/{folder.name}" + (f"-{size}" if size else "")
    if isinstance(stated.get("out"), str):  # of a folder that names it
        root = str(Path(stated["out"]).parent)
    return root + stem_of(corpus)


def stem_of(corpus: str | None) -> str:
    return f"-{Path(corpus).resolve().stem}" if corpus else ""


def require_known_recipes(overrides: dict[str, list[str]], kinds: dict[str, str], first: str) -> None:
    """Raises UserError where an override is of no recipe of a story, which has those of `kinds` (name -> kind); a key
    without its recipe is looked for in `first` first."""
    for name, words in overrides.items():
        if name not in kinds:
            typed = f"{name}.{words[0]}".rstrip(".")
            key, _, value = typed.partition("=")
            near = nearest(name, kinds) if "=" not in name else None
            instead = f"{near}.{words[0]}" if near else None
            for step in sorted(kinds, key=lambda one: one != first):  # lr=1e-4 without its step
                if instead is None and (word := names.meant(KINDS[kinds[step]].recipe, key, value, cutoff=1)):
                    instead = f"{step}.{word}"
            todo = f"Did you mean {names.as_typed(instead)}?" if instead else f"The steps here are {', '.join(kinds)}."
            raise UserError("setting-step-unknown", f"Setting {typed}: there is no step {name!r} here.", todo)


def by_recipe(words: Sequence[str]) -> dict[str, list[str]]:
    """`RECIPE.key=value` words by their recipe."""
    overrides: dict[str, list[str]] = {}
    for word in words:
        name, _, rest = word.partition(".")
        overrides.setdefault(name, []).append(rest)
    return overrides


def require_free(words: list[str] | tuple[str, ...], name: str, changes: dict[str, Any]) -> None:
    """Raises UserError for an override of a value that follows from the run: it would change nothing."""
    for word in words:
        if word.partition("=")[0].strip() in changes:
            found = f"Setting {name}.{word}: in a whole run this path follows from the others."
            todo = "Use OUT=, MODEL=, CORPUS= or GENERAL=, or run the single step: nsllm-lite VERB RECIPE key=value."
            raise UserError("setting-path-derived", found, todo)


def without_bfloat16(run: Run) -> Run:
    """The same run for a card that computes in fp16 and not in bf16, such as a T4."""
    in_bfloat16 = [name for name, recipe in run.items() if getattr(recipe, "compute_dtype", None) == "bfloat16"]
    return run | {name: recipes.update(run[name], compute_dtype="float16") for name in in_bfloat16}


def open_run(args: argparse.Namespace) -> tuple[Run, str]:
    """The recipes of a story as typed, and why this model was chosen, in words."""
    if args.verb == "plan" and args.overrides and "=" not in args.overrides[0]:
        named = Path(expanded(args.overrides.pop(0)))
        args.recipes = named.parent if named.suffix == ".yaml" else named
    folder, size, why = pick_recipes(args)
    run = load_run(folder, args.corpus, args.general, args.model, args.out, by_recipe(args.overrides), size)
    card = card_elsewhere(args) or find_device(run["phase1"].execution.device)
    if card.device == "cuda" and not card.has_bfloat16:
        run = without_bfloat16(run)
    if args.verb in AFTER and "sft" not in run:
        found = f"No tasks.yaml, eval.yaml and sft.yaml in {folder}."
        needed = "Scores and instruction tuning need them:"
        raise UserError("tuning-recipes-missing", found, needed, "copy those of recipes/nano and set their values.")
    return run, why


def plan_run(args: argparse.Namespace) -> dict[str, Any]:
    """`nsllm-lite plan`: what the run will use; starts nothing."""
    run, why = open_run(args)
    return plan(run, why, False, card_elsewhere(args), args.all, args.price, args.trace)


def story(args: argparse.Namespace) -> Iterator[Recipe]:
    """The recipes of a story, in order, with the plan printed where a whole one begins, and what comes next behind it.
    Raises UserError where what it starts from is not there, or it has no step of the kind that --only names."""
    run, why = open_run(args)
    if args.verb == "phase2":
        require_made(run["phase2"].model, "phase 1's", "phase1")
    if args.verb in AFTER:
        require_made(run["sft"].model, "phase 2's", "two-phase")
    elif not args.only:
        plan(run, why)
    steps = chosen_steps(args, run)
    yield from steps
    if not args.only:
        print(closing_words(args, steps[-1]))


def chosen_steps(args: argparse.Namespace, run: Run) -> list[Recipe]:
    """Those of the story, or of --only alone. Raises UserError where there is none of that kind."""
    steps = [run[name] for name in STORIES.get(args.verb, run) if name in run]
    chosen = [recipe for recipe in steps if args.only in (None, recipe.kind)]
    if not chosen:
        found = f"--only {args.only}: {args.verb} has no step of that kind."
        todo = f"Its steps are of the kinds {', '.join(dict.fromkeys(recipe.kind for recipe in steps))}."
        raise UserError("only-matches-no-step", found, todo)
    return chosen


def require_made(model: str, whose: str, before: str) -> None:
    if not (Path(model) / "manifest.json").is_file():
        todo = f"Run `make {before}` first, with the same CORPUS, MODEL, SIZE, RECIPES and OUT."
        raise UserError("run-model-missing", f"This starts from {whose} merged model, and {model} is not there.", todo)


def closing_words(args: argparse.Namespace, last: Recipe) -> str:
    """What is printed at the end of a story, with the next command."""
    lines = [f"\nDone: {last.out}"]
    if verb := NEXT.get(args.verb):
        given = {name: getattr(args, name) for name in ("corpus", "general", "model", "size", "recipes", "out")}
        lines.append(f"Next: {command(verb, {name: value for name, value in given.items() if value}, args.overrides)}")
    if not args.corpus:
        lines.append(real_command())
    return "\n".join(lines)


def command(verb: str, given: dict[str, str], settings: Sequence[str] = ()) -> str:
    """The command to type: `make` where there is a Makefile, else `nsllm-lite`."""
    if Path("Makefile").is_file():
        given = given | ({"set": " ".join(settings)} if settings else {})
        return " ".join([f"make {verb}", *(f"{name.upper()}={shlex.quote(value)}" for name, value in given.items())])
    options = (f"--{name} {shlex.quote(value)}" for name, value in given.items())
    return " ".join([f"nsllm-lite {verb}", *options, *map(shlex.quote, settings)])


def real_command() -> str:
    """The exact command of the real run on the card of this machine."""
    words = command("phase1", {"corpus": "path/to/your/papers"})
    try:
        card = find_device()
        _, why = choose_size(card.total_bytes / GIB if card.total_bytes else None)
    except UserError:
        return f"The real run needs an NVIDIA card (22 GiB or more for Qwen3-8B-Base), and none is here:\n  {words}"
    return f"The real run on this {card.name}: {why}\n  {words}"
