"""The recipe of an embedding model: a bi-encoder trained on pairs of texts, or on another one's similarities."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.mlm import EncoderTraining
from nsllm_lite.recipe.train import require_warmup
from nsllm_lite.recipe.values import Count, FilePath, HashedPath, ModelPath, Strict, none_word, require_one

PAIR_KINDS = ("title-abstract", "keywords-abstract", "abstract-section", "citing-cited", "sentences")
DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
LEAST_PAIRS, FEW_PAIRS = 2, 16  # of a batch: none has a negative below the first, below the second too few are hard


class HardNegatives(Strict):
    """Of each query `count` texts of other papers that BM25 ranks from `first_rank` to `last_rank` (from 1)."""

    count: Annotated[int, Field(ge=1, le=16)]
    first_rank: Count
    last_rank: Count

    @model_validator(mode="after")
    def _enough(self) -> "HardNegatives":
        if self.last_rank - self.first_rank + 1 < self.count:
            found = f"ranks {self.first_rank} to {self.last_rank} hold no {self.count} texts:"
            raise UserError("embed-ranks-few", found, "raise hard_negatives.last_rank, or lower its count")
        return self


class Stage(Strict):
    """`steps` steps of `batch_pairs` pairs each: of these kinds from the corpus, each kind with steps in proportion to
    the square root of its papers; or of a `file` of records {query, positive} or {query, positive, negatives}."""

    pairs: Annotated[list[Literal[PAIR_KINDS]], Field(min_length=1)] | None = None
    file: HashedPath | None = None
    steps: Count
    batch_pairs: Count
    hard_negatives: Annotated[HardNegatives | None, BeforeValidator(none_word)] = None

    @model_validator(mode="after")
    def _consistent(self) -> "Stage":
        require_one(pairs=self.pairs, file=self.file)
        if self.pairs and len(set(self.pairs)) < len(self.pairs):
            raise UserError("embed-kind-twice", f"`pairs` names a kind twice: {self.pairs}:", "name each once")
        if self.batch_pairs < LEAST_PAIRS:
            found = f"batch_pairs {self.batch_pairs}: a pair alone has no negatives, and nothing is learnt;"
            raise UserError("embed-batch-of-one", found, "take 16 or more, as many as is known to help: 256 to 1024")
        return self


class PairEvaluation(Strict):
    """Retrieval for held-out papers at step 0, every `every_steps`, and at the end: at most `max_queries` of each kind
    of pairs that the corpus gives, in a collection of at most `max_texts`: documents of held-out papers, then of
    training papers. Each evaluation embeds as many of each kind, and what two kinds have in common once."""

    every_steps: Count
    max_queries: Annotated[int, Field(ge=2)]
    max_texts: Annotated[int, Field(ge=2)]


class Teacher(Strict):
    """An embedding model whose similarities within a batch are learnt in place of which text is the right one: the
    Kullback-Leibler divergence of softmax(cosine / (temperature x softening)) of both."""

    model: ModelPath
    softening: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Embed(EncoderTraining):
    """A bi-encoder: mean of the last hidden states, at length 1, of at most `max_tokens` tokens, no prompts.

    The loss of a pair is -log of its share in the sum of exp(cosine / temperature) over what `directions` names: query
    with all documents, with other queries, document with queries, with other documents. With `dimensions` it is the
    sum over the first so many of the embedding's numbers (Matryoshka), too. `model` is an encoder's folder or that of
    an embedding model; `stages` follow one another.
    """

    kind: Literal["embed"]
    out: FilePath
    model: ModelPath
    corpus: HashedPath
    teacher: Annotated[Teacher | None, BeforeValidator(none_word)] = None
    max_tokens: Annotated[int, Field(ge=8)]
    temperature: Annotated[float, Field(gt=0, le=1)]
    directions: list[Literal[DIRECTIONS]] = list(DIRECTIONS)
    dimensions: list[Count] = []
    stages: Annotated[list[Stage], Field(min_length=1)]
    sentences_per_paper: Count = 4
    max_citing: Count = 20  # papers that cite one, as pairs: else a few much cited ones are most of them
    evaluation: PairEvaluation

    @property
    def num_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "Embed":
        require_warmup(self.schedule, self.num_steps, info)
        if "query_to_doc" not in self.directions or len(set(self.directions)) < len(self.directions):
            found = f"directions {self.directions} name one twice, or leave out query_to_doc:"
            raise UserError(
                "embed-directions", found, "each pair is a query and its document; name that, and each once"
            )
        if self.teacher and self.directions != list(DIRECTIONS):
            found = f"directions {self.directions} with a teacher:"
            raise UserError(
                "embed-teacher-directions", found, "it tells of queries and documents alone; leave them out"
            )
        return self
