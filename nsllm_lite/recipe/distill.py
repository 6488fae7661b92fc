"""The recipe of an encoder's distillation."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.mlm import EncoderTraining, StudentShape
from nsllm_lite.recipe.train import Budget, require_warmup
from nsllm_lite.recipe.values import Count, FilePath, HashedPath, ModelPath, Strict, none_word


class RelationEvaluation(Strict):
    """The relations' divergence on held-out papers at step 0, every `every_steps`, and at the end, by source."""

    domain_rows: HashedPath
    every_steps: Count
    max_rows: Count


class Distill(EncoderTraining):
    """A student learns the self-attention relations of a teacher (MiniLMv2): how, in each document, the queries of its
    last layer are to each other, and so the keys and the values, in `relation_heads` parts; those of the teacher are of
    its layer `teacher_layer` (counted from 1; none: its last). Widths may differ; the tokenizer is the teacher's.

    The student is built from nothing (`build`), made of some of the teacher's `layers`, or another encoder of the same
    tokenizer (`student`).
    """

    kind: Literal["distill"]
    out: FilePath
    teacher: ModelPath
    student: Annotated[ModelPath | None, BeforeValidator(none_word)] = None
    build: StudentShape | None = None
    layers: Annotated[list[Count] | None, Field(min_length=1), BeforeValidator(none_word)] = None
    relation_heads: Count
    teacher_layer: Annotated[Count | None, BeforeValidator(none_word)] = None
    rows: HashedPath
    budget: Budget
    evaluation: RelationEvaluation

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        given = [name for name in ("student", "build", "layers") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"the student is given by {' and '.join(given) or 'nothing'}:"
            raise UserError("distill-student-not-one", found, "state one of `student`, `build` and `layers`")
        if self.build and self.build.hidden_size % self.relation_heads:
            raise uneven("build.hidden_size", self.build.hidden_size, self.relation_heads)
        require_warmup(self.schedule, self.budget.steps, info)
        return self


def uneven(what: str, hidden_size: int, relation_heads: int) -> UserError:
    found = f"{what} {hidden_size} is no multiple of relation_heads {relation_heads}:"
    return UserError("distill-heads-uneven", found, "set relation_heads to a number that divides both widths")
