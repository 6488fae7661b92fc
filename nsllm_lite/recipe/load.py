"""Recipes: one complete YAML a run, saying WHAT is computed.

How a run fits the card (micro-batch, recomputation) is not here but under `execution:`, which
`nsllm_lite.models.execution` fills in and which never changes the result beyond rounding.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from nsllm_lite.errors import UserError, did_you_mean, nearest
from nsllm_lite.recipe import names
from nsllm_lite.recipe.kinds import KINDS, Recipe
from nsllm_lite.recipe.values import HASHED, Strict

NULL, MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class AsWritten(yaml.SafeLoader):
    """Plain values stay text, which the recipe's types convert: YAML itself reads the language `no` as false and the
    folder 12:30 as 750. Of equal keys PyYAML would take the last without a word."""

    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] in (NULL, MERGE)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` with `key=value` overrides (dotted keys, YAML values) applied. Raises UserError naming every
    wrong key and value at once, with what to type in its place."""
    return validate(read(path, overrides), str(path))


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The values of the YAML file at `path` with overrides applied, not validated yet. Raises UserError where there is
    no such file, it is no YAML mapping, or an override is not of its form."""
    path = Path(path)
    if not path.is_file():
        todo = did_you_mean(str(path), map(str, Path("recipes").glob("*/*.yaml")), "Check the path.", cutoff=0.3)
        found = f"No recipe at {path}."
        raise UserError("recipe-missing", found, "A recipe is a YAML file such as recipes/nano/phase1.yaml.", todo)
    try:
        values = AsWritten(path.read_bytes()).get_single_data()  # UTF-8, or UTF-16 with its mark
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError("recipe-not-yaml", f"{path} is not YAML: {error}.", "Correct it there.") from None
    if not isinstance(values, dict):
        found = f"{path} contains a {type(values).__name__};"
        raise UserError("recipe-not-keys", found, "a recipe is a list of keys with values.", "See recipes/nano.")
    return overridden(values, overrides)


def overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The values of a recipe with `key=value` words applied; `values` themselves change. Raises UserError where a word
    is not of that form."""
    given: dict[str, set[str]] = {}
    for override in overrides:
        parent, _, last = _apply_override(values, override).rpartition(".")
        given.setdefault(parent, set()).add(last)
    return _settled(values, given)


def _settled(values: dict[str, Any], given: dict[str, set[str]]) -> dict[str, Any]:
    """`values` with those set that follow from the `given` keys of each part."""
    about = KINDS.get(str(values.get("kind")))
    if about:
        values = about.recipe.settled(values, given.get("", set()))
    for name, field in about.recipe.model_fields.items() if about else ():
        inner = names.model_in(field.annotation)
        if inner and name in given and isinstance(values.get(name), dict):
            values = values | {name: inner.settled(values[name], given[name])}
    return values


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe's values with dotted keys set; one within a part that is not there (`replay: none`) is not."""
    result = copy.deepcopy(values)
    for key, value in changes.items():
        *parents, last = key.split(".")
        place: Any = result
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[last] = value
    return result


def has(values: dict[str, Any], key: str) -> bool:
    """Whether a recipe's values contain the dotted `key`."""
    place: Any = values
    for part in key.split("."):
        if not isinstance(place, dict) or part not in place:
            return False
        place = place[part]
    return True


