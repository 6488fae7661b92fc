"""The kinds of steps: recipe type, inputs and results of each. `cli.VERBS` names the function of each kind.

A new kind is a file in its verb's room, a recipe type, a line here and one in `cli.VERBS`. The parser, manifests,
lineage, `runs`, `show`, its page and the model card read this table.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nsllm_lite.recipe.corpus import Corpus
from nsllm_lite.recipe.evals import Eval, Report, Tasks
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.results import CorpusResults, EvalResults, Lenient, MergeResults, TasksResults, TrainResults
from nsllm_lite.recipe.train import Sft, Train
from nsllm_lite.recipe.values import Strict


class Input(NamedTuple):
    """One thing a step is made from.

    `key` is the name of its hash in the manifest ("": none is kept), `hashed` how that hash is taken: of "weights",
    "rows", an "adapter", a "manifest" or data "files" ("": it is not taken again).
    """

    label: str
    path: str
    key: str = ""
    hashed: str = ""


Inputs = Iterator[Input]


@dataclass(frozen=True)
class Kind:
    """`recipe` and `leaves` are the types of what its manifest holds as recipe and results."""

    recipe: type[Strict]
    summary: str  # a sentence without its stop, for help
    inputs: Callable[[Any], Iterable[Input]]  # of its recipe, also as an old manifest has it
    leaves: type[Lenient] = Lenient
    examples: tuple[str, ...] = ()  # whole commands, for help
    title: str = ""  # of what it does, where a model card or a page names it
    main: str = ""  # label of the input that `runs` shows as its origin; empty: all inputs
    begun: str = "run.json"  # the file whose presence marks a begun step
    curves: dict[str, str] = field(default_factory=dict)  # of a training: held-out losses and their names in pictures
    shown: tuple[str, ...] = ()  # files in its folder that go on the page
    did: Callable[[Any, dict[str, Any], str, str], str] | None = None  # (recipe, results, rows, tokens) -> words


def corpus_inputs(recipe: Corpus) -> Inputs:
    for source in (*(recipe.sources or ()), *(recipe.general or ())):
        yield Input("source", source.path, f"source:{source.name}")  # dumps are too large to be read again


def train_inputs(recipe: Train) -> Inputs:
    yield Input("model", recipe.model, "base", "weights")
    yield Input("rows", recipe.rows, "rows", "rows")
    if recipe.replay:
        yield Input("replay", recipe.replay.rows, "replay_rows", "rows")


def sft_inputs(recipe: Sft) -> Inputs:
    yield Input("model", recipe.model, "base", "weights")
    yield from (Input("data", name, "data", "files") for name in recipe.data or ())


def merge_inputs(recipe: Merge) -> Inputs:
    adapters = [recipe.adapter] if isinstance(recipe.adapter, str) else [one.path for one in recipe.adapter or ()]
    for number, path in enumerate(adapters, 1):
        yield Input("adapter", path, "adapter" if len(adapters) == 1 else f"adapter {number}", "adapter")
    yield Input("base", recipe.base, "base", "weights")


def report_inputs(recipe: Report) -> Inputs:
    for name in ("model2", "phase2", "model1", "phase1"):
        yield Input(name, getattr(recipe, name), name, "manifest")


def eval_inputs(recipe: Eval) -> Inputs:
    yield from (Input(one.name, one.path, f"model:{one.name}", "weights") for one in recipe.models or ())
    yield Input("tasks", recipe.tasks)


def tasks_inputs(recipe: Tasks) -> Inputs:
    yield Input("corpus", recipe.corpus, "corpus", "manifest")


def corpus_did(recipe: Corpus, results: dict[str, Any], rows: str, tokens: str) -> str:
    split = {tuple(name.split("/")): found["tokens"] for name, found in results.get("rows", {}).items()}
    counts = ", ".join(f"{name} {count:,}" for (name, part), count in split.items() if part == "train")
    return f"corpus: tokens of {counts}" if split else "corpus"


def train_did(recipe: Train, results: dict[str, Any], rows: str, tokens: str) -> str:
    lora = recipe.adapter
    how = f"LoRA rank {lora.rank} on {recipe.quantisation}" if lora else "all weights"
    return f"train on {rows}, {how}: {tokens}"


def tasks_did(recipe: Tasks, results: dict[str, Any], rows: str, tokens: str) -> str:
    counts = results.get("tasks", {}).values()
    train, test = (sum(count[split] for count in counts) for split in ("train", "test"))
    return f"tasks: {train:,} items to train, {test:,} to test"


KINDS = {
    "corpus": Kind(
        Corpus, "papers -> clean documents -> packed rows, with a ledger", corpus_inputs, CorpusResults,
        (
            "nsllm-lite corpus recipes/nano/corpus.yaml out=runs/mine/corpus",
            "nsllm-lite corpus recipes/nano/corpus.yaml out=runs/mine/corpus min_chars=100",
        ),
        title="What became of every record", main="source", begun="work/reading.json",
        shown=("ledger.json", "ledger.png"), did=corpus_did,
    ),
    "train": Kind(
        Train, "packed rows -> LoRA adapter (or a model, with adapter: none)", train_inputs, TrainResults,
        ("nsllm-lite train recipes/nano/phase1.yaml out=runs/slow optimizer.learning_rate=1e-4 --run runs/nano",),
        title="continued pretraining", main="model",
        curves={"domain": "held-out, domain", "general": "held-out, general"}, did=train_did,
    ),
    "merge": Kind(
        Merge, "base + adapter -> an ordinary model folder, streamed", merge_inputs, MergeResults,
        (
            "nsllm-lite merge --base Qwen/Qwen3-8B-Base --adapter runs/first/phase1/adapter --out merged --verify",
            "nsllm-lite merge --base DIR --adapter A:0.7 --adapter B:0.3 --out DIR --dtype bfloat16 --shard-bytes 2e9",
            "nsllm-lite merge --base DIR --adapter DIR --heldout-rows runs/first/corpus/rows/phase1/heldout --compare",
            "nsllm-lite merge recipes/nano/merge.yaml base_weights=dequantized --base DIR --adapter DIR --out DIR",
        ),
        main="adapter", begun="merging.json",
        did=lambda recipe, results, *_: f"merge into {results.get('base_weights') or recipe.base_weights} weights",
    ),
    "tasks": Kind(
        Tasks, "instruction files of the tasks from a corpus: held-out papers to test, the others to train",
        tasks_inputs, TasksResults,
        ("nsllm-lite tasks recipes/nano/tasks.yaml out=runs/tasks max_per_task=200 --run runs/nano",),
        main="corpus", did=tasks_did,
    ),
    "sft": Kind(
        Sft, "instruction tuning: records {instruction, input, output} or chats -> LoRA adapter",
        sft_inputs, TrainResults,
        ("nsllm-lite sft recipes/nano/sft.yaml 'data=[my.json]' 'heldout=[]' out=runs/mine --run runs/nano",),
        title="instruction tuning", main="model", curves={"answers": "held-out answers"},
        did=lambda recipe, results, rows, tokens: f"instruction tuning: {tokens}",
    ),
    "eval": Kind(
        Eval, "scores of models on tasks, with intervals, floors, table and pictures", eval_inputs, EvalResults,
        (
            "nsllm-lite eval Qwen/Qwen3-8B-Base runs/first/model2 --out runs/scores",
            "nsllm-lite eval DIR --file multiple_choice=MMLU-stem.json --file open=math500.json --max-items 500",
            "nsllm-lite eval DIR --tasks runs/nano/tasks --max-items 20 --json",
        ),
        title="Scores", shown=("report.md", "radar.png", "bars.png"),
        did=lambda recipe, *_: f"scores of {len(recipe.models or ())} models",
    ),
    "report": Kind(
        Report, "held-out losses of base, phase 1 and phase 2, as table and picture", report_inputs,
        examples=("nsllm-lite report recipes/nano/report.yaml --run runs/nano",),
        title="Held-out losses", shown=("report.md", "report.png"),
        did=lambda *_: "held-out losses of base, phase 1 and phase 2",
    ),
}  # fmt: skip
Recipe = Corpus | Train | Merge | Report | Tasks | Sft | Eval
