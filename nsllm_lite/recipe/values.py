"""What the recipe types of all verbs share."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic.fields import FieldInfo

from nsllm_lite.errors import UserError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def settled(cls, values: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """The values of a file with the `given` keys overridden, not validated yet; a type whose values follow from one
        another sets those that were not given."""
        return values


def option(words: str, metavar: str | None = None, typed: Any = None) -> Any:
    """A field that is an option of its verb too: its help, the word for its value, and the value that a command without
    a recipe takes (`typed`) where a recipe has to state one."""
    return Field(description=words, json_schema_extra={"metavar": metavar, "typed": typed})


def options_of(recipe: type[Strict], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of the fields that are options."""
    for name, field in recipe.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            yield above + name, field
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Strict):
            yield from options_of(field.annotation, f"{above}{name}.")


def none_word(value: Any) -> Any:
    return None if value in ("none", "None") else value


_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\}?)", re.ASCII)


def expanded(path: str) -> str:
    """`path` with ~, $VAR and ${VAR} replaced as a shell does. Raises UserError where they stand for nothing: a folder
    of the name `~` or `$VAR` is never meant."""

    def value(found: re.Match) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            todo = f"Set it (export {name}=...), or write the path in full."
            raise UserError("path-variable-unset", f"{path}: the variable {name!r} is not set, or empty.", todo)
        return os.environ[name]

    text = _VARIABLE.sub(value, path)
    text = os.path.expanduser(text)
    if text.startswith("~"):
        found = f"{path}: there is no user {text[1:].partition('/')[0]!r} whose home folder this could be."
        raise UserError("path-user-unknown", found, f"Write the path in full; of a name that begins with ~, ./{text}")
    return text


def is_gguf(path: str | Path) -> bool:
    return str(path).lower().endswith(".gguf")


def no_gguf(path: str) -> str:
    """Raises UserError where a GGUF file stands in the place of a model folder."""
    if is_gguf(path):
        out = f"models/{Path(path).stem}"
        typed = shlex.join(["nsllm-lite", "convert", path, f"out={out}"])
        raise UserError("model-is-gguf", f"{path} is a GGUF file;", f"type {typed}, and name {out} in its place")
    return path


def word_of(info: ValidationInfo, key: str, value: Any) -> str:
    """The word that sets a dotted `key`, as it is typed; in a whole run it begins with the name of the step."""
    return f"{(info.context or {}).get('prefix', '')}{key}={value}"


def require_one(**given: Any) -> None:
    if sum(value is not None for value in given.values()) != 1:
        one, other = given
        count = "neither" if given[one] is None else "both"
        todo = "give one of them" if given[one] is None else f"leave one out ({one}=null or {other}=null)"
        raise UserError("key-not-one", f"{count} of `{one}` and `{other}` are given:", todo)


def require_different(names: list[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise UserError("names-repeat", f"the names of the {what} repeat: {sorted(names)}:", "name each differently")


def _number(value: Any) -> Any:
    """YAML reads 5e9 as text."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?e\+?\d+", value) else value


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what torch and NumPy both take, also with small numbers added
Name = Annotated[str, Field(min_length=1)]
FilePath = Annotated[str, Field(min_length=1), AfterValidator(expanded)]  # or a hub id, where a model is meant
HASHED = "a hash of what lies there is among the step's inputs"
HashedPath = Annotated[FilePath, HASHED]  # so that the path itself is no part of a run's identity
ModelPath = Annotated[HashedPath, AfterValidator(no_gguf)]
TokenizerFrom = Annotated[
    Literal["base", "adapter"] | None,
    option("whose tokenizer and chat template (default: an adapter's, where it only adds tokens to those of its base)"),
]