def validate(values: dict, where: str, prefix: str = "") -> Recipe:
    """`values` as the recipe type its `kind` names. Raises UserError listing every problem with `where` it stands, with
    the code of one alone; `prefix` is what words for this recipe begin with."""
    kind = values.get("kind")
    if kind == "story":
        raise UserError("recipe-of-a-story", f"{where} is of a whole story.", f"Run it: nsllm-lite materials {where}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError("recipe-kind-unknown", f"{where}: `kind` is {kind!r};", f"set one of {', '.join(KINDS)}.")
    cls = KINDS[kind].recipe
    try:
        return cls.model_validate(values, context={"prefix": prefix})
    except ValidationError as error:
        problems = [_explain(cls, problem, prefix) for problem in error.errors()]
    if len(problems) == 1:
        raise problems[0].at(where)
    lines = "\n".join(f"  - {problem} [{problem.code}]" for problem in problems)
    raise UserError("recipe-invalid", f"{where} has {len(problems)} problems.", f"Correct them:\n{lines}")


def update(recipe: Recipe, **changes: Any) -> Recipe:
    """A copy of `recipe` with top-level fields replaced, validated again."""
    return validate({**recipe.model_dump(mode="json"), **changes}, f"{recipe.kind} recipe")


def identity(recipe: Recipe) -> dict:
    """The part of a recipe that decides its result: all but where it is written and shown, how it is executed, when it
    stops."""
    gate = {"max_general_loss_increase", "when_forgetting"}
    shown = {"out": True, "report_to": True, "overlay": True}
    return recipe.model_dump(mode="json", exclude={**shown, "execution": True, "evaluation": gate})


def without_paths(values: dict[str, Any], cls: type[Strict] | None = None) -> dict[str, Any]:
    """An `identity` without the paths of inputs whose hashes a manifest holds as well."""
    if cls is None:
        about = KINDS.get(str(values.get("kind")))
        if about is None:
            return values
        cls = about.recipe
    kept = {}
    for name, value in values.items():
        field = cls.model_fields.get(name)
        inner = field and names.model_in(field.annotation)
        if field and _is_hashed(field.annotation, field.metadata) and _is_path(value):
            continue
        if inner and isinstance(value, dict):
            value = without_paths(value, inner)
        elif inner and isinstance(value, list):
            value = [without_paths(one, inner) if isinstance(one, dict) else one for one in value]
        kept[name] = value
    return kept


def _is_hashed(annotation: Any, metadata: Sequence[Any] = ()) -> bool:
    return any(one is HASHED for one in metadata) or any(
        _is_hashed(inner, getattr(inner, "__metadata__", ())) for inner in get_args(annotation)
    )


def _is_path(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _apply_override(values: dict, override: str) -> str:
    """Returns the dotted key."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        found = f"Override {override!r} is not of the form key=value."
        raise UserError("override-form", found, "Write it like optimizer.learning_rate=1e-4.")
    *parents, last = key.strip().split(".")
    place: Any = values
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            found = f"Override {override!r}: {parent!r} is a value and has no keys."
            raise UserError("override-of-value", found, "Set a key that the recipe has.")
    try:
        place[last] = AsWritten(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        found = f"Override {override!r}: the value after = is not YAML ({error})."
        raise UserError("override-not-yaml", found, "Quote it as YAML does: key='\"a: b\"'.") from None
    return ".".join((*parents, last))


def _explain(cls: type[Strict], problem: dict, prefix: str) -> UserError:
    """One of pydantic's problems."""
    key, value = ".".join(map(str, problem["loc"])), problem["input"]
    if problem["type"] == "value_error":
        return problem["ctx"]["error"].at(key or "recipe")
    if problem["type"] == "missing":
        hint = "a whole run, such as make phase1, sets the paths, and --run DIR takes them from one"
        is_word = all(isinstance(part, str) for part in problem["loc"])
        todo = f"give it, as {prefix}{key}=... ({hint})" if is_word else "give it there"
        return UserError("key-missing", f"{key}: is missing:", todo)
    if problem["type"] == "extra_forbidden":
        return UserError("key-unknown", f"{key}: unknown key;", f"type {_instead(cls, problem['loc'], value, prefix)}")
    message, todo = f"{problem['msg']} (found {value!r}).", "correct it"
    if problem["type"] in ("list_type", "tuple_type") and not isinstance(value, dict):
        item = names.item_of(cls, key)
        message = f"a list in brackets is needed (found {value!r}):"
        todo = f"type {names.as_typed(f'{prefix}{key}={names.written(value, item)}')}" if item else "put it in brackets"
    elif problem["type"] == "model_type":
        message = f"one value, {value!r}, where keys are needed:"
        todo = f"set {', '.join(f'{key}.{name}' for name in names.part_of(cls, problem['loc']).model_fields)}"
    elif problem["type"] == "string_type" and value is None:
        message = "nothing is given (YAML reads a ~ alone, and null, as nothing):"
    return UserError("value-wrong", f"{key}: wrong value, {message}", todo)


def _instead(cls: type[Strict], place: Sequence[str | int], value: Any, prefix: str) -> str:
    """What to type in place of a key that there is not."""
    key = ".".join(map(str, place))
    if any(isinstance(part, int) for part in place):  # within a list, where no word leads
        fields = names.part_of(cls, place[:-1]).model_fields
        near = nearest(str(place[-1]), fields)
        return f"`{near}`" if near else f"one of {', '.join(fields)}"
    if isinstance(value, dict) and len(value) == 1:  # such as training.lr
        inner, value = next(iter(value.items()))
        key = f"{key}.{inner}"
    if word := names.meant(cls, key, value):
        return f"`{names.as_typed(prefix + word)}`"
    return names.said(cls, key, prefix) or f"one of {', '.join(cls.model_fields)}"
