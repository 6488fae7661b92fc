"""The recipe of a merge."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.values import Count, FilePath, HashedPath, ModelPath, Strict, TokenizerFrom, option


class MergedAdapter(Strict):
    """An adapter folder; its update is multiplied by `weight`."""

    path: HashedPath
    weight: float = 1.0


class MergeExecution(Strict):
    """`workers` None: one a core, 4 at most."""

    verify: Annotated[bool, option("load the result and compare it with base + adapter")] = False
    workers: Count | None = None
    device: Literal["cpu", "cuda"] | None = None  # of what needs the model in memory: `auto` and `verify`


class Merge(Strict):
    """Adds adapters to the weights of a base.

    `base_weights`: to the 16-bit (or 32-bit) weights (original), to what NF4 training saw of them (dequantized), or to
    whichever of the two has the lower loss on `heldout_rows` (auto). With `then_requantize` another phase of NF4
    training follows, and the loss compared is that of the merged model in NF4. `rounding`: sums become the nearest
    number of 16 bits (none, or nearest), or either neighbour, so that their mean over `rounding_seed` is the sum
    (stochastic).
    """

    kind: Literal["merge"]
    base: Annotated[ModelPath, option("the model that the adapter was trained on: a folder or hub id", "MODEL")]
    adapter: HashedPath | Annotated[list[MergedAdapter], Field(min_length=1)]
    out: Annotated[FilePath, option("folder to write; it must not be there", "DIR")]
    base_weights: Annotated[
        Literal["original", "dequantized", "auto"],
        option(
            "add the adapter to the 16-bit weights, to their NF4 rounding, or to what scores better on --heldout-rows",
            typed="original",
        ),
    ]
    then_requantize: Annotated[bool, option("NF4 training will follow: auto scores in NF4")] = False
    heldout_rows: Annotated[
        HashedPath | None, option("packed rows that auto and --compare score on (default: none)", "DIR")
    ] = None
    max_rows: Annotated[Count, option("at most so many of these rows", "N")] = 64
    double_quantisation: bool | None = None  # of the training; where the adapter does not state it
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None, option("of the result (default: the base's own)")
    ] = None
    rounding: Annotated[
        Literal["nearest", "stochastic"] | None,
        AfterValidator(lambda word: None if word == "nearest" else word),  # which recipes of before this key say
        option("of each sum to 16 bits; stochastic keeps small updates on average (default: nearest)"),
    ] = None
    rounding_seed: Annotated[
        Annotated[int, Field(ge=0)] | None,
        AfterValidator(lambda seed: seed or None),  # which is 0
        option("of stochastic rounding (default: 0)", "N"),
    ] = None
    tokenizer_from: TokenizerFrom = None
    shard_bytes: Annotated[Count, option("largest file of weights, in bytes", "N", typed="5e9")]
    trust_base: Annotated[bool, option("also where the adapter names another base")] = False
    execution: MergeExecution = MergeExecution()

    @property
    def adapters(self) -> list[MergedAdapter]:
        return [MergedAdapter(path=self.adapter)] if isinstance(self.adapter, str) else self.adapter

    @model_validator(mode="after")
    def _rows_to_choose_by(self) -> "Merge":
        if self.base_weights == "auto" and not self.heldout_rows:
            found = "`base_weights: auto` chooses by the loss on held-out rows, but `heldout_rows` is not set:"
            todo = "set rows that `nsllm-lite corpus` wrote (rows/phase1/heldout), or choose original or dequantized"
            raise UserError("auto-without-rows", found, todo)
        return self

    @model_validator(mode="after")
    def _seed_of_what(self) -> "Merge":
        if self.rounding_seed and not self.rounding:
            found = "`rounding_seed` is set, but rounding to the nearest draws nothing:"
            raise UserError("rounding-seed-unused", found, "set rounding=stochastic, or leave the seed out")
        return self
