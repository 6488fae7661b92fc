"""The recipes of trainings: continued pretraining and instruction tuning."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

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
    word_of,
)


class ModelShape(Strict):
    """A Qwen3-architecture model built from nothing (`adapter: none`), sized by these and by a tokenizer folder."""

    tokenizer: ModelPath
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
            found = f"LoRA on {' and '.join(refused)} is refused: the fused cross-entropy reads the head's own weight, "
            found += "so that its LoRA would not train, and on tied embeddings a merge counts it twice;"
            raise UserError("lora-on-head", found, "remove it from `targets`, or train it with `modules_to_save`")
        return self


class Optimizer(Strict):
    """`embedding_learning_rate` is that of `modules_to_save`; None: as the others."""

    name: Literal["adamw", "adamw8bit", "paged_adamw8bit"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    embedding_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    betas: tuple[Share, Share]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_grad_norm: Annotated[float, Field(gt=0)]


class Schedule(Strict):
    """Linear warm-up, then constant, or a cosine down to `final_share` of the peak."""

    shape: Literal["constant", "cosine"]
    warmup_steps: Annotated[int, Field(ge=0)]
    final_share: Share = 1.0


class Budget(Strict):
    """The length of the run, in steps and in tokens; the two must agree. Where a word changes one of them alone, the
    other follows."""

    steps: Count
    tokens_per_step: Count
    tokens: Count

    @classmethod
    def settled(cls, values: dict[str, Any], given: set[str]) -> dict[str, Any]:
        try:
            steps, per_step, tokens = (int(float(values[key])) for key in ("steps", "tokens_per_step", "tokens"))
        except (KeyError, TypeError, ValueError, OverflowError):
            return values  # refused when it is validated
        if given == {"steps"}:
            return values | {"tokens": steps * per_step}
        if given == {"tokens"} and per_step and tokens % per_step == 0:
            return values | {"steps": tokens // per_step}
        return values

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> "Budget":
        whole = self.steps * self.tokens_per_step
        if whole != self.tokens:
            steps = max(1, self.tokens // self.tokens_per_step)
            found = f"steps x tokens_per_step = {whole}, but tokens says {self.tokens}:"
            fewer = [word_of(info, "budget.steps", steps), word_of(info, "budget.tokens", steps * self.tokens_per_step)]
            todo = f"set {word_of(info, 'budget.tokens', whole)}, or {' '.join(fewer)}"
            raise UserError("budget-disagrees", found, todo)
        return self


class Replay(Strict):
    """General text mixed into each step against forgetting; `max_epochs` bounds how often it may repeat."""

    rows: HashedPath
    share: Annotated[float, Field(ge=0, lt=1)]
    max_epochs: Annotated[float, Field(gt=0)]


class Evaluation(Strict):
    """Held-out losses at step 0, every `every_steps`, and at the end; by source."""

    domain_rows: HashedPath
    general_rows: HashedPath
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
    """How the step is run; None leaves the choice to `nsllm_lite.models.execution`, from the available GPU memory."""

    micro_batch_rows: Count | None = None
    recompute_layers: Annotated[int, Field(ge=0)] | None = None  # that keep their input only
    recompute_cheap: bool | None = None  # in the other layers: the outputs of norms and SwiGLU
    dequantised: bool | None = None  # hold what NF4 made of the weights in compute_dtype, or in float8
    compile: bool | None = None  # the layers, by torch.compile
    head: Literal["liger", "chunked"] | None = None  # what computes the loss from the last hidden states
    device: Literal["cpu", "cuda"] | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None  # of the card to plan with; None: what is free


Products = Annotated[Literal["fp8"] | None, BeforeValidator(none_word)]


class Train(Strict):
    """`report_to` names trackers that follow the run; W&B sends it over the network. `overlay` is the log of another
    run (metrics.jsonl, or trainer_log.jsonl as LLaMA-Factory writes it), drawn into loss.png beside this one's."""

    kind: Literal["train"]
    out: FilePath
    model: ModelPath | None = None
    build: ModelShape | None = None
    rows: HashedPath
    quantisation: Literal["nf4", "none"]
    double_quantisation: bool
    compute_dtype: Literal["float32", "bfloat16", "float16"]
    products: Products = None  # of frozen weights, whose operands are rounded to float8
    adapter: Annotated[Adapter | None, BeforeValidator(none_word)]
    optimizer: Optimizer
    schedule: Schedule
    budget: Budget
    replay: Annotated[Replay | None, BeforeValidator(none_word)]
    evaluation: Evaluation
    samples: Samples
    checkpoint_steps: Count
    keep_checkpoints: Count
    seed: int
    report_to: list[Literal["tensorboard", "wandb"]] = []
    overlay: Annotated[FilePath | None, BeforeValidator(none_word)] = None
    execution: Execution = Execution()

    def rows_per_step(self, row_tokens: int) -> int:
        return self.budget.tokens_per_step // row_tokens

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "Train":
        require_one(model=self.model, build=self.build)
        if self.quantisation == "nf4" and self.adapter is None:
            found = "an NF4 base cannot be trained itself:"
            raise UserError("nf4-without-adapter", found, "set `adapter`, or quantisation: none")
        if self.build is not None and self.adapter is not None:
            found = "a model built from nothing has nothing to adapt:"
            raise UserError("adapter-on-build", found, "set `adapter: none`")
        require_warmup(self.schedule, self.budget.steps, info)
        return self


