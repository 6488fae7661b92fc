"""Words for a recipe: what was meant by a key that it does not have, and how a value is written as `key=value`."""

import json
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

from nsllm_lite.errors import nearest
from nsllm_lite.recipe.values import Strict

_THEIRS = tomllib.loads(resources.files(__package__).joinpath("names.toml").read_text(encoding="utf-8"))


FALSE = ("false", "no", "off", "0", "none")


def model_in(annotation: Any) -> type[Strict] | None:
    """The recipe type inside `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    return next((found for arg in get_args(annotation) if (found := model_in(arg))), None)


def keys_of(recipe: type[Strict], above: str = "") -> Iterator[str]:
    """The dotted keys that words can set: those within lists are not among them."""
    for name, field in recipe.model_fields.items():
        yield above + name
        inner = model_in(field.annotation)
        if inner and item_of(recipe, name) is None:
            yield from keys_of(inner, f"{above}{name}.")


def meant(recipe: type[Strict], key: str, value: Any, cutoff: float = 0.6) -> str | None:
    """The word `key=value` that was meant by a dotted `key` that the recipe does not have; None where nothing is like
    it, by `cutoff` from 0 to 1."""
    known, name = list(keys_of(recipe)), key.rpartition(".")[2].lower().replace("-", "_")
    if key in known:
        return _word(recipe, key, value)
    for word in _THEIRS["false" if str(value).lower() in FALSE else "words"].get(name, ()):
        if word.partition("=")[0] in known:
            return word
    leaves = {one.rpartition(".")[2]: one for one in reversed(known)}  # of several the outermost
    beside = {one.rpartition(".")[2]: one for one in known if one.rpartition(".")[0] == key.rpartition(".")[0]}
    if found := next((one for one in _THEIRS["same"].get(name, ()) if one in known), None):
        value = _THEIRS["values"].get(str(value).lower(), value)
    found = found or leaves.get(name)
    if found is None and name not in _THEIRS["said"]:
        found = beside.get(nearest(name, beside, cutoff) or "") or leaves.get(nearest(name, leaves, cutoff) or "")
    return found and _word(recipe, found, value)


def _word(recipe: type[Strict], key: str, value: Any) -> str:
    """The word `key=value`; a list may be given as a,b."""
    item = item_of(recipe, key)
    if item and isinstance(value, str) and "," in value and value[:1] not in "[{":
        value = [one.strip() for one in value.split(",")]
    return f"{key}={written(value, item)}"


def part_of(recipe: type[Strict], place: Sequence[str | int]) -> type[Strict]:
    """The recipe type at `place`, also within lists."""
    for part in place:
        if isinstance(part, str) and part in recipe.model_fields:
            recipe = model_in(recipe.model_fields[part].annotation) or recipe
    return recipe


def said(key: str) -> str | None:
    """What to type for a key of other tools that has no place in a recipe."""
    return _THEIRS["said"].get(key.rpartition(".")[2].lower().replace("-", "_"))


def item_of(recipe: type[Strict], key: str) -> Any:
    """The type of the items where `key` is a list, else None."""
    for part in key.split("."):
        if (field := recipe.model_fields.get(part)) is None:
            return None
        recipe = model_in(field.annotation) or recipe
    return get_args(field.annotation)[0] if get_origin(field.annotation) is list else None


def is_switch(recipe: type[Strict], word: str) -> bool:
    """Whether the key of `key=value` is true or false."""
    for part in word.partition("=")[0].split("."):
        field = recipe.model_fields[part]
        recipe = model_in(field.annotation) or recipe
    return field.annotation is bool


def written(value: Any, item: Any = None) -> str:
    """`value` as YAML on one line, without quotes where it needs none; as a list where `item` is the type of one."""
    if item and not isinstance(value, list):
        fields = model_in(item).model_fields if model_in(item) else {}
        whole = {"name": Path(str(value)).stem, "path": value}
        value = [{name: whole[name] for name in fields if name in whole} or value]
    if isinstance(value, list):
        return f"[{', '.join(_within(one) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_within(one)}" for key, one in value.items()) + "}"
    return "null" if value is None else str(value)


def _within(value: Any) -> str:
    """A value within brackets, where a comma, a colon or a bracket in a text would end it."""
    text = written(value)
    is_plain = not isinstance(value, str) or not (set(text) & set(",:[]{}#&*!|>'\"%@`") or text != text.strip())
    return text if is_plain and text else json.dumps(value, ensure_ascii=False)


def as_typed(word: str) -> str:
    """A word as it is typed into a shell."""
    return shlex.quote(word)
