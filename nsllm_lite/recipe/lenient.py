"""Recipes as stored in manifests: fields are optional but typed, unknown ones ignored, bounds and rules not checked.

A manifest outlives the version that wrote it, so its recipe is read by the recipe type's fields and not by its rules.
"""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, create_model

from nsllm_lite.recipe.results import Lenient
from nsllm_lite.recipe.values import Strict


@cache
def lenient(recipe: type[Strict]) -> type[BaseModel]:
    """The type of `recipe` in a manifest; a field that is absent there is None."""
    fields: dict[str, Any] = {
        name: (_loosened(field.annotation) | None, None) for name, field in recipe.model_fields.items()
    }
    return create_model(f"{recipe.__name__}InManifest", __base__=Lenient, **fields)


def _loosened(annotation: Any) -> Any:
    """The same type with recipe types in it loosened, choices as their plain type, and bounds left out."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return lenient(annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _loosened(inner[0])
    if origin is Literal:
        return type(inner[0])
    if origin in (Union, UnionType):
        return Union[tuple(map(_loosened, inner))]  # noqa: UP007 (of types known only here)
    return origin[tuple(map(_loosened, inner))] if origin else annotation