def require_warmup(schedule: Schedule, steps: int, info: ValidationInfo) -> None:
    """Raises UserError where the warm-up leaves none of the `steps`."""
    if schedule.warmup_steps >= steps:
        found = f"warmup_steps {schedule.warmup_steps} leaves no step of {steps}:"
        todo = f"set {word_of(info, 'schedule.warmup_steps', steps // 10)}"
        raise UserError("warmup-too-long", found, todo)


class Answers(Strict):
    """Greedy answers to the first held-out prompts, before and after."""

    count: Annotated[int, Field(ge=0, le=20)]
    new_tokens: Count


class Fields(Strict):
    """The keys that records of another form have for their parts: `instruction: frage`, or a path to an inner one
    (`data.question`, unless a key is called so). `role`, `content` and `weight` are those of a message; `user` and
    `assistant` are what its role says."""

    instruction: Name | None = None
    input: Name | None = None
    output: Name | None = None
    system: Name | None = None
    history: Name | None = None
    tools: Name | None = None
    messages: Name | None = None
    role: Name | None = None
    content: Name | None = None
    weight: Name | None = None
    user: Name | None = None
    assistant: Name | None = None
    id: Name | None = None
    document: Name | None = None

    @model_validator(mode="after")
    def _each_key_once(self) -> "Fields":
        require_different(list(self.model_dump(exclude_none=True).values()), "keys in `fields`")
        return self


class Sft(Strict):
    """Instruction tuning on `data`: files, or folders of *.json and *.jsonl, of records {instruction, input, output},
    {messages}, {conversations} or {prompt, completion}; `fields` maps others. The loss is that of the answers.

    `template`: `plain` is our own prompt for base models, `chat` the tokenizer's chat template; `begin_of_text` is what
    stands before the prompt, as in a corpus's recipe, and `end_of_text` the token that ends an answer. The length is
    given either in `steps` or in `epochs`. Examples of more than `max_tokens` tokens are left out and counted; more
    than `max_left_out_share` of all left out needs consent.
    """

    kind: Literal["sft"]
    out: FilePath
    model: ModelPath
    data: Annotated[list[HashedPath], Field(min_length=1)]
    heldout: list[HashedPath]
    template: Literal["plain", "chat"]
    begin_of_text: Name | None = None
    end_of_text: Name
    max_tokens: Annotated[int, Field(ge=8)]
    max_left_out_share: Share
    quantisation: Literal["nf4", "none"]
    double_quantisation: bool
    compute_dtype: Literal["float32", "bfloat16", "float16"]
    products: Products = None  # of frozen weights, whose operands are rounded to float8
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
    fields: Fields | None = None
    execution: Execution = Execution()

    def rows_per_step(self, row_tokens: int) -> int:
        """A row is an example, of `row_tokens` at most."""
        return self.examples_per_step

    @classmethod
    def settled(cls, values: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """Of `epochs` and `steps` the one that is given alone takes the other's place."""
        lengths = given & {"epochs", "steps"}
        others = {"epochs", "steps"} - lengths
        return values | dict.fromkeys(others) if len(lengths) == 1 and values[min(lengths)] is not None else values

    @model_validator(mode="after")
    def _one_length(self) -> "Sft":
        require_one(epochs=self.epochs, steps=self.steps)
        return self


Training = Train | Sft
