"""What the recipe types of all verbs share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from nsllm_lite.errors import UserError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def none_word(value: Any) -> Any:
    return None if value == "none" else value


def require_one(**given: Any) -> None:
    if sum(value is not None for value in given.values()) != 1:
        one, other = given
        raise UserError("key-not-one", f"both or neither of `{one}` and `{other}` are given:", "give one of them")


def require_different(names: list[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise UserError("names-repeat", f"the names of the {what} repeat: {sorted(names)}:", "name each differently")


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
