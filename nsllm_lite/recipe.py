"""Recipes: one complete YAML a run, saying WHAT is computed.

How a run fits the card (micro-batch, recomputation) is not here but under `execution:`, which
`nsllm_lite.execution` fills in and which never changes the result beyond rounding.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nsllm_lite.errors import UserError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _none_word(value: Any) -> Any:
    return None if value == "none" else value


def _require_one(**given: Any) -> None:
    if sum(value is not None for value in given.values()) != 1:
        one, other = given
        raise UserError("key-not-one", f"both or neither of `{one}` and `{other}` are given:", "", "give one of them")


def _require_different(names: list[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise UserError(
            "names-repeat", f"the names of the {what} repeat: {sorted(names)}:", "", "name each differently"
        )


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]

# ------------------------------------------------------------------------------------------------------- corpus


class Fields(Strict):
    """Where records of the user's own have what. Each is a field or column, or a path into inner ones: `body.summary`.

    Papers have a title and an abstract, general text has a `text`.
    """

    title: Name | None = None
    abstract: Name | None = None
    text: Name | None = None
    id: Name | None = None
    doi: Name | None = None
    discipline: Name | None = None
    language: Name | None = None

    @model_validator(mode="after")
    def _enough(self) -> "Fields":
        if not (self.text or (self.title and self.abstract)):
            given = ", ".join(name for name, path in self if path) or "none"
            raise UserError(
                "fields-incomplete",
                f"these fields are mapped: {given}.",
                "Papers need `title` and `abstract`, general text needs `text`:",
                "add them, as in {title: headline, abstract: body.summary}",
            )
        return self


class Source(Strict):
    """One place papers come from. `path` is a file or a folder, or `bundled:papers` / `bundled:general`.

    `fields` goes with `format: fields`: JSON, CSV, TSV or Parquet whose own names are given there.
    """

    name: Name
    path: Name
    format: Literal[
        "auto", "arxiv", "oai", "atom", "pubmed", "medline", "jats", "tei", "latex", "wos", "ris", "bibtex", "table",
        "conference", "s2orc", "unarxive", "fields", "sample", "text",
    ] = "auto"  # fmt: skip
    fields: Fields | None = None
    licence: str = "not stated"

    @model_validator(mode="after")
    def _fields_with_their_format(self) -> "Source":
        if self.format == "fields" and self.fields is None:
            raise UserError(
                "fields-missing",
                "`format: fields` without `fields`,",
                "which say what each field of a record contains:",
                "add e.g. fields: {title: headline, abstract: body.summary}",
            )
        if self.format != "fields" and self.fields is not None:
            raise UserError(
                "fields-unused",
                f"`fields` with `format: {self.format}`:",
                "a field map is only read with `format: fields`;",
                "set `format: fields`, or remove `fields`",
            )
        return self


class TrainTokenizer(Strict):
    """Train a byte-level BPE on this corpus's own training documents instead of taking a model's tokenizer."""

    vocab_size: Annotated[int, Field(ge=300, le=500_000)]


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
    """`languages` are ISO 639-1 codes, of which a text must be one (empty: any).

    `decontaminate` names evaluation files: a paper that holds an item of them is dropped.
    """

    kind: Literal["corpus"]
    out: Name
    sources: Annotated[list[Source], Field(min_length=1)]
    general: list[Source]
    tokenizer: str | None = None
    train_tokenizer: TrainTokenizer | None = None
    end_of_text: Name
    row_tokens: Annotated[int, Field(ge=16, le=131_072)]
    heldout: HeldOut
    near_duplicate_jaccard: Annotated[float, Field(gt=0.4, le=1)]
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]]
    decontaminate: list[Name]
    balance: Annotated[Balance | None, BeforeValidator(_none_word)]
    min_chars: Count
    max_drop_share: Share
    execution: CorpusExecution = CorpusExecution()

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "Corpus":
        _require_one(tokenizer=self.tokenizer, train_tokenizer=self.train_tokenizer)
        _require_different([source.name for source in (*self.sources, *self.general)], "sources")
        return self


# -------------------------------------------------------------------------------------------------------- train


class ModelShape(Strict):
    """A Qwen3-architecture model built from nothing (`adapter: none`), sized by these and by a tokenizer folder."""

    tokenizer: Name
    hidden_size: Count
    intermediate_size: Count
    num_layers: Count
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    tied_embeddings: bool


class Adapter(Strict):
    """LoRA: y = W x + s B A x with s = alpha / rank, or alpha / sqrt(rank) for rsLoRA. Dropout is 0.

    With `dora` each row of the sum is scaled to a trained length. The embeddings and the head in `modules_to_save` are
    trained whole, in fp32.
    """

    rank: Count
    alpha: Annotated[float, Field(gt=0)]
    rslora: bool
    targets: Annotated[list[Name], Field(min_length=1)]
    dora: bool = False
    modules_to_save: list[Literal["embed_tokens", "lm_head"]] = []

    @model_validator(mode="after")
    def _no_head(self) -> "Adapter":
        if refused := sorted({"lm_head", "embed_tokens"} & set(self.targets)):
            raise UserError(
                "lora-on-head",
                f"LoRA on {' and '.join(refused)} is refused: the fused cross-entropy reads the head's own weight, so "
                "its LoRA would silently not be trained, and on tied embeddings a merge counts it twice;",
                "",
                "remove it from `targets`, or train it whole with `modules_to_save`",
            )
        return self


class Optimizer(Strict):
    """`embedding_learning_rate` is that of `modules_to_save`; None: as the others."""

    name: Literal["adamw", "adamw8bit", "paged_adamw8bit"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    embedding_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    betas: tuple[Share, Share]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]


class Schedule(Strict):
    """Linear warm-up, then constant, or a cosine down to `final_share` of the peak."""

    shape: Literal["constant", "cosine"]
    warmup_steps: Annotated[int, Field(ge=0)]
    final_share: Share = 1.0


class Budget(Strict):
    """The length of the run, in steps and in tokens; the two must agree."""

    steps: Count
    tokens_per_step: Count
    tokens: Count

    @model_validator(mode="after")
    def _agree(self) -> "Budget":
        if self.steps * self.tokens_per_step != self.tokens:
            raise UserError(
                "budget-disagrees",
                f"steps x tokens_per_step = {self.steps * self.tokens_per_step}, but tokens says {self.tokens}:",
                "",
                "change them together",
            )
        return self


class Replay(Strict):
    """General text mixed into each step against forgetting; `max_epochs` bounds how often it may repeat."""

    rows: Name
    share: Annotated[float, Field(ge=0, lt=1)]
    max_epochs: Annotated[float, Field(gt=0)]


class Evaluation(Strict):
    """Held-out losses at step 0, every `every_steps`, and at the end; by source."""

    domain_rows: Name
    general_rows: Name
    every_steps: Count
    max_rows: Count
    max_general_loss_increase: Annotated[float, Field(ge=0)] | None = None  # nats above that of step 0
    when_forgetting: Literal["stop", "warn"] = "stop"  # where it is exceeded


class Samples(Strict):
    """Greedy continuations of held-out papers, before and after."""

    count: Annotated[int, Field(ge=0, le=20)]
    prompt_tokens: Count
    new_tokens: Count


class Execution(Strict):
    """How the step is run; None leaves the choice to `nsllm_lite.execution`, by the memory that is there."""

    micro_batch_rows: Count | None = None
    recompute_layers: Annotated[int, Field(ge=0)] | None = None  # that keep their input only
    recompute_cheap: bool | None = None  # in the other layers: the outputs of norms and SwiGLU
    dequantised: bool | None = None  # hold what NF4 made of the weights in compute_dtype
    compile: bool | None = None  # the layers, by torch.compile
    head: Literal["liger", "chunked"] | None = None  # what computes the loss from the last hidden states
    device: Literal["cpu", "cuda"] | None = None


class Train(Strict):
    """`report_to` names trackers that follow the run; W&B sends it over the network. `overlay` is the log of another
    run (metrics.jsonl, or trainer_log.jsonl as LLaMA-Factory writes it), drawn into loss.png beside this one's."""

    kind: Literal["train"]
    out: Name
    model: str | None = None
    build: ModelShape | None = None
    rows: Name
    quantisation: Literal["nf4", "none"]
    double_quantisation: bool
    compute_dtype: Literal["float32", "bfloat16", "float16"]
    adapter: Annotated[Adapter | None, BeforeValidator(_none_word)]
    optimizer: Optimizer
    schedule: Schedule
    budget: Budget
    replay: Annotated[Replay | None, BeforeValidator(_none_word)]
    evaluation: Evaluation
    samples: Samples
    checkpoint_steps: Count
    keep_checkpoints: Count
    seed: int
    report_to: list[Literal["tensorboard", "wandb"]] = []
    overlay: Annotated[Name | None, BeforeValidator(_none_word)] = None
    execution: Execution = Execution()

    def rows_per_step(self, row_tokens: int) -> int:
        return self.budget.tokens_per_step // row_tokens

    @model_validator(mode="after")
    def _consistent(self) -> "Train":
        _require_one(model=self.model, build=self.build)
        if self.quantisation == "nf4" and self.adapter is None:
            raise UserError(
                "nf4-without-adapter",
                "an NF4 base cannot be trained itself:",
                "",
                "set `adapter`, or quantisation: none",
            )
        if self.build is not None and self.adapter is not None:
            raise UserError(
                "adapter-on-build", "a model built from nothing has nothing to adapt:", "", "set `adapter: none`"
            )
        if self.schedule.warmup_steps >= self.budget.steps:
            found = f"warmup_steps {self.schedule.warmup_steps} leaves no step of {self.budget.steps}:"
            raise UserError("warmup-too-long", found, "", "lower warmup_steps")
        return self


