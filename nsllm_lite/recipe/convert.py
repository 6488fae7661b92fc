"""The recipe of a conversion."""

from typing import Literal

from nsllm_lite.recipe.values import Count, FilePath, HashedPath, Strict


class Convert(Strict):
    """A GGUF file as a Hugging Face model folder. `dtype` None: bfloat16, or float16 or float32 where all matrices of
    the file are that."""

    kind: Literal["convert"]
    gguf: HashedPath
    out: FilePath
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    shard_bytes: Count = 5_000_000_000
