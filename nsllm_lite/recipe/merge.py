"""The recipe of a merge."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.values import Count, Name, Strict


class MergedAdapter(Strict):
    """An adapter folder; its update is multiplied by `weight`."""

    path: Name
    weight: float = 1.0


class MergeExecution(Strict):
    """`verify` loads the result again and compares it with base + adapter; `workers` None: one a core, 4 at most."""

    verify: bool = False
    workers: Count | None = None
    device: Literal["cpu", "cuda"] | None = None  # of what needs the model in memory: `auto` and `verify`


class Merge(Strict):
    """Adds adapters to the weights of a base.

    `base_weights`: to the 16-bit (or 32-bit) weights (original), to what NF4 training saw of them (dequantized), or to
    whichever of the two has the lower loss on `heldout_rows` (auto). With `then_requantize` another phase of NF4
    training follows, and the loss compared is that of the merged model in NF4.
    """

    kind: Literal["merge"]
    base: Name
    adapter: Name | Annotated[list[MergedAdapter], Field(min_length=1)]
    out: Name
    base_weights: Literal["original", "dequantized", "auto"]
    then_requantize: bool = False
    heldout_rows: Name | None = None
    max_rows: Count = 64
    double_quantisation: bool | None = None  # of the training; where the adapter does not tell
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    shard_bytes: Annotated[int, Field(ge=1)]
    trust_base: bool = False  # the adapter may name another base
    execution: MergeExecution = MergeExecution()

    @property
    def adapters(self) -> list[MergedAdapter]:
        return [MergedAdapter(path=self.adapter)] if isinstance(self.adapter, str) else self.adapter

    @model_validator(mode="after")
    def _rows_to_choose_by(self) -> "Merge":
        if self.base_weights == "auto" and not self.heldout_rows:
            raise UserError(
                "auto-without-rows",
                "`base_weights: auto` chooses by the loss on held-out rows, but `heldout_rows` is not set:",
                "set rows that `nsllm-lite corpus` wrote (rows/phase1/heldout), or choose original or dequantized",
            )
        return self
