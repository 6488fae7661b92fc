"""What to type in place of an option that there is not: an option or a key of ours, a path alone, or nothing."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nsllm_lite.commands.arguments import STORY_VERBS
from nsllm_lite.errors import nearest
from nsllm_lite.recipe import names
from nsllm_lite.recipe.kinds import KINDS
from nsllm_lite.recipe.values import Strict

YAML = (".yaml", ".yml")
TRUE = ("true", "yes", "on", "1")
NOTHING = "nothing: "
STEPS_OF = {"instruct": ("sft", "tasks", "eval"), "eval-run": ("eval", "tasks")}
STEPS_OF |= {"encoder": ("mlm", "encoder-corpus", "embed", "finetune", "distill")}
STEPS_OF |= {"materials": ("phase1", "corpus", "merge", "phase2", "eval", "tasks")}
STEPS = ("phase1", "corpus", "merge", "phase2")
"""The recipes of a story that a key without its step is looked for in, in this order; of STORY_VERBS the others have
STEPS."""

KIND_OF = {"phase1": "train", "phase2": "train", "base": "train", "encoder-corpus": "corpus"}
RECIPE = ("recipe", "recipes", "config", "config_file", "config_path", "config_name", "conf", "cfg", "yaml")
FOLDER = ("folder", "dir", "path", "run", "output_dir", "out", "name", "project", "model")
ALONE = {
    "audit": ("file", "files", "data", "dataset", "input", "test_file", "train_file", "path"),
    "completion": ("shell",),
    **dict.fromkeys(("runs", "show", "init"), FOLDER),
}
"""What stands alone behind a verb -> names that it is given by elsewhere."""

OF_STORY = {"model": "--model", "out": "--out", "rows": "--corpus", "sources": "--corpus", "data": "--corpus"}
"""Keys that follow from an option in a whole run."""

WEIGHTS = ("weight", "weights", "adapter_weight", "adapter_weights", "lora_weight", "lora_weights")
WEIGHTS += ("scale", "scaling", "lora_scale", "adapter_scale", "ratio", "ratios")  # of adapters in a merge
BACKENDS = {"hf": [], "huggingface": [], "local": [], "vllm": ["--backend", "vllm"]}  # of lm-evaluation-harness


class Instead(NamedTuple):
    """`words` in place of an option and of as many as `used` of the plain words behind it; None: `todo` says more. A
    `note` says why there are none."""

    words: list[str] | None
    used: int = 0
    note: str = ""
    todo: str = ""


def takes_keys(verb: str, words: Sequence[str]) -> bool:
    """Whether `key=value` words set values of a recipe of this verb."""
    return verb in KINDS and (verb not in ("merge", "eval") or any(word.endswith(YAML) for word in words))


def recipes_of(verb: str, words: Sequence[str]) -> list[tuple[str, type[Strict]]]:
    """(what its keys begin with, the recipe type) of all that words can set."""
    if verb in STORY_VERBS:
        return [(f"{step}.", KINDS[KIND_OF.get(step, step)].recipe) for step in STEPS_OF.get(verb, STEPS)]
    return [("", KINDS[verb].recipe)] if takes_keys(verb, words) else []


def instead(
    verb: str, key: str, values: list[str], words: Sequence[str], options: dict[str, argparse.Action]
) -> Instead:
    """What is meant by the option `--key`, which `values` follow, of all the `words` behind the verb."""
    recipes = recipes_of(verb, words)
    if alone := _alone(verb, key, values, words):
        return alone
    for prefix, recipe, cutoff in [(*one, 1) for one in recipes] + [(*one, 0.8) for one in recipes[:1]]:
        if found := _as_key(recipe, key, values, prefix, cutoff, options):
            return found
    own = KINDS[verb].recipe if verb in KINDS else recipes[0][1] if recipes else None
    if own and not recipes and (found := _as_option(own, verb, key, values, options)):
        return found
    if said := names.said(own, key, recipes[0][0] if recipes else ""):
        used = 0 if names.is_flag(key) and not _is_truth(values) else len(_values(values)[:1])
        note = f"{key}: {said.removeprefix(NOTHING)}"
        return Instead([], used, note) if said.startswith(NOTHING) else Instead(None, todo=said)
    known = {option.lstrip("-"): option for option in options}
    same = [one for one in names.same(key) if one in known]
    if near := next(iter(same), None) or nearest(key.replace("_", "-"), known, cutoff=0.8):
        return _with_value(known[near], values, options)
    listed = f"one of {', '.join(one for one in options if one.startswith('--'))}"
    keys = f", or a key of the recipe: {', '.join(recipes[0][1].model_fields)}" if recipes and not recipes[0][0] else ""
    return Instead(None, todo=listed + keys)


def _with_value(option: str, values: list[str], options: dict[str, argparse.Action]) -> Instead:
    """A known option, with the value it needs."""
    takes = options[option].nargs != 0
    if takes and not values:
        return Instead(None, todo=f"{option} with its value")
    return Instead([option, *values[:takes]], int(takes))


def _alone(verb: str, key: str, values: list[str], words: Sequence[str]) -> Instead | None:
    """Where what follows the option stands without one: a recipe, a folder, the models of eval."""
    if not values:
        return None
    is_file = values[0].endswith(YAML)
    if (key in RECIPE or (len(key) == 1 and is_file)) and verb in (*KINDS, *STORY_VERBS):
        folder = str(Path(values[0]).parent) if is_file else values[0]
        return Instead(values[:1] if verb in KINDS else ["--recipes", folder], 1)
    if key in ALONE.get(verb, ()):
        used = len(values) if verb == "audit" else 1
        return Instead(values[:used], used)
    if verb == "eval" and not takes_keys(verb, words):
        if key == "model" and values[0].lower() in BACKENDS:
            return Instead(BACKENDS[values[0].lower()], 1)
        if key == "model_args" and (args := dict(part.partition("=")[::2] for part in values[0].split(","))):
            model = args.get("peft") or args.get("pretrained")
            return Instead([model], 1) if model else None
        word = names.meant(KINDS[verb].recipe, key, values[0], cutoff=1)
        if word and word.startswith("models="):
            return Instead(values, len(values))
    return None


def _as_key(
    recipe: type[Strict], key: str, values: list[str], prefix: str, cutoff: float, options: dict[str, argparse.Action]
) -> Instead | None:
    """The word `key=value` of a recipe; the values of a list are all that follow."""
    given = _values(values)
    if not (word := names.meant(recipe, key, given[0] if given else "true", cutoff)):
        return None
    name, used = word.partition("=")[0], len(given[:1])
    if names.item_of(recipe, name):
        word, used = names.meant(recipe, key, ",".join(given), cutoff) or word, len(given)
    elif names.is_switch(recipe, word) and not _is_truth(given):
        word, used = f"{name}=true", 0
    elif names.is_flag(key) and not _is_truth(given):
        used = 0
    elif not given:
        return Instead(None, todo=f"{prefix}{name}=... with its value")
    if wrong := names.choices_but(recipe, word):
        return Instead(None, todo=wrong.replace(name, prefix + name))
    if prefix and name in OF_STORY:
        return _with_value(OF_STORY[name], given, options)
    return Instead([prefix + word], used)


def _as_option(
    recipe: type[Strict], verb: str, key: str, values: list[str], options: dict[str, argparse.Action]
) -> Instead | None:
    """The option for a key of the recipe of a verb that is called without one."""
    if not (word := names.meant(recipe, key, values[0] if values else "true", cutoff=0.8)):
        return None
    name, _, value = word.partition("=")
    is_flag = names.is_flag(key) and not _is_truth(values)
    if not (action := options.get("--" + name.rpartition(".")[2].replace("_", "-"))):
        todo = f"{word} behind a recipe: nsllm-lite {verb} RECIPE {word}"
        return None if names.said(recipe, key) else Instead(None, todo=todo)
    option = action.option_strings[-1]
    if action.nargs == 0:
        return Instead([option], int(_is_truth(values)))
    if not (values or is_flag):
        return Instead(None, todo=f"{option} with its value")
    if wrong := names.choices_but(recipe, word):
        return Instead(None, todo=wrong.replace(f"{name}=", f"{option} "))
    if isinstance(action, argparse._AppendAction):
        return Instead([part for one in values for part in (option, one)], len(values))
    return Instead([option, value], 0 if is_flag else 1)


def with_weights(words: list[str], start: int, end: int, values: list[str]) -> list[str] | None:
    """`words` of a merge with weights behind its adapters, in place of the option from `start` to before `end`; None
    where these are not as many."""
    weights = [one for word in values for one in word.strip("[]").split(",") if one]
    kept = [*words[:start], *words[end:]]
    places = [n + (word == "--adapter") for n, word in enumerate(kept) if word.partition("=")[0] == "--adapter"]
    if len(weights) != len(places) or not weights or places[-1] >= len(kept):
        return None
    for place, weight in zip(places, weights, strict=True):
        kept[place] += f":{weight}"
    return kept


def _values(values: list[str]) -> list[str]:
    """Those before a recipe or a `key=value`."""
    ends = (n for n, word in enumerate(values) if word.endswith(YAML) or "=" in word)
    return values[: next(ends, len(values))]


def _is_truth(values: list[str]) -> bool:
    return bool(values) and values[0].lower() in (*names.FALSE, *TRUE)
