"""The recipe of an encoder's pretraining."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.train import Budget, Optimizer, Schedule, require_warmup
from nsllm_lite.recipe.values import Count, FilePath, HashedPath, ModelPath, Seed, Share, Strict, none_word, require_one


class StudentShape(Strict):
    """The shape of an encoder built from nothing; `local_attention` is the window of ModernBERT's local layers, two of
    three."""

    architecture: Literal["bert", "roberta", "modernbert"]
    hidden_size: Count
    intermediate_size: Count
    num_layers: Count
    num_heads: Count
    max_positions: Count
    local_attention: Annotated[Count | None, BeforeValidator(none_word)] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden_size % self.num_heads:
            found = f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}:"
            raise UserError("encoder-heads-uneven", found, "change one of them")
        if (self.local_attention is None) == (self.architecture == "modernbert"):
            found = f"local_attention {self.local_attention} with architecture {self.architecture}:"
            raise UserError("encoder-local-attention", found, "ModernBERT needs it, the others have none")
        return self


class EncoderShape(StudentShape):
    """An encoder built from nothing, sized by these and by a tokenizer folder."""

    tokenizer: ModelPath


class MaskedEvaluation(Strict):
    """Loss and top-1 accuracy of masked tokens of held-out papers at step 0, every `every_steps`, and at the end, by
    source. The same 15 % of the tokens are masked each time, whatever the recipe's seed and mask_share, all of them by
    the mask token. Of general text alike, where `general_rows` are named."""

    domain_rows: HashedPath
    general_rows: Annotated[HashedPath | None, BeforeValidator(none_word)] = None
    every_steps: Count
    max_rows: Count
    max_general_loss_increase: Annotated[float, Field(ge=0)] | None = None  # nats above that of step 0
    when_forgetting: Literal["stop", "warn"] = "stop"  # where it is exceeded

    @model_validator(mode="after")
    def _something_to_judge_by(self) -> Self:
        if self.max_general_loss_increase is not None and not self.general_rows:
            found = f"max_general_loss_increase={self.max_general_loss_increase:g} without general_rows:"
            raise UserError("mlm-limit-without-rows", found, "name general held-out rows, or leave the limit out")
        return self


class MlmExecution(Strict):
    """How the step is run; None leaves the choice to the program."""

    micro_batch_rows: Count | None = None
    device: Literal["cpu", "cuda"] | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None


class EncoderTraining(Strict):
    """What all trainings of encoders state; all weights are trained."""

    adapter: ClassVar[None] = None  # as other trainings may have
    quantisation: ClassVar[str] = "none"

    compute_dtype: Literal["float32", "bfloat16"]
    optimizer: Optimizer
    schedule: Schedule
    checkpoint_steps: Count
    keep_checkpoints: Count
    seed: Seed
    execution: MlmExecution = MlmExecution()


def _all_word(value: Any) -> Any:
    return None if value == "all" else none_word(value)


class Mlm(EncoderTraining):
    """An encoder trained on masked tokens, from nothing (`build`) or from a folder (`model`): all weights.

    Of the tokens, but for those that begin and end a text, a `mask_share` is to be told: in training 80 % of them are
    masked, 10 % are another token, 10 % stay as they are. Of them a `keyword_share` falls on the keywords that a paper
    states, which are read from the corpus's folder `documents`.

    A `model` can be changed first: `layers` (counted from 1) leaves the others out; `extend_vocabulary` puts a
    tokenizer, that of the rows, in the place of its own, with a token that it lacks begun as the mean of its pieces;
    `max_positions` lets it take longer texts, learned positions begun as copies of the first; `new_head` draws a head
    for masked tokens where none is stored. `train_only: new` trains what was added by these and nothing else.
    """

    kind: Literal["mlm"]
    out: FilePath
    model: ModelPath | None = None
    build: EncoderShape | None = None
    layers: Annotated[list[Count] | None, Field(min_length=1), BeforeValidator(none_word)] = None
    extend_vocabulary: Annotated[ModelPath | None, BeforeValidator(none_word)] = None
    max_positions: Annotated[Count | None, BeforeValidator(none_word)] = None
    new_head: bool = False
    train_only: Annotated[Literal["new"] | None, BeforeValidator(_all_word)] = None  # None: all
    rows: HashedPath
    mask_share: Annotated[float, Field(gt=0, lt=1)]
    keyword_share: Share = 0.0
    documents: Annotated[HashedPath | None, BeforeValidator(none_word)] = None
    budget: Budget
    evaluation: MaskedEvaluation

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        require_one(model=self.model, build=self.build)
        require_warmup(self.schedule, self.budget.steps, info)
        if bool(self.keyword_share) != bool(self.documents):
            found = f"keyword_share {self.keyword_share:g} with documents {self.documents}:"
            raise UserError("mlm-keywords-and-documents", found, "keywords are read from documents; state both or none")
        changes = {name: getattr(self, name) for name in ("layers", "extend_vocabulary", "max_positions", "new_head")}
        if self.build and (stated := [name for name, value in changes.items() if value]):
            found = f"{', '.join(stated)} with `build`:"
            raise UserError("mlm-changes-of-nothing", found, "these change a `model`; state them of that, or neither")
        if self.train_only == "new" and not any(value for name, value in changes.items() if name != "layers"):
            todo = "set extend_vocabulary, max_positions or new_head, or train_only=all"
            raise UserError("mlm-nothing-new", "train_only: new, where nothing is added:", todo)
        return self