# -------------------------------------------------------------------------------------------------------- merge


class MergedAdapter(Strict):
    """An adapter folder, its update taken `weight` times."""

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
    then_requantize: bool
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
                "",
                "set rows that `nsllm-lite corpus` wrote (rows/phase1/heldout), or choose original or dequantized",
            )
        return self


class Report(Strict):
    """The table and picture after two phases; the folders are those the chain wrote.

    With `documents`, a corpus's folder of them, bits per byte are also given by discipline.
    """

    kind: Literal["report"]
    out: Name
    base: Name
    phase1: Name
    model1: Name
    phase2: Name
    model2: Name
    abstract_rows: Name
    experiment_rows: Name
    general_rows: Name
    documents: Name | None = None
    max_rows: Count
    execution: Execution = Execution()


# ----------------------------------------------------------------------------------------------- tasks and tuning


class Tasks(Strict):
    """Instruction files made from a finished corpus, at most `max_per_task` items of each task in train and in test.

    `questions` are files of questions about the corpus's papers, or `bundled:questions`. A paper's text is cut at
    `max_paper_chars`.
    """

    kind: Literal["tasks"]
    out: Name
    corpus: Name
    questions: list[Name]
    max_per_task: Count
    max_paper_chars: Count
    seed: int


class Answers(Strict):
    """Greedy answers to the first held-out prompts, before and after."""

    count: Annotated[int, Field(ge=0, le=20)]
    new_tokens: Count


