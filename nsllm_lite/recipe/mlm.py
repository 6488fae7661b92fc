"""The recipe of an encoder's pretraining."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.train import Budget, Optimizer, Schedule, require_warmup
from nsllm_lite.recipe.values import Count, FilePath, HashedPath, ModelPath, Share, Strict, none_word, require_one


class EncoderShape(Strict):
    """An encoder built from nothing; `local_attention` is the window of ModernBERT's local layers, two of three."""

    tokenizer: ModelPath
    architecture: Literal["bert", "roberta", "modernbert"]
    hidden_size: Count
    intermediate_size: Count
    num_layers: Count
    num_heads: Count
    max_positions: Count
    local_attention: Annotated[Count | None, BeforeValidator(none_word)] = None

    @model_validator(mode="after")
    def _consistent(self) -> "EncoderShape":
        if self.hidden_size % self.num_heads:
            found = f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}:"
            raise UserError("encoder-heads-uneven", found, "change one of them")
        if (self.local_attention is None) == (self.architecture == "modernbert"):
            found = f"local_attention {self.local_attention} with architecture {self.architecture}:"
            raise UserError("encoder-local-attention", found, "ModernBERT needs it, the others have none")
        return self


class MaskedEvaluation(Strict):
    """Loss and top-1 accuracy of masked tokens of held-out papers at step 0, every `every_steps`, and at the end, by
    source; the same tokens are masked each time."""

    domain_rows: HashedPath
    every_steps: Count
    max_rows: Count


class MlmExecution(Strict):
    """How the step is run; None leaves the choice to the program."""

    micro_batch_rows: Count | None = None
    device: Literal["cpu", "cuda"] | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None


class Mlm(Strict):
    """An encoder trained on masked tokens, from nothing (`build`) or from a folder (`model`): all weights.

    Of the tokens, but for those that begin and end a text, a `mask_share` is to be told: 80 % of them are masked, 10 %
    are another token, 10 % stay as they are. Of them a `keyword_share` falls on the keywords that a paper states, which
    are read from the corpus's folder `documents`.
    """

    adapter: ClassVar[None] = None  # as other trainings may have: all weights are trained
    quantisation: ClassVar[str] = "none"

    kind: Literal["mlm"]
    out: FilePath
    model: ModelPath | None = None
    build: EncoderShape | None = None
    rows: HashedPath
    mask_share: Annotated[float, Field(gt=0, lt=1)]
    keyword_share: Share = 0.0
    documents: Annotated[HashedPath | None, BeforeValidator(none_word)] = None
    compute_dtype: Literal["float32", "bfloat16"]
    optimizer: Optimizer
    schedule: Schedule
    budget: Budget
    evaluation: MaskedEvaluation
    checkpoint_steps: Count
    keep_checkpoints: Count
    seed: int
    execution: MlmExecution = MlmExecution()

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "Mlm":
        require_one(model=self.model, build=self.build)
        require_warmup(self.schedule, self.budget.steps, info)
        if bool(self.keyword_share) != bool(self.documents):
            found = f"keyword_share {self.keyword_share:g} with documents {self.documents}:"
            raise UserError("mlm-keywords-and-documents", found, "keywords are read from documents; state both or none")
        return self
