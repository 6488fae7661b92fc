"""Words for a recipe: what was meant by a key that it does not have, and how a value is written as `key=value`."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from nsllm_lite.errors import nearest
from nsllm_lite.recipe.values import Strict

_THEIRS = tomllib.loads(resources.files(__package__).joinpath("names.toml").read_text(encoding="utf-8"))


FALSE = ("false", "no", "off", "0", "none")


def model_in(annotation: Any, lists: bool = True) -> type[Strict] | None:
    """The recipe type inside `X`, `X | None` or, with `lists`, `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    inside = get_args(annotation) if lists or get_origin(annotation) is not list else ()
    return next((found for arg in inside if (found := model_in(arg, lists))), None)


def keys_of(recipe: type[Strict], above: str = "") -> Iterator[str]:
    """The dotted keys that words can set: those within lists are not among them."""
    for name, field in recipe.model_fields.items():
        yield above + name
        if inner := model_in(field.annotation, lists=False):
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
    if found := next((one for one in same(name) if one in known), None):
        value = _THEIRS["values"].get(str(value).lower(), value)
        if found == "shard_bytes" and (size := re.fullmatch(r"(\d+)([GM])i?B?", str(value), re.IGNORECASE)):
            value = f"{size[1]}e{9 if size[2] in 'gG' else 6}"
    found = found or leaves.get(name)
    if found is None and said(recipe, name) is None:
        found = beside.get(nearest(name, beside, cutoff) or "") or leaves.get(nearest(name, leaves, cutoff) or "")
    return found and _word(recipe, found, value)


def _word(recipe: type[Strict], key: str, value: Any) -> str:
    """The word `key=value`; a list may be given as a,b."""
    item = item_of(recipe, key)
    if item and isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return f"{key}={value}"
    if item and isinstance(value, str) and "," in value and value[:1] not in "[{":
        value = [one.strip() for one in value.split(",")]
    return f"{key}={written(value, item)}"


def part_of(recipe: type[Strict], place: Sequence[str | int]) -> type[Strict]:
    """The recipe type at `place`, also within lists."""
    for part in place:
        if isinstance(part, str) and part in recipe.model_fields:
            recipe = model_in(recipe.model_fields[part].annotation) or recipe
    return recipe


def said(recipe: type[Strict] | None, key: str, prefix: str = "") -> str | None:
    """What to type for a key of other tools that has no place in this recipe (None: in what has no recipe); `prefix` is
    what words for it begin with."""
    name, kind = key.rpartition(".")[2].lower().replace("-", "_"), recipe and kind_of(recipe)
    rows = (row for row in _THEIRS["said"] if name in row["names"] and kind in row.get("kinds", [kind]))
    ours = "|".join(map(re.escape, keys_of(recipe))) if recipe else "(?!)"
    return next((re.sub(rf"(?<![\w.])(?:{ours})=", rf"{prefix}\g<0>", row["todo"]) for row in rows), None)


def same(key: str) -> list[str]:
    """Our keys that other tools call `key`."""
    return _THEIRS["same"].get(key.lower().replace("-", "_"), [])


def kind_of(recipe: type[Strict]) -> str | None:
    return next(iter(get_args(recipe.model_fields["kind"].annotation)), None) if "kind" in recipe.model_fields else None


def is_flag(key: str) -> bool:
    """Whether other tools have this key as a flag, which no value follows."""
    return key.lower().replace("-", "_") in _THEIRS["flags"]


def choices_but(recipe: type[Strict], word: str) -> str | None:
    """The words that are taken, where the value of `key=value` is none of the few that its key has."""
    key, _, value = word.partition("=")
    if not (field := field_of(recipe, key)) or item_of(recipe, key):
        return None
    kinds = (field.annotation, *get_args(field.annotation))
    known = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return " or ".join(f"{key}={one}" for one in known) if known and value not in known else None


def field_of(recipe: type[Strict], key: str) -> FieldInfo | None:
    field = None
    for part in key.split("."):
        if (field := recipe.model_fields.get(part)) is None:
            return None
        recipe = model_in(field.annotation) or recipe
    return field


def item_of(recipe: type[Strict], key: str) -> Any:
    """The type of the items where `key` is a list, else None."""
    field = field_of(recipe, key)
    return get_args(field.annotation)[0] if field and get_origin(field.annotation) is list else None


def is_switch(recipe: type[Strict], word: str) -> bool:
    """Whether the key of `key=value` is true or false."""
    field = field_of(recipe, word.partition("=")[0])
    return field is not None and bool in (field.annotation, *get_args(field.annotation))


def written(value: Any, item: Any = None) -> str:
    """`value` as YAML on one line, without quotes where it needs none; as a list where `item` is the type of one."""
    if item:
        fields = model_in(item).model_fields if model_in(item) else {}
        values = value if isinstance(value, list) else [] if str(value).lower() == "none" else [value]
        wholes = ({"name": Path(str(one)).stem, "path": one} for one in values)
        value = [{name: whole[name] for name in fields if name in whole} or whole["path"] for whole in wholes]
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
