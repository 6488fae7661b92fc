"""The adaptation ladder's story: the same phase for several bases, and what each gained from it.

The corpus is packed once for each tokenizer, bases of nano recipes are built, each base is trained with each seed, and
the last step (`evals.ladder`) compares them. In OUT: corpus-TOKENIZER/, bases/NAME/, trained/NAME/seed-N/, ladder/.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import read_object, sha256_json
from nsllm_lite.commands.typed import read_kind
from nsllm_lite.errors import UserError
from nsllm_lite.models.architectures import require_positions
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Corpus
from nsllm_lite.recipe.kinds import Recipe
from nsllm_lite.recipe.ladder import Base, Ladder
from nsllm_lite.recipe.train import Train

if TYPE_CHECKING:
    from nsllm_lite.formats.rows import Rows
    from nsllm_lite.train.order import StepOrder

PARTS = ("corpus", "train", "build")
"""What words for the recipes that the ladder names begin with, as in train.optimizer.learning_rate=1e-4."""

OF_CORPUS = ("out", "tokenizer", "train_tokenizer")
OF_ROWS = ("rows", "replay.rows", "evaluation.domain_rows", "evaluation.general_rows")
OF_TRAINING = ("out", "model", "build", "budget", *OF_ROWS)
OF_BUILD = ("out", "model", "build.tokenizer", *OF_ROWS)


class Asked(NamedTuple):
    """The ladder as typed, and the values of the recipes that it names; `builds` are by base."""

    recipe: Ladder
    corpus: dict[str, Any]
    train: dict[str, Any]
    builds: dict[str, dict[str, Any]]

    @property
    def root(self) -> str:
        return self.recipe.out


def story(args: argparse.Namespace) -> Iterator[Recipe]:
    """The recipes of the ladder's steps, in order. Raises UserError where one is wrong, or a base cannot read this
    corpus, before anything begins; where the budget shows the papers too often, before the first training."""
    asked = as_typed(args)
    recipe = asked.recipe
    if recipe.adapted is not None:
        yield recipe
        return
    corpora = corpora_of(asked)
    each = {corpus.out: corpus for corpus in corpora.values()}
    models = {base.name: base.model or f"{asked.root}/bases/{base.name}/model" for base in recipe.bases}
    firsts = {base.name: first_of(asked, base, corpora[base.name], models[base.name]) for base in recipe.bases}
    builds = [build_of(asked, base, corpora[base.name]) for base in recipe.bases if base.build]
    count = len(recipe.bases) * recipe.seeds
    print(
        f"Ladder: {len(recipe.bases)} bases ({', '.join(base.name for base in recipe.bases)}), {recipe.seeds} seeds: "
        f"{count} trainings of {recipe.budget.steps:,} steps at most, {len(each)} tokenizers"
    )
    yield from each.values()
    trainings = trainings_of(recipe, corpora, firsts)
    yield from builds
    for of_base in trainings.values():
        yield from of_base
    adapted = [
        {
            "name": name,
            "model": models[name],
            "corpus": corpora[name].out,
            "trainings": [training.out for training in of_base],
        }
        for name, of_base in trainings.items()
    ]
    last = recipes.update(recipe, out=f"{asked.root}/ladder", adapted=adapted)
    yield last
    print(f"\nDone: {last.out}/ladder.md, ladder.png; all figures in ladder.json, of each document in documents.json")


def as_typed(args: argparse.Namespace) -> Asked:
    """The ladder's recipe and those that it names, with the words for each. Raises UserError where one is wrong, or a
    word is of what follows from the ladder."""
    words: dict[str, list[str]] = {part: [] for part in ("", *PARTS)}
    for word in args.overrides:
        part, dot, rest = word.partition(".")
        is_inner = dot and part in PARTS
        words[part if is_inner else ""].append(rest if is_inner else word)
    recipe = recipes.validate(read_kind("ladder", args.recipe, words[""], args.run), str(args.recipe))
    built = {base.name: str(base.build) for base in recipe.bases if base.build}
    unused = [part for part in PARTS if words[part] and (recipe.adapted is not None or (part == "build" and not built))]
    if unused:
        found = f"{unused[0]}.{words[unused[0]][0]}: this ladder has nothing that it could change."
        todo = "Leave it out (`adapted` compares finished trainings; `build.` is of bases that are built)."
        raise UserError("ladder-word-unused", found, todo)

    def read(kind: str, part: str, path: str, keys: Sequence[str]) -> dict[str, Any]:
        require_free(part, words[part], keys)
        values = read_kind(kind, Path(path), words[part])
        if stated := [key for key in keys if recipes.has(values, key)]:
            print(f"{path}: {', '.join(stated)} not read, since in a ladder they follow from its own recipe")
        return values

    corpus = read("corpus", "corpus", recipe.corpus, OF_CORPUS[:1] if built else OF_CORPUS)
    train = read("train", "train", recipe.train, OF_TRAINING)
    of_files = {path: read("train", "build", path, OF_BUILD) for path in dict.fromkeys(built.values())}
    return Asked(recipe, corpus, train, {name: of_files[path] for name, path in built.items()})


def require_free(part: str, words: Sequence[str], keys: Sequence[str]) -> None:
    """Raises UserError for a word that sets what follows from the ladder: it would change nothing."""
    for word in words:
        key = word.partition("=")[0].strip()
        if key in keys or any(key.startswith(f"{whole}.") for whole in keys if whole in ("budget", "out", "model")):
            found = f"{part}.{word}: in a ladder `{key}` follows from its own recipe."
            todo = f"Set {word} alone, where it is a key of the ladder, or leave it out."
            raise UserError("ladder-key-derived", found, todo)


def corpora_of(asked: Asked) -> dict[str, Corpus]:
    """The corpus of each base by its name; those of equal tokenizers are one. Raises UserError where a tokenizer has
    not the token that ends a text, or a base cannot read rows as long."""
    own = recipes.changed(asked.corpus, {"out": f"{asked.root}/corpus"})
    found = {
        base.name: recipes.validate(own, asked.recipe.corpus, "corpus.") for base in asked.recipe.bases if base.build
    }
    shared: dict[str, Corpus] = {}
    for base in sorted((base for base in asked.recipe.bases if base.model), key=lambda base: base.name):
        end = base.end_of_text or asked.corpus.get("end_of_text")
        changes = {"tokenizer": base.model, "train_tokenizer": None, "end_of_text": end}
        corpus = recipes.validate(recipes.changed(own, changes), asked.recipe.corpus, "corpus.")
        key = tokenizer_key(base, corpus)
        out = f"{asked.root}/corpus-{key[:12]}"
        found[base.name] = shared.setdefault(key, recipes.update(corpus, out=out))
    return found


def tokenizer_key(base: Base, corpus: Corpus) -> str:
    """What the rows of a base follow from: its tokenizer, and what begins and ends a text."""
    from nsllm_lite.corpus import tokenizer
    from nsllm_lite.formats.tokenizer import chosen_begin_of_text

    folder = resolve_model(base.model)
    try:
        opened = tokenizer.load_tokenizer(str(folder))
        end = tokenizer.end_of_text_id(opened, corpus.end_of_text)
        begin, _ = chosen_begin_of_text(opened, corpus.begin_of_text)
    except UserError as error:
        raise error.at(base.name) from None
    config = read_object(folder / "config.json")
    require_positions(config, corpus.row_tokens, "corpus.row_tokens")
    file = folder / "tokenizer.json"
    return sha256_json([sha256_file(file) if file.is_file() else opened.to_str(), list(begin), end])


def build_of(asked: Asked, base: Base, corpus: Corpus) -> Train:
    """The training that makes a base from nothing, on the general text."""
    values = asked.builds[base.name]
    changes = {"out": f"{asked.root}/bases/{base.name}", "build.tokenizer": f"{corpus.out}/tokenizer"}
    changes |= paths_of(corpus, "general")
    if base.steps:
        per_step = values.get("budget", {}).get("tokens_per_step")
        values = recipes.overridden(values, [f"budget.steps={base.steps}"]) if per_step else values
    return recipes.validate(recipes.changed(values, changes), str(base.build), "build.")


def paths_of(corpus: Corpus, trained_on: str) -> dict[str, str]:
    rows = f"{corpus.out}/rows"
    return {
        "rows": f"{rows}/{trained_on}/train",
        "replay.rows": f"{rows}/general/train",
        "evaluation.domain_rows": f"{rows}/phase1/heldout",
        "evaluation.general_rows": f"{rows}/general/heldout",
    }


def first_of(asked: Asked, base: Base, corpus: Corpus, model: str) -> Train:
    """The training of a base with the first seed, before its own folder is known."""
    changes = {"model": model, "build": None, "budget": asked.recipe.budget.model_dump()} | paths_of(corpus, "phase1")
    return recipes.validate(recipes.changed(asked.train, changes) | {"out": asked.root}, asked.recipe.train, "train.")


def trainings_of(recipe: Ladder, corpora: dict[str, Corpus], firsts: dict[str, Train]) -> dict[str, list[Train]]:
    """The trainings of each base, by seed. Raises UserError where their rows do not fit them, or the papers would be
    seen too often."""
    from nsllm_lite.formats.rows import Rows
    from nsllm_lite.train.inputs import require_rows_for
    from nsllm_lite.train.order import order_of

    trainings: dict[str, list[Train]] = {}
    num_bytes: dict[str, Callable[[int], int]] = {}  # of a training's folder, by its steps
    for base in recipe.bases:
        first, paths = firsts[base.name], paths_of(corpora[base.name], "phase1")
        rows, replay = Rows(Path(paths["rows"])), Rows(Path(paths["replay.rows"]))
        require_rows_for(first.budget, [rows])
        replay = replay if len(replay) else None
        require_epochs(base.name, recipe, order_of(first, rows, replay, first.budget.steps))
        trainings[base.name] = [
            recipes.update(first, out=f"{recipe.out}/trained/{base.name}/seed-{seed}", seed=seed)
            for seed in range(first.seed, first.seed + recipe.seeds)
        ]
        for training in trainings[base.name]:
            num_bytes[training.out] = partial(_bytes_seen, training, rows, replay)
    if recipe.equal == "tokens":
        return trainings
    fewest = min(seen(recipe.budget.steps) for seen in num_bytes.values())
    return {
        name: [with_steps(training, num_bytes[training.out], fewest) for training in of_base]
        for name, of_base in trainings.items()
    }


def _bytes_seen(training: Train, rows: "Rows", replay: "Rows | None", steps: int) -> int:
    from nsllm_lite.train.order import order_of

    return order_of(training, rows, replay, steps).num_bytes(steps)


def require_epochs(name: str, recipe: Ladder, order: "StepOrder") -> None:
    epochs = order.epochs(recipe.budget.steps)
    if epochs > recipe.max_epochs:
        steps = int(recipe.budget.steps * recipe.max_epochs / epochs)
        found = (
            f"{recipe.budget.steps:,} steps show {name} the papers {epochs:.1f} times, more than {recipe.max_epochs:g}."
        )
        needed = "What is seen so often is learned by heart, and the gain is not of new text."
        todo = (
            f"Set budget.steps={max(1, steps)} or fewer, give more papers, or allow it: max_epochs={math.ceil(epochs)}"
        )
        raise UserError("ladder-epochs", found, needed, todo)


def with_steps(training: Train, num_bytes: Callable[[int], int], wanted: int) -> Train:
    """The training with the steps, as many as it has at most, whose text comes nearest to `wanted` bytes."""
    low, high = 1, training.budget.steps  # by bisection: more steps show more text
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if num_bytes(middle) <= wanted else (low, middle)
    steps = min((low, high), key=lambda count: abs(num_bytes(count) - wanted))
    per_step = training.budget.tokens_per_step
    budget = {"steps": steps, "tokens_per_step": per_step, "tokens": steps * per_step}
    return recipes.validate(training.model_dump(mode="json") | {"budget": budget}, training.out, "train.")
