"""Schema of manifest.json, times.json and metrics.jsonl: the fields that other steps read.

Manifests outlive versions and are copied and edited, so they are validated once, where they are read; the recipe in
them by the fields of its type and not by its bounds and rules. A file that holds something else is damaged.
"""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, create_model

from nsllm_lite.recipe.values import Strict


class Lenient(BaseModel, strict=True):
    """Fields are optional but typed; unknown fields are ignored."""


@cache
def lenient(recipe: type[Strict]) -> type[BaseModel]:
    """The type of `recipe` in a manifest; a field that is absent there is None."""
    fields: Any = {name: (_loosened(field.annotation) | None, None) for name, field in recipe.model_fields.items()}
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


class Loss(Lenient):
    loss: float | None = None
    bits_per_byte: float | None = None


Heldout = dict[str, dict[str, Loss]]  # domain, general or answers -> all, or a source


class Line(Lenient):
    """A line of metrics.jsonl."""

    step: int
    tokens: int
    loss: float | None = None
    heldout: Heldout = {}


class Times(Lenient):
    started: str
    finished: str
    seconds: float | None = None
    train_tokens_per_s: float | None = None
    peak_memory_gib: float | None = None


class Tokens(Lenient):
    tokens: int


class Counts(Lenient):
    num_in: int = Field(alias="in")
    kept: int
    heldout: int
    duplicate: int
    unused: int
    dropped: dict[str, int]


class CorpusResults(Lenient):
    rows: dict[str, Tokens] = {}
    documents: dict[str, Counts] = {}
    licences: dict[str, str] = {}
    stated: dict[str, dict[str, int]] = {}  # source -> field -> documents that state it


class BeforeAndAfter(Lenient):
    before: Heldout
    after: Heldout


class TrainResults(Lenient):
    tokens: int | None = None
    steps: int | None = None
    bytes: int | None = None  # of the text behind the tokens
    coverage: float | None = None
    epochs: float | None = None
    domain_tokens: int | None = None
    available_tokens: int | None = None
    replay_share: float | None = None
    heldout: BeforeAndAfter | None = None


class EmbedResults(Lenient):
    tokens: int | None = None
    steps: int | None = None
    heldout: BeforeAndAfter | None = None


Quantised = dict[Annotated[str, Field(pattern="^[A-Z0-9_]{1,16}$")], int]
"""Type of GGUF -> tensors that were dequantised from it."""


class ConvertResults(Lenient):
    quantised: Quantised = {}


class MergeResults(Lenient):
    base_weights: str | None = None
    base_model: str | None = None
    quantised: Quantised | None = None  # of what all began with


def held_words(quantised: Quantised) -> str:
    """How many tensors were of which type, in words."""
    return ", ".join(f"{count} of {kind}" for kind, count in sorted(quantised.items()))


class TaskCounts(Lenient):
    train: int
    test: int


class TasksResults(Lenient):
    tasks: dict[str, TaskCounts] = {}


class ScoredSet(Lenient):
    name: str
    title: str = ""
    metrics: list[str]


class EvalResults(Lenient):
    sets: list[ScoredSet] = []
    scores: list[dict[str, Any]] = []
