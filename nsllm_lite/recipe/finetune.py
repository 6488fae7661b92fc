"""The recipe of fine-tuning: a model with a head for one task, trained on labelled examples."""

from itertools import product
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.mlm import MlmExecution
from nsllm_lite.recipe.values import Count, FilePath, HashedPath, ModelPath, Seed, Share, Strict, none_word

Rate = Annotated[float, Field(gt=0, le=1)]


class LoraShape(Strict):
    """LoRA on every linear layer of the model's body, merged into it at the end."""

    rank: Count
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Grid(Strict):
    """What a search draws from: every pair of a rate and a number of epochs."""

    learning_rate: Annotated[list[Rate], Field(min_length=1)] = [1e-5, 2e-5, 3e-5, 5e-5, 1e-4]
    epochs: Annotated[list[Count], Field(min_length=1)] = [2, 3, 5, 10]

    def pairs(self) -> list[tuple[float, int]]:
        return sorted(set(product(self.learning_rate, self.epochs)))


class Finetune(Strict):
    """A head on `model`, trained on the examples of `data`: files of JSON lines, CSV or BIO.

    `train`: the head alone (a linear probe), the `last_layers` with it, `lora` on the body and the head, or all.
    Without a file for `development` a share of the papers is split off (of a file of entities that states no papers a
    block). The epoch with the best development score is kept, and training ends where it has not improved for
    `patience` epochs. A `search` tries so many pairs of learning rate and epochs, the recipe's own and others of
    `grid`, and takes the one with the best development score. The result is then trained with so many `seeds`, from
    `seed` on. Texts of more than `max_tokens` tokens are cut into windows that share `stride` of them.
    """

    kind: Literal["finetune"]
    out: FilePath
    model: ModelPath
    task: Literal["classification", "multilabel", "ner", "qa", "pair"]
    data: Annotated[list[HashedPath], Field(min_length=1)]
    development: Annotated[HashedPath | None, BeforeValidator(none_word)] = None
    development_share: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[HashedPath | None, BeforeValidator(none_word)] = None
    train: Literal["head", "last_layers", "lora", "all"]
    last_layers: Annotated[Count | None, BeforeValidator(none_word)] = None
    lora: Annotated[LoraShape | None, BeforeValidator(none_word)] = None
    max_tokens: Annotated[int, Field(ge=16)]
    stride: Annotated[int, Field(ge=0)]
    max_answer_tokens: Count = 30
    class_weights: Literal["none", "balanced"]
    compute_dtype: Literal["float32", "bfloat16"]
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    warmup_share: Share
    max_grad_norm: Annotated[float, Field(gt=0)]
    epochs: Count
    batch_size: Count
    patience: Annotated[Count | None, BeforeValidator(none_word)]
    search: Annotated[Count | None, BeforeValidator(none_word)]
    grid: Grid = Grid()
    seeds: Annotated[int, Field(ge=1, le=10)]
    seed: Seed
    checkpoint_steps: Count
    execution: MlmExecution = MlmExecution()

    @model_validator(mode="after")
    def _consistent(self) -> "Finetune":
        for name in ("last_layers", "lora"):
            if (self.train == name) != (getattr(self, name) is not None):
                found = f"train={self.train} with {name}={getattr(self, name)}:"
                raise UserError("finetune-trained-part", found, f"state {name} with train={name}, and only then")
        if 2 * self.stride >= self.max_tokens:
            found = f"stride {self.stride} is half of max_tokens {self.max_tokens} or more:"
            raise UserError("finetune-stride-long", found, "lower it; a quarter of max_tokens is usual")
        if self.class_weights == "balanced" and self.task == "qa":
            found = "class_weights=balanced with task=qa, which has no classes:"
            raise UserError("finetune-weights-without-classes", found, "set class_weights=none")
        if self.search and self.search > 1 + len(self.others()):
            found = f"search={self.search}, but the recipe's own pair and the grid make {1 + len(self.others())}:"
            raise UserError("finetune-search-large", found, "lower search, or widen grid")
        return self

    def others(self) -> list[tuple[float, int]]:
        """The pairs of the grid without the recipe's own."""
        return [pair for pair in self.grid.pairs() if pair != (self.learning_rate, self.epochs)]
