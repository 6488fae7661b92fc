"""The encoders' story: papers -> tokenizer, encoder and its small twin, embeddings of both, a classifier."""

import argparse
from pathlib import Path

from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.plan import Run
from nsllm_lite.commands.recipe_folder import ENCODER, located
from nsllm_lite.commands.steps import encoder_steps
from nsllm_lite.commands.stories import by_recipe, chosen_steps, corpus_changes, join, require_known_recipes, stem_of
from nsllm_lite.errors import UserError
from nsllm_lite.models.device import find_device
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.kinds import Recipe

ON_A_CARD, ON_A_CPU = f"recipes/{ENCODER}", "recipes/nano"
FILES = {step.recipe: step.kind for step in encoder_steps(Layout(""), None)}


def load_encoder_run(
    folder: Path,
    corpus: str | None = None,
    general: str | None = None,
    model: str | None = None,
    out: str | None = None,
    overrides: dict[str, list[str]] | None = None,
) -> Run:
    """The recipes of all steps, with corpus, general text, the encoder it begins with and output folder filled in.

    `overrides` maps a recipe ("mlm") to `key=value` words for it. Raises UserError where a recipe is missing or wrong,
    an override concerns nothing, or the corpus path does not exist.
    """
    overrides = overrides or {}
    files = {name: folder / f"{name}.yaml" for name in FILES}
    if missing := [f"{name}.yaml" for name, path in files.items() if not path.is_file()]:
        found = f"{folder} has no {', '.join(missing)}."
        todo = f"Set RECIPES={ON_A_CPU} or {ON_A_CARD}, or copy these files from there."
        raise UserError("encoder-recipes-missing", found, "The encoders' story needs them:", todo)
    require_known_recipes(overrides, FILES, first="mlm")
    values = {name: recipes.read(path, overrides.get(name, ())) for name, path in files.items()}
    at = Layout(str(Path(out)) if out else root_of(folder, corpus))
    compared = values["encoder-tokenizer"].get("compare")
    values["encoder-tokenizer"]["compare"] = [at.tokenizer, *(compared if isinstance(compared, list) else [])]
    inputs = corpus_changes(corpus, general)
    if model:
        inputs |= {"tokenizer": model, "train_tokenizer": None, "end_of_text": end_of_text(model)}
    return join(encoder_steps(at, model), files, values, overrides, inputs, {})


def end_of_text(model: str) -> str:
    """What the tokenizer of an encoder ends a text with."""
    from nsllm_lite.formats.tokenizer import load_auto_tokenizer
    from nsllm_lite.models.hub import resolve_model

    tokenizer = load_auto_tokenizer(resolve_model(model))
    return tokenizer.sep_token or tokenizer.eos_token


def root_of(folder: Path, corpus: str | None) -> str:
    name = folder.name if folder.name == ENCODER else f"{folder.name}-{ENCODER}"
    return f"runs/{name}" + stem_of(corpus)


def encoder_run(args: argparse.Namespace) -> list[Recipe]:
    """The recipes of the story as typed, in order: those of nano where no card is here. Raises UserError where --only
    names a kind that it has not."""
    asked = args.recipes or (ON_A_CARD if args.corpus and find_device().device == "cuda" else ON_A_CPU)
    given = (args.corpus, args.general, args.model, args.out, by_recipe(args.overrides))
    run = load_encoder_run(located(Path(asked)), *given)
    print(f"Recipes of {asked}: {', '.join(run)}")
    return chosen_steps(args, run)
