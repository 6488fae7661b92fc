"""The recipe of the adaptation ladder: several bases, one training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.train import Budget
from nsllm_lite.recipe.values import (
    Count,
    FilePath,
    HashedPath,
    ModelPath,
    Name,
    Strict,
    require_different,
    require_one,
)

FolderName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class Base(Strict):
    """A base to adapt: a `model`, whose texts end with `end_of_text` (None: with that of the corpus's recipe), or one
    that is built first, by the recipe `build` in so many `steps` (None: in those of that recipe)."""

    name: FolderName
    model: ModelPath | None = None
    build: HashedPath | None = None
    end_of_text: Name | None = None
    steps: Count | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "Base":
        require_one(model=self.model, build=self.build)
        unheeded = "end_of_text" if self.build and self.end_of_text else "steps" if self.model and self.steps else None
        if unheeded:
            found = f"`{unheeded}` of {self.name}:"
            needed = "`steps` are of a base that is built, `end_of_text` of a model;"
            raise UserError(
                "ladder-base-key", found, needed, "leave it out (a built base ends texts as the corpus does)"
            )
        return self


class Adapted(Strict):
    """What the ladder made of a base: the `corpus` that was packed for it, and its finished trainings, by seed."""

    name: FolderName
    model: ModelPath
    corpus: HashedPath
    trainings: Annotated[list[HashedPath], Field(min_length=2)]


class Scoring(Strict):
    """How held-out documents are scored; how a training runs stands in its own recipe."""

    device: Literal["cpu", "cuda"] | None = None
    micro_batch_rows: Count | None = None


class Ladder(Strict):
    """The recipe `corpus` is packed once for each tokenizer; the recipe `train`, but for its paths and its budget, is
    run for each of the `bases` with each of so many `seeds`, counted from its own.

    `equal: tokens` gives every run all steps of the `budget`. `equal: bytes` gives every run the steps whose text comes
    nearest to the bytes that the run with the fewest sees in that budget. More than `max_epochs` of the papers is
    refused. `adapted` is filled in by the ladder; where it is given, those trainings are compared and none is made.
    """

    kind: Literal["ladder"]
    out: FilePath
    bases: Annotated[list[Base], Field(min_length=2)]
    corpus: HashedPath
    train: HashedPath
    budget: Budget
    equal: Literal["tokens", "bytes"]
    max_epochs: Annotated[float, Field(gt=0)]
    seeds: Annotated[int, Field(ge=2, le=20)]
    adapted: list[Adapted] | None = None
    execution: Scoring = Scoring()

    @model_validator(mode="after")
    def _as_named(self) -> "Ladder":
        names = [base.name for base in self.bases]
        require_different([name.lower() for name in names], "bases")
        if self.adapted is not None and sorted(one.name for one in self.adapted) != sorted(names):
            found = f"`adapted` is of {', '.join(one.name for one in self.adapted) or 'none'}:"
            raise UserError("ladder-adapted-differ", found, f"it must be of the bases {', '.join(names)}")
        return self
