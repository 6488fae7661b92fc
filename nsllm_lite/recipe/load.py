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
from nsllm_lite.recipe.kinds import KINDS, Recipe
from nsllm_lite.recipe.values import Strict


class EachKeyOnce(yaml.SafeLoader):
    """PyYAML takes the last of equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if any(key.value == before.value for before in keys[:number]):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` with `key=value` overrides (dotted keys, YAML values) applied. Raises UserError naming every
    wrong key and value at once, with the nearest known key."""
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
        values = EachKeyOnce(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError("recipe-not-yaml", f"{path} is not YAML: {error}.", "Correct it there.") from None
    if not isinstance(values, dict):
        found = f"{path} contains a {type(values).__name__};"
        raise UserError("recipe-not-keys", found, "a recipe is a list of keys with values.", "See recipes/nano.")
    for override in overrides:
        _apply_override(values, override)
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


def validate(values: dict, where: str) -> Recipe:
    """`values` as the recipe type its `kind` names; UserError lists every problem with `where` it stands."""
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError("recipe-kind-unknown", f"{where}: `kind` is {kind!r};", f"set one of {', '.join(KINDS)}.")
    cls = KINDS[kind].recipe
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  - {_explain(cls, problem)}" for problem in error.errors())
        found = f"{where} has {error.error_count()} problem(s)."
        lacks = any(problem["type"] == "missing" for problem in error.errors())
        hint = " (a whole run, such as make phase1, sets the paths; for one step give them, or --run DIR)" * lacks
        raise UserError("recipe-invalid", found, f"Correct them{hint}:\n{problems}") from None


def update(recipe: Recipe, **changes: Any) -> Recipe:
    """A copy of `recipe` with top-level fields replaced, validated again."""
    return validate({**recipe.model_dump(mode="json"), **changes}, f"{recipe.kind} recipe")


def identity(recipe: Recipe) -> dict:
    """The part of a recipe that decides its result: all but where it is written and shown, how it is executed, when it
    stops."""
    gate = {"max_general_loss_increase", "when_forgetting"}
    shown = {"out": True, "report_to": True, "overlay": True}
    return recipe.model_dump(mode="json", exclude={**shown, "execution": True, "evaluation": gate})


def _apply_override(values: dict, override: str) -> None:
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
        place[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        found = f"Override {override!r}: the value after = is not YAML ({error})."
        raise UserError("override-not-yaml", found, "Quote it as YAML does: key='\"a: b\"'.") from None


def _explain(cls: type[Strict], problem: dict) -> str:
    fields, place = cls.model_fields, []
    for part in problem["loc"]:
        place.append(str(part))
        if isinstance(part, str) and part in fields:
            inner = _model_in(fields[part].annotation)
            fields = inner.model_fields if inner else {}
    if problem["type"] == "extra_forbidden":
        near = nearest(place[-1], fields, cutoff=0.5)
        hint = f"did you mean `{near}`?" if near else f"known keys: {', '.join(fields)}"
        return f"{'.'.join(place)}: unknown key; {hint} [key-unknown]"
    message, code = problem["msg"].removeprefix("Value error, "), "value-wrong"
    if problem["type"] == "missing":
        message, code = "is missing", "key-missing"
    elif problem["type"] == "value_error":
        code = problem["ctx"]["error"].code
    elif place and not isinstance(problem["input"], dict | list):
        message += f" (found {problem['input']!r})"
    return f"{'.'.join(place) or 'recipe'}: {message} [{code}]"


def _model_in(annotation: Any) -> type[Strict] | None:
    """The recipe type inside `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