class Sft(Strict):
    """Instruction tuning on `data`: files, or folders of *.json and *.jsonl, of records {instruction, input, output}
    or {messages: [{role, content}, ...]}; the loss is that of the answers.

    `template`: `plain` is our own prompt for base models, `chat` the tokenizer's chat template; `end_of_text` is the
    token that ends an answer. The length is given either in `steps` or in `epochs`. Examples of more than `max_tokens`
    tokens are left out and counted; more than `max_left_out_share` of all left out needs consent.
    """

    kind: Literal["sft"]
    out: Name
    model: Name
    data: Annotated[list[Name], Field(min_length=1)]
    heldout: list[Name]
    template: Literal["plain", "chat"]
    end_of_text: Name
    max_tokens: Annotated[int, Field(ge=8)]
    max_left_out_share: Share
    quantisation: Literal["nf4", "none"]
    double_quantisation: bool
    compute_dtype: Literal["float32", "bfloat16", "float16"]
    adapter: Adapter
    optimizer: Optimizer
    schedule: Schedule
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Count | None = None
    examples_per_step: Count
    evaluate_steps: Count
    max_heldout_examples: Count
    samples: Answers
    checkpoint_steps: Count
    keep_checkpoints: Count
    seed: int
    execution: Execution = Execution()

    def rows_per_step(self, row_tokens: int) -> int:
        """A row is an example, of `row_tokens` at most."""
        return self.examples_per_step

    @model_validator(mode="after")
    def _one_length(self) -> "Sft":
        _require_one(epochs=self.epochs, steps=self.steps)
        return self


# --------------------------------------------------------------------------------------------------- evaluation


class EvaluatedModel(Strict):
    """A model folder, a hub id, or an adapter's folder, which is evaluated on its base as its training held it.

    `modes` None: few-shot, and instruction where the tokenizer has a chat template.
    """

    name: Name
    path: Name
    quantisation: Literal["nf4", "none"] = "none"
    modes: Annotated[list[Literal["few-shot", "instruction"]], Field(min_length=1)] | None = None


class TaskFile(Strict):
    """A file of records {instruction, input, output} to be asked as `task`, with examples from the file `shots`.

    Without `shots` they come from the bundled sample where it has the same labels, else from the file itself: those
    records are then not scored.
    """

    name: Name
    task: Literal["classification", "moves", "title", "paper_title", "multiple_choice", "open"]
    path: Name
    shots: Name | None = None


class EvalExecution(Strict):
    """`batch_tokens` None: by the memory there is."""

    device: Literal["cpu", "cuda"] | None = None
    batch_tokens: Count | None = None
    backend: Literal["transformers", "vllm"] = "transformers"


