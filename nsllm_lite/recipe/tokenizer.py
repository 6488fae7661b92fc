"""The recipe of a tokenizer."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.values import Count, FilePath, HashedPath, ModelPath, Strict, none_word, require_different


class BpeTraining(Strict):
    """A byte-level BPE, for an encoder (with RoBERTa's special tokens) or a decoder (which only ends a text)."""

    vocab_size: Annotated[int, Field(ge=300, le=500_000)]
    model: Literal["encoder", "decoder"]


class TokenizerRecipe(Strict):
    """A tokenizer trained on the training papers of a finished corpus (`train`), and compared with others (`compare`)
    on its held-out papers. `train: none` compares alone. Words in at least `min_papers` papers are compared singly."""

    kind: Literal["tokenizer"]
    out: FilePath
    corpus: HashedPath
    train: Annotated[BpeTraining | None, BeforeValidator(none_word)]
    compare: list[ModelPath]
    min_papers: Count = 3

    @model_validator(mode="after")
    def _something_to_do(self) -> "TokenizerRecipe":
        require_different(self.compare, "compare")
        if not self.train and not self.compare:
            todo = "set train.vocab_size and train.model, or name tokenizers in `compare`"
            raise UserError("tokenizer-nothing-to-do", "`train: none` and nothing in `compare`:", todo)
        return self
