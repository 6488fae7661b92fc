"""The encoders' story: papers -> tokenizer, encoder and its small twin, embeddings of both, a classifier."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.json_files import read_object
from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.plan import Run
from nsllm_lite.commands.recipe_folder import ENCODER, located
from nsllm_lite.commands.steps import LABELLED, Planned, encoder_steps
from nsllm_lite.commands.stories import by_recipe, chosen_steps, corpus_changes, join, require_known_recipes, stem_of
from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import model_files, read_header
from nsllm_lite.models.device import find_device
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.finetune import Finetune
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
        if not stores_head(resolve_model(model)):
            print(f"{model} stores no head for masked tokens: one is drawn from the seed (mlm.new_head=true)")
            values["mlm"]["new_head"] = True
    return join(with_own_labels(encoder_steps(at, model), values["finetune"]), files, values, overrides, inputs, {})


def with_own_labels(steps: list[Planned], finetune: dict[str, Any]) -> list[Planned]:
    """The steps, with the data that the recipe of the classifier states itself, where it does."""
    if not finetune.get("data"):
        return steps

    def kept(step: Planned) -> Planned:
        changes = {key: value for key, value in step.changes.items() if key not in ("data", "test")}
        return step._replace(changes=changes) if step.recipe == "finetune" else step

    return [kept(step) for step in steps]


def labelled_by_papers(recipe: Finetune) -> Finetune | None:
    """The classifier's recipe on the first of LABELLED that the finished tasks have, with two labels at least; None
    where there is none. That on files of the user's own stays."""
    test = Path(recipe.test or "")
    folder = test.parents[1] if test.name == f"{LABELLED[0]}.jsonl" else None
    if folder is None or not (folder / "manifest.json").is_file():
        return recipe
    for task in LABELLED:
        files = {split: folder / split / f"{task}.jsonl" for split in ("train", "test")}
        if all(file.is_file() for file in files.values()):
            labels = {json.loads(line)["output"] for line in files["train"].read_text(encoding="utf-8").splitlines()}
            if len(labels) > 1:
                return recipes.update(recipe, data=[str(files["train"])], test=str(files["test"]))
    return None


def end_of_text(model: str) -> str:
    """What the tokenizer of an encoder ends a text with."""
    from nsllm_lite.formats.tokenizer import load_auto_tokenizer

    tokenizer = load_auto_tokenizer(resolve_model(model))
    return tokenizer.sep_token or tokenizer.eos_token


def stores_head(folder: Path) -> bool:
    """Whether the encoder in `folder` has a head for masked tokens among its weights; of an architecture that is not
    known this is left to the training to say."""
    from nsllm_lite.models.encoder import HEADS

    parts = HEADS.get(read_object(folder / "config.json").get("model_type"), ("",))
    names = (name for file in model_files(folder) for name in read_header(folder / file))
    return any(name.split(".")[0] in parts or parts == ("",) for name in names)


def root_of(folder: Path, corpus: str | None) -> str:
    name = folder.name if folder.name == ENCODER else f"{folder.name}-{ENCODER}"
    return f"runs/{name}" + stem_of(corpus)


def story(args: argparse.Namespace) -> Iterator[Recipe]:
    """The recipes of the story as typed, in order: those of nano where no card is here; the classifier only where the
    papers give labels, which is known once they are read. Raises UserError where --only names a kind that it has not.
    """
    asked = args.recipes or (ON_A_CARD if args.corpus and find_device().device == "cuda" else ON_A_CPU)
    given = (args.corpus, args.general, args.model, args.out, by_recipe(args.overrides))
    run = load_encoder_run(located(Path(asked)), *given)
    print(f"Recipes of {asked}: {', '.join(run)}")
    for recipe in chosen_steps(args, run):
        if recipe.kind != "finetune":
            yield recipe
        elif known := labelled_by_papers(recipe):
            yield known
        else:
            print("\nNo classifier: these papers state neither the parts of their abstracts nor two disciplines.")
    if not args.only:
        print(f"\nDone: {Path(run['mlm'].out).parent}\n{next_words(run)}")


def next_words(run: Run) -> str:
    """What was made, and the commands that put it to use."""
    model = {name: f"{run[name].out}/model" for name in ("mlm", "distill", "embed", "embed-small", "finetune")}
    lines = [
        f"Search:        {model['embed']}, small: {model['embed-small']} (folders of sentence-transformers)",
        f"Encoder:       {model['mlm']}, small: {model['distill']} (AutoModel of transformers)",
        f"Scores:        nsllm-lite eval {model['embed']} {model['embed-small']} --file retrieval=FOLDER",
        f"Your labels:   nsllm-lite finetune {ON_A_CPU}/finetune.yaml model={model['mlm']} 'data=[labels.csv]' "
        f"out={Path(run['mlm'].out).parent}/own-labels",
        f"One page:      nsllm-lite show {Path(run['mlm'].out).parent} --html encoders.html",
    ]
    return "\n".join(lines)