class Eval(Strict):
    """Scores of models on tasks: those of a folder that `nsllm-lite tasks` wrote, or `bundled`; and on own files.

    `encoder` is the folder of a local encoder model, for BERTScore. `max_items` bounds the items of each task.
    """

    kind: Literal["eval"]
    out: Name
    models: Annotated[list[EvaluatedModel], Field(min_length=1)]
    tasks: Annotated[Name | None, BeforeValidator(_none_word)]
    files: list[TaskFile] = []
    max_items: Count | None = None
    encoder: Name | None = None
    seed: int
    execution: EvalExecution = EvalExecution()

    @model_validator(mode="after")
    def _names_differ(self) -> "Eval":
        _require_different([model.name for model in self.models], "models")
        _require_different([file.name for file in self.files], "files")
        if self.tasks is None and not self.files:
            todo = "give `tasks` (bundled, or a folder of tasks) or `files`"
            raise UserError("eval-without-tasks", "neither `tasks` nor `files` are given:", "", todo)
        return self


Training = Train | Sft
Recipe = Corpus | Train | Merge | Report | Tasks | Sft | Eval
KINDS: dict[str, type[Strict]] = {get_args(cls.model_fields["kind"].annotation)[0]: cls for cls in get_args(Recipe)}


# ---------------------------------------------------------------------------------------------------------- load


def load(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """The recipe at `path` with `key=value` overrides (dotted keys, YAML values) applied.

    Raises:
        UserError: naming every wrong key and value at once, with the nearest known key.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(str(path), [str(p) for p in Path("recipes").glob("*/*.yaml")], n=1, cutoff=0.3)
        todo = f"Did you mean {near[0]}?" if near else "Check the path."
        raise UserError(
            "recipe-missing", f"No recipe at {path}.", "A recipe is a YAML file such as recipes/nano/phase1.yaml.", todo
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError("recipe-not-yaml", f"{path} is not YAML: {error}.", "", "Correct it there.") from None
    if not isinstance(values, dict):
        found = f"{path} contains a {type(values).__name__};"
        raise UserError("recipe-not-keys", found, "a recipe is a list of keys with values.", "See recipes/nano.")
    for override in overrides:
        _apply_override(values, override)
    return validate(values, str(path))


def validate(values: dict, where: str) -> Recipe:
    """`values` as the recipe type its `kind` names; UserError lists every problem with `where` it stands."""
    kind = values.get("kind")
    cls = KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise UserError("recipe-kind-unknown", f"{where}: `kind` is {kind!r};", "", f"set one of {', '.join(KINDS)}.")
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  - {_explain(cls, problem)}" for problem in error.errors())
        raise UserError(
            "recipe-invalid", f"{where} has {error.error_count()} problem(s).", "", f"Correct them:\n{problems}"
        ) from None


def update(recipe: Recipe, **changes: Any) -> Recipe:
    """A copy of `recipe` with top-level fields replaced, validated again."""
    return validate({**recipe.model_dump(mode="json"), **changes}, f"{recipe.kind} recipe")


def identity(recipe: Recipe) -> dict:
    """The part of a recipe that decides its result: all but where it is written and shown, how it is executed, when it
    stops."""
    gate = {"max_general_loss_increase", "when_forgetting"}
    shown = {"out": True, "report_to": True, "overlay": True}
    return recipe.model_dump(mode="json", exclude={**shown, "execution": True, "evaluation": gate})


def _apply_override(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        found = f"Override {override!r} is not of the form key=value."
        raise UserError("override-form", found, "", "Write it like optimizer.learning_rate=1e-4.")
    *parents, last = key.strip().split(".")
    place: Any = values
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            found = f"Override {override!r}: {parent!r} is a value and has no keys."
            raise UserError("override-of-value", found, "", "Set a key that the recipe has.")
    try:
        place[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        found = f"Override {override!r}: the value after = is not YAML ({error})."
        raise UserError("override-not-yaml", found, "", "Quote it as YAML does: key='\"a: b\"'.") from None


def _explain(cls: type[Strict], problem: dict) -> str:
    fields, place = cls.model_fields, []
    for part in problem["loc"]:
        place.append(str(part))
        if isinstance(part, str) and part in fields:
            inner = _model_in(fields[part].annotation)
            fields = inner.model_fields if inner else {}
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], fields, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(fields)}"
        return f"{'.'.join(place)}: unknown key; {hint} [key-unknown]"
    message, code = problem["msg"].removeprefix("Value error, "), "value-wrong"
    if problem["type"] == "missing":
        message, code = "is missing", "key-missing"
    elif problem["type"] == "value_error":
        code = problem["ctx"]["error"].code
    elif place and not isinstance(problem["input"], dict | list):
        message += f" (found {problem['input']!r})"
    return f"{'.'.join(place) or 'recipe'}: {message} [{code}]"


def _model_in(annotation: Any) -> type[Strict] | None:
    """The recipe type inside `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
