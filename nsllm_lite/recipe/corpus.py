"""The recipe of a corpus."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.values import (
    Count,
    FilePath,
    HashedPath,
    ModelPath,
    Name,
    Share,
    Strict,
    none_word,
    require_different,
    require_one,
)


class Fields(Strict):
    """Maps the user's field names to ours: each is a field, a column, or a path to an inner field (`body.summary`).

    Papers have a title and an abstract, general text has a `text`. From `language` on, what cannot be read of a record
    is left empty.
    """

    title: Name | None = None
    abstract: Name | None = None
    text: Name | None = None
    id: Name | None = None
    doi: Name | None = None
    discipline: Name | None = None
    language: Name | None = None
    date: Name | None = None
    authors: Name | None = None
    venue: Name | None = None
    categories: Name | None = None
    keywords: Name | None = None
    references: Name | None = None

    @model_validator(mode="after")
    def _enough(self) -> "Fields":
        if not (self.text or (self.title and self.abstract)):
            given = ", ".join(name for name, path in self if path) or "none"
            found = f"these fields are mapped: {given}."
            needed = "Papers need `title` and `abstract`, general text needs `text`:"
            todo = "add them, as in {title: headline, abstract: body.summary}"
            raise UserError("fields-incomplete", found, needed, todo)
        return self


class Source(Strict):
    """One place papers come from. `path` is a file or a folder, or `bundled:papers` / `bundled:general`.

    `fields` goes with `format: fields`: JSON, CSV, TSV or Parquet whose own names are given there.
    """

    name: Name
    path: HashedPath
    format: Literal[
        "auto", "pdf", "arxiv", "oai", "atom", "pubmed", "medline", "jats", "tei", "latex", "wos", "ris", "bibtex",
        "table", "conference", "s2orc", "s2ag", "unarxive", "openalex", "europepmc", "elsevier", "bioc", "pmctext",
        "inspire", "datacite", "zotero", "pes2o", "markdown", "endnote", "enw", "refworks", "noteexpress", "estudy",
        "excel", "fields", "sample", "text",
    ] = "auto"  # fmt: skip
    fields: Fields | None = None
    licence: str = "not stated"

    @model_validator(mode="after")
    def _fields_with_their_format(self) -> "Source":
        if self.format == "fields" and self.fields is None:
            found = "`format: fields` without `fields`,"
            todo = "add e.g. fields: {title: headline, abstract: body.summary}"
            raise UserError("fields-missing", found, "which say what each field of a record contains:", todo)
        if self.format != "fields" and self.fields is not None:
            found = f"`fields` with `format: {self.format}`:"
            needed = "a field map is only read with `format: fields`;"
            raise UserError("fields-unused", found, needed, "set `format: fields`, or remove `fields`")
        return self


ENCODER_END = "</s>"  # of the tokenizers that are trained for encoders


class TrainTokenizer(Strict):
    """Train a byte-level BPE on this corpus's own training documents instead of taking a model's tokenizer.

    `model: encoder` gives it RoBERTa's special tokens, with `end_of_text: </s>`.
    """

    vocab_size: Annotated[int, Field(ge=300, le=500_000)]
    model: Literal["encoder"] | None = None


class HeldOut(Strict):
    """Papers kept out of training, the same in both phases, chosen by paper id after duplicates are removed.

    `general_share` is the share of the general passages kept for the forgetting control; `max_papers` bounds either.
    """

    share: Share
    general_share: Share
    max_papers: Count
    seed: int


class Balance(Strict):
    """No source, or discipline, may give more than this share of the papers' characters; the surplus is not used.

    Which papers stay follows from their ids and `seed`. Papers that state no discipline are not capped by it.
    """

    max_source_share: Annotated[float, Field(gt=0, le=1)] | None = None
    max_discipline_share: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int


class CorpusExecution(Strict):
    """How the corpus is built; None takes one process a core for a large input. The result is the same."""

    workers: Count | None = None


class Corpus(Strict):
    """`begin_of_text` is what stands before every text: auto (what the tokenizer itself puts there), none, or a token.

    `languages` are ISO 639-1 codes: a text must be in one of these languages (empty: any).

    `decontaminate` names evaluation files: a paper that holds an item of them is dropped.
    """

    kind: Literal["corpus"]
    out: FilePath
    sources: Annotated[list[Source], Field(min_length=1)]
    general: list[Source]
    tokenizer: ModelPath | None = None
    train_tokenizer: TrainTokenizer | None = None
    begin_of_text: Name | None = None
    end_of_text: Name
    row_tokens: Annotated[int, Field(ge=16, le=131_072)]
    heldout: HeldOut
    near_duplicate_jaccard: Annotated[float, Field(gt=0.4, le=1)]
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]]
    decontaminate: list[HashedPath]
    balance: Annotated[Balance | None, BeforeValidator(none_word)]
    min_chars: Count
    max_drop_share: Share
    execution: CorpusExecution = CorpusExecution()

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "Corpus":
        require_one(tokenizer=self.tokenizer, train_tokenizer=self.train_tokenizer)
        if self.train_tokenizer and self.train_tokenizer.model and self.end_of_text != ENCODER_END:
            found = f"end_of_text is {self.end_of_text!r}, and train_tokenizer is for an encoder:"
            raise UserError("corpus-encoder-end", found, f"set end_of_text to {ENCODER_END!r}")
        require_different([source.name for source in (*self.sources, *self.general)], "sources")
        return self
