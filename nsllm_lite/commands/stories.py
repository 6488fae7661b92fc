"""Stories: the steps of a run, in order, each with its recipe and the paths that follow from where the run is written.

A recipe folder has corpus, phase1, phase2, merge and report (`base` where the base model is made on the spot; tasks,
eval and sft where models are scored and model 2 is tuned on instructions). Each YAML is complete but for those paths.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.plan import Run, plan
from nsllm_lite.commands.recipe_folder import card_elsewhere, choose_size, pick_recipes
from nsllm_lite.errors import UserError, nearest
from nsllm_lite.models.device import find_device
from nsllm_lite.models.sizes import QWEN3, REFERENCE, SIZED
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe import names
from nsllm_lite.recipe.kinds import KINDS, Recipe
from nsllm_lite.recipe.values import expanded, is_gguf

STORIES = {
    "phase1": ("convert", "corpus", "base", "phase1", "model1"),
    "phase2": ("convert", "corpus", "phase2", "model2"),
    "two-phase": ("convert", "corpus", "base", "phase1", "model1", "phase2", "model2", "report"),
    "eval-run": ("tasks", "eval"),
    "instruct": ("tasks", "sft", "model-sft", "eval-sft"),
}
"""What is typed -> the steps it runs; `base` only where the folder has a recipe for it, `convert` for a GGUF."""

NEXT = {"phase1": "phase2", "phase2": "two-phase"}
AFTER = ("eval-run", "instruct")  # stories that begin where two-phase ends
TUNED = {step for story in AFTER for step in STORIES[story]}
NEEDED, TUNING = ("corpus", "phase1", "phase2", "merge", "report"), ("tasks", "eval", "sft")
ALONE = ("tokenizer",)  # of no story, but its paths follow from a run


class Planned(NamedTuple):
    """A step: its name, its kind, its recipe file, and what of the recipe follows from the run (dotted keys)."""

    step: str
    kind: str
    recipe: str
    changes: dict[str, Any]


def planned_steps(at: Layout, base: str) -> list[Planned]:
    """All steps there can be, in order; `base` is the model that phase 1 begins with."""

    def train(name: str, rows: str, **more: str) -> Planned:
        shared = {"out": at.step(name), "rows": at.rows(rows, "train"), "replay.rows": at.rows("general", "train")}
        domain = at.rows("phase1" if rows == "general" else rows, "heldout")
        heldout = {"evaluation.domain_rows": domain, "evaluation.general_rows": at.rows("general", "heldout")}
        return Planned(name, "train", name, shared | heldout | more)

    def merge(name: str, model: str, trained: str, rows: str, then_requantize: bool = False) -> Planned:
        paths = {"base": model, "adapter": at.adapter(trained), "out": at.step(name)}
        return Planned(
            name, "merge", "merge",
            paths | {"then_requantize": then_requantize, "heldout_rows": at.rows(rows, "heldout")},
        )  # fmt: skip

    def scores(name: str, models: dict[str, str], **more: Any) -> Planned:
        listed = [{"name": called, "path": path, **more} for called, path in models.items()]
        return Planned(name, "eval", "eval", {"out": at.step(name), "tasks": at.step("tasks"), "models": listed})

    model1, model2, tuned = map(at.step, ("model1", "model2", "model-sft"))
    phases = {"phase 1": model1, "phase 2": model2, "phase 2, adapter on NF4": at.adapter("phase2")}
    rows = {"abstract_rows": "phase1", "experiment_rows": "phase2", "general_rows": "general"}
    return [
        Planned("corpus", "corpus", "corpus", {"out": at.step("corpus")}),
        Planned("tokenizer", "tokenizer", "tokenizer", {"out": at.step("tokenizer"), "corpus": at.step("corpus")}),
        train("base", "general", **{"build.tokenizer": at.tokenizer}),
        train("phase1", "phase1", model=base),
        merge("model1", base, "phase1", "phase1", then_requantize=True),  # phase 2 loads model 1 in NF4
        train("phase2", "phase2", model=model1),
        merge("model2", model1, "phase2", "phase2"),
        Planned(
            "report", "report", "report",
            {"base": base, "out": at.step("report"), "documents": at.documents}
            | {name: at.step(name) for name in ("phase1", "model1", "phase2", "model2")}
            | {name: at.rows(phase, "heldout") for name, phase in rows.items()},
        ),
        Planned("tasks", "tasks", "tasks", {"out": at.step("tasks"), "corpus": at.step("corpus")}),
        scores("eval", {"base": base, **phases}),
        Planned(
            "sft", "sft", "sft",
            {"out": at.step("sft"), "model": model2, "data": [at.tasks("train")], "heldout": [at.tasks("test")]},
        ),
        merge("model-sft", model2, "sft", "phase2"),
        scores("eval-sft", {"phase 2": model2, "tuned": tuned}, modes=["few-shot", "instruction"]),
    ]  # fmt: skip


def load_run(
    folder: Path,
    corpus: str | None = None,
    general: str | None = None,
    model: str | None = None,
    out: str | None = None,
    overrides: dict[str, list[str]] | None = None,
    size: str | None = None,
) -> Run:
    """The recipes of all steps of a recipe folder, with corpus, general text, base model and output folder filled in;
    before them the conversion of a model that is a GGUF file.

    `overrides` maps a recipe ("phase1") to `key=value` words for it. `size`, one of QWEN3, gives the model where none
    is named; a recipe such as phase1-0.6b.yaml is taken in place of phase1.yaml when the size is 0.6b. Raises UserError
    where a recipe is missing or wrong, an override concerns nothing, or the corpus path does not exist.
    """
    folder, overrides = Path(folder), overrides or {}
    size = size or (REFERENCE if folder.name == SIZED else None)
    is_chosen, model = not model, model or (QWEN3[size][0] if size else None)
    require_recipes(folder)
    for path, word in ((corpus, "CORPUS"), (general, "GENERAL")):
        if path and not Path(path).exists():
            found = f"{word}={path}: no such file or folder. It must be the path of your papers or texts."
            raise UserError("input-path-missing", found, "Correct the path.")
    tuned = all((folder / f"{name}.yaml").is_file() for name in TUNING)
    has_base = (folder / "base.yaml").is_file() and not model
    more = [name for name in ALONE if (folder / f"{name}.yaml").is_file()]
    files = {
        name: next(path for path in (folder / f"{name}-{size}.yaml", folder / f"{name}.yaml") if path.is_file())
        for name in (*NEEDED, *(["base"] if has_base else []), *(TUNING if tuned else ()), *more)
    }
    require_known_steps(overrides, list(files))
    values = {name: recipes.read(path, overrides.get(name, ())) for name, path in files.items()}
    if size and is_chosen:
        require_reference(values["phase1"].get("model"), size, files["phase1"])
    at = Layout(str(Path(out)) if out else root_of(folder, values["corpus"], corpus, size))
    run: Run = {}
    if model and is_gguf(model):
        conversion = {"kind": "convert", "gguf": model, "out": at.converted}
        run["convert"] = recipes.validate(conversion, f"MODEL={model}")
        model = at.converted
    unread: dict[str, list[str]] = {}
    for step in planned_steps(at, model or (at.base if has_base else values["phase1"].get("model"))):
        if step.recipe not in files or (step.step in TUNED and not tuned):
            continue
        changes = dict(step.changes)
        unread.setdefault(step.recipe, []).extend(stated(values[step.recipe], step, corpus_out=not out))
        if step.kind == "corpus":
            changes |= {"sources": [{"name": "corpus", "path": corpus}]} if corpus else {}
            changes |= {"general": [{"name": "general", "path": general}]} if general else {}
            changes |= {"tokenizer": model, "train_tokenizer": None} if model else {}
        require_free(overrides.get(step.recipe, ()), step.recipe, changes)
        whole = recipes.changed(values[step.recipe], changes)
        run[step.step] = recipes.validate(whole, str(files[step.recipe]), f"{step.recipe}.")
    for name, keys in unread.items():
        if keys:
            listed = ", ".join(dict.fromkeys(keys))
            print(f"{files[name]}: {listed} not read, since in a whole run they follow from where it is written (OUT=)")
    cleared = run["corpus"].decontaminate  # of what the models are scored on, before any training
    added = [file.path for file in (run["eval"].files if tuned else ()) if file.path not in cleared]
    return run | {"corpus": recipes.update(run["corpus"], decontaminate=[*cleared, *added])}


def stated(values: dict, step: Planned, corpus_out: bool) -> list[str]:
    """Paths that a recipe states although they follow from the run; the corpus's `out` may name the run's folder."""
    heeded = {"model"} if step.step == "phase1" else {"out"} if step.kind == "corpus" and corpus_out else set()
    return [key for key in step.changes if key not in heeded and recipes.has(values, key)]


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
    return root + (f"-{Path(corpus).resolve().stem}" if corpus else "")


def require_known_steps(overrides: dict[str, list[str]], known: list[str]) -> None:
    kinds = {step.recipe: KINDS[step.kind].recipe for step in planned_steps(Layout(""), "") if step.recipe in known}
    for name, words in overrides.items():
        if name not in known:
            typed = f"{name}.{words[0]}".rstrip(".")
            key, _, value = typed.partition("=")
            near = nearest(name, known) if "=" not in name else None
            instead = f"{near}.{words[0]}" if near else None
            for step in sorted(kinds, key=lambda one: one != "phase1"):  # lr=1e-4 without its step
                if instead is None and (word := names.meant(kinds[step], key, value, cutoff=1)):
                    instead = f"{step}.{word}"
            todo = f"Did you mean {names.as_typed(instead)}?" if instead else f"The steps here are {', '.join(known)}."
            raise UserError("setting-step-unknown", f"Setting {typed}: there is no step {name!r} here.", todo)


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
    overrides: dict[str, list[str]] = {}
    for word in args.overrides:
        step, _, rest = word.partition(".")
        overrides.setdefault(step, []).append(rest)
    run = load_run(folder, args.corpus, args.general, args.model, args.out, overrides, size)
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


def steps_to_run(args: argparse.Namespace) -> list[Recipe]:
    """The recipes of a story, in order, with the plan printed where a whole one begins. Raises UserError where what it
    starts from is not there, or it has no step of the kind that --only names."""
    run, why = open_run(args)
    if args.verb == "phase2":
        require_made(run["phase2"].model, "phase 1's", "phase1")
    if args.verb in AFTER:
        require_made(run["sft"].model, "phase 2's", "two-phase")
    elif not args.only:
        plan(run, why)
    steps = [run[name] for name in STORIES[args.verb] if name in run]
    steps = [recipe for recipe in steps if args.only in (None, recipe.kind)]
    if not steps:
        found = f"--only {args.only}: {args.verb} has no step of that kind;"
        raise UserError("only-matches-no-step", found, "use two-phase, which has them all.")
    return steps


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
