"""What the recipe types of all verbs share."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from nsllm_lite.errors import UserError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


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
    return None if value == "none" else value


def require_one(**given: Any) -> None:
    if sum(value is not None for value in given.values()) != 1:
        one, other = given
        raise UserError("key-not-one", f"both or neither of `{one}` and `{other}` are given:", "give one of them")


def require_different(names: list[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise UserError("names-repeat", f"the names of the {what} repeat: {sorted(names)}:", "name each differently")


def _number(value: Any) -> Any:
    """YAML reads 5e9 as text."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?e\+?\d+", value) else value


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
TokenizerFrom = Annotated[
    Literal["base", "adapter"] | None,
    option("whose tokenizer and chat template (default: an adapter's, where it only adds tokens to those of its base)"),
]
