"""Which recipe folder and which size of Qwen3 a run takes."""

import argparse
from pathlib import Path

import nsllm_lite
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.errors import UserError, did_you_mean
from nsllm_lite.models.cards import card_named
from nsllm_lite.models.device import Card, find_device
from nsllm_lite.models.sizes import QWEN3, REFERENCE, SIZED, read_size

ENCODER = "encoder"  # the folder of the encoders' story on a card
MATERIALS = "materials"  # and that of the materials' story
INSTALLED = Path(nsllm_lite.__file__).parent / "recipes"  # a link in a clone, a copy in a wheel


def sized(folder: Path) -> tuple[Path, str | None]:
    """(recipes/qwen3, 8b) for recipes/qwen3-8b, a former folder of one size; (itself, None) for an existing one."""
    name, _, size = folder.name.partition("-")
    is_former = name == SIZED and size in QWEN3 and not folder.exists()
    return (folder.with_name(SIZED), size) if is_former else (folder, None)


def pick_size(asked: Path, size: str | None = None, model: str | None = None) -> tuple[Path, str | None]:
    """Recipe folder and size from RECIPES=, SIZE= and MODEL=; size None: the card decides, or there are no sizes.
    Raises UserError where there is no such size, or two of them disagree."""
    folder, former = sized(asked)
    if former:
        print(f"{asked} is now {folder} with SIZE={former}")
    if size and size not in QWEN3:
        todo = did_you_mean(size.lower(), QWEN3, f"Name one of {', '.join(QWEN3)}.")
        raise UserError("size-unknown", f"SIZE={size}: no such size.", todo)
    if size and (folder.name != SIZED or former not in (None, size)):
        todo = f"Leave one of them out, or set RECIPES=recipes/{SIZED}."
        raise UserError("size-not-of-recipes", f"SIZE={size}: {asked} has no recipes for it.", todo)
    of_model = next((word for word, (hub_id, _, _) in QWEN3.items() if hub_id == model), None)
    if model and size and not of_model and (Path(model) / "config.json").is_file():
        of_model = next((word for word, (_, _, widths) in QWEN3.items() if widths == read_size(Path(model))), None)
    taken = size or former
    if model and taken and of_model != taken and (size or of_model):
        found = f"MODEL={model} is not of SIZE={taken}, which is {QWEN3[taken][0]}."
        raise UserError("size-not-of-model", found, "Leave one of them out.")
    return folder, (of_model or taken) if folder.name == SIZED else None


def choose_size(card_gib: float | None) -> tuple[str, str]:
    """The size for a card of `card_gib` (None: no card), and the reason in words. Raises UserError where there is no
    card, or it is too small for every recipe."""
    if card_gib is None:
        found = "CORPUS= starts the real run, and torch sees no NVIDIA card here (`nsllm-lite doctor` says why)."
        needed = "With a card of 22 GiB or more this command chooses Qwen3-8B-Base, with a smaller one a smaller model."
        todo = "To try your corpus here with the tiny CPU model, add RECIPES=recipes/nano."
        raise UserError("card-missing", found, needed, todo)
    names = list(QWEN3)
    for name in names[names.index(REFERENCE) :]:
        hub_id, min_gib, _ = QWEN3[name]
        if card_gib >= min_gib:
            reason = f"{hub_id}: the largest Qwen3 base model for a card of {card_gib:.1f} GiB (it asks for {min_gib})"
            if name == REFERENCE and card_gib >= QWEN3["14b"][1]:
                reason += "; it is NSLLM's base and the reference here, SIZE=14b would fit too"
            return name, reason
    smallest = QWEN3[names[-1]]
    found = f"The card has {card_gib:.1f} GiB; the smallest recipe ({smallest[0]}) needs {smallest[1]} GiB."
    todo = "Use a larger card, or try a run on the CPU with RECIPES=recipes/nano."
    raise UserError("card-below-smallest-recipe", found, todo)


def pick_recipes(args: argparse.Namespace) -> tuple[Path, str | None, str]:
    """Recipe folder (here, or as installed), size and why: as asked, nano without a corpus, else by the card."""
    asked = Path(args.recipes or f"recipes/{SIZED if args.corpus or args.size else 'nano'}")
    folder, size = pick_size(asked, args.size, args.model)
    folder = located(folder)
    if folder.name != SIZED:
        nano = "nano: a Qwen3-shaped model of a few million parameters, made here on the CPU"
        if args.model and not args.recipes:
            return (
                folder,
                None,
                f"{args.model} (as asked, with the recipes of nano; SIZE= or CORPUS= takes those of Qwen3)",
            )
        return folder, None, f"{args.model or asked} (as asked)" if args.recipes else nano
    if size:
        return folder, size, f"{args.model or QWEN3[size][0]} (as asked)"
    card_bytes = (card_elsewhere(args) or find_device()).total_bytes
    if not card_bytes and (args.recipes or getattr(args, "only", None) == "corpus"):
        model = args.model or QWEN3[REFERENCE][0]
        return folder, REFERENCE, f"{model} (with the recipes of {REFERENCE}, as no card is here to choose by)"
    size, why = choose_size(card_bytes / GIB if card_bytes else None)
    return folder, size, f"{args.model} (as asked, with the recipes of {size})" if args.model else why


def card_elsewhere(args: argparse.Namespace) -> Card | None:
    """The card of another machine that `plan` is asked about with --card or --vram."""
    name, gib = getattr(args, "card", None), getattr(args, "vram", None)
    return card_named(name, gib) if name or gib else None


def located(path: Path) -> Path:
    """`path`, or where it does not exist here the installed recipe of that name (which is printed). Raises UserError
    where it is a file of a former folder of one size."""
    folder, size = sized(path.parent)
    if size:
        found = f"{path} no longer exists: the recipes of all sizes are in {folder} and state {REFERENCE}."
        todo = f"Take {folder / path.name} with model={QWEN3[size][0]}, or a whole run with --size {size}."
        raise UserError("recipe-of-one-size", found, todo)
    if path.exists() or path.is_absolute() or path.parts[:1] != ("recipes",):
        return path
    installed = INSTALLED.joinpath(*path.parts[1:])
    if not installed.exists():
        return path
    print(f"No {path} here: taking the installed {installed} (nsllm-lite init DIR copies recipes to edit)")
    return installed
