"""The kinds of steps: recipe type, inputs and results of each. `cli.VERBS` names the function of each kind.

A new kind is a file in its verb's room, a recipe type, a line here and one in `cli.VERBS`; its words may stand in
`kinds.toml`. The parser, manifests, lineage, `runs`, `show`, its page and the model card read this table.
"""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple

from nsllm_lite.recipe.convert import Convert
from nsllm_lite.recipe.corpus import Corpus
from nsllm_lite.recipe.crystals import Crystals
from nsllm_lite.recipe.distill import Distill
from nsllm_lite.recipe.embed import Embed
from nsllm_lite.recipe.evals import Eval, Report, Stages, Tasks
from nsllm_lite.recipe.finetune import Finetune
from nsllm_lite.recipe.ladder import Ladder
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.mlm import Mlm
from nsllm_lite.recipe.results import (
    ConvertResults,
    CorpusResults,
    EmbedResults,
    EvalResults,
    Lenient,
    MergeResults,
    TasksResults,
    TrainResults,
    held_words,
)
from nsllm_lite.recipe.tokenizer import TokenizerRecipe
from nsllm_lite.recipe.train import Sft, Train
from nsllm_lite.recipe.values import Strict


class Input(NamedTuple):
    """One thing a step is made from.

    `key` is the name of its hash in the manifest ("": none is kept), `hashed` how that hash is taken: of "weights",
    "rows", an "adapter", a "manifest", a "file" or data "files" ("": it is not taken again).
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
    examples: Sequence[str] = ()  # whole commands, for help
    title: str = ""  # of what it does, where a model card or a page names it
    main: str = ""  # label of the input that `runs` shows as its origin; empty: all inputs
    begun: str = "run.json"  # the file whose presence marks a begun step
    curves: dict[str, str] = field(default_factory=dict)  # of a training: held-out losses and their names in pictures
    shown: Sequence[str] = ()  # files in its folder that go on the page
    did: Callable[[Any, dict[str, Any], str, str], str] | None = None  # (recipe, results, rows, tokens) -> words


def corpus_inputs(recipe: Corpus) -> Inputs:
    for source in (*(recipe.sources or ()), *(recipe.general or ())):
        yield Input("source", source.path, f"source:{source.name}")  # dumps are too large to be read again


def tokenizer_inputs(recipe: TokenizerRecipe) -> Inputs:
    yield Input("corpus", recipe.corpus, "corpus", "manifest")
    yield from (Input("tokenizer", name, f"tokenizer:{name}") for name in recipe.compare)


def train_inputs(recipe: Train) -> Inputs:
    yield Input("model", recipe.model, "base", "weights")
    yield Input("rows", recipe.rows, "rows", "rows")
    if recipe.replay:
        yield Input("replay", recipe.replay.rows, "replay_rows", "rows")


def mlm_inputs(recipe: Mlm) -> Inputs:
    if recipe.model:
        yield Input("model", recipe.model, "base", "weights")
    if recipe.extend_vocabulary:
        yield Input("tokenizer", recipe.extend_vocabulary, "tokenizer")
    yield Input("rows", recipe.rows, "rows", "rows")


def distill_inputs(recipe: Distill) -> Inputs:
    yield Input("teacher", recipe.teacher, "teacher", "weights")
    if recipe.student:
        yield Input("student", recipe.student, "student", "weights")
    yield Input("rows", recipe.rows, "rows", "rows")


def embed_inputs(recipe: Embed) -> Inputs:
    yield Input("model", recipe.model, "base", "weights")
    yield Input("corpus", recipe.corpus, "corpus", "manifest")
    if recipe.teacher:
        yield Input("teacher", recipe.teacher.model, "teacher", "weights")
    for number, stage in enumerate(recipe.stages or (), 1):
        if stage.file:
            yield Input("pairs", stage.file, f"pairs {number}", "file")


def finetune_inputs(recipe: Finetune) -> Inputs:
    yield Input("model", recipe.model, "base", "weights")
    yield from (Input("data", name, "data", "files") for name in recipe.data or ())
    for name in ("development", "test"):
        if path := getattr(recipe, name):
            yield Input(name, path, name, "file")


def sft_inputs(recipe: Sft) -> Inputs:
    yield Input("model", recipe.model, "base", "weights")
    yield from (Input("data", name, "data", "files") for name in recipe.data or ())


def merge_inputs(recipe: Merge) -> Inputs:
    adapters = [recipe.adapter] if isinstance(recipe.adapter, str) else [one.path for one in recipe.adapter or ()]
    for number, path in enumerate(adapters, 1):
        yield Input("adapter", path, "adapter" if len(adapters) == 1 else f"adapter {number}", "adapter")
    yield Input("base", recipe.base, "base", "weights")


def eval_inputs(recipe: Eval) -> Inputs:
    yield from (Input(one.name, one.path, f"model:{one.name}", "weights") for one in recipe.models or ())
    yield Input("tasks", recipe.tasks)


def gold_key(task: str, split: str, number: int) -> str:
    """The name of a gold file's hash in the manifest."""
    return f"gold:{task}:{split}:{number}"


def tasks_inputs(recipe: Tasks) -> Inputs:
    if recipe.corpus:
        yield Input("corpus", recipe.corpus, "corpus", "manifest")
    for one in recipe.gold or ():
        for split in ("train", "test"):
            for number, path in enumerate(getattr(one, split) or (), 1):
                yield Input(f"gold, {one.task}", path, gold_key(one.task, split, number), "file")


def ladder_inputs(recipe: Ladder) -> Inputs:
    for one in recipe.adapted or ():
        for number, path in enumerate(one.trainings or (), 1):
            yield Input("training", path, f"{one.name}, {number}", "manifest")


def corpus_did(recipe: Corpus, results: dict[str, Any], rows: str, tokens: str) -> str:
    split = {tuple(name.split("/")): found["tokens"] for name, found in results.get("rows", {}).items()}
    counts = ", ".join(f"{name} {count:,}" for (name, part), count in split.items() if part == "train")
    return f"corpus: tokens of {counts}" if split else "corpus"


def tokenizer_did(recipe: TokenizerRecipe, results: dict[str, Any], rows: str, tokens: str) -> str:
    sizes = results.get("vocab_size", {})
    did = f"a tokenizer of {recipe.train.vocab_size:,} tokens" if recipe.train else "tokenizers compared"
    return f"{did}, on {results['papers']:,} held-out papers" if sizes else did


def train_did(recipe: Train, results: dict[str, Any], rows: str, tokens: str) -> str:
    lora = recipe.adapter
    how = f"LoRA rank {lora.rank} on {recipe.quantisation}" if lora else "all weights"
    return f"train on {rows}, {how}: {tokens}"


def convert_did(recipe: Convert, results: dict[str, Any], rows: str, tokens: str) -> str:
    held = results.get("quantised") or {}
    return f"convert to a model folder{f', weights dequantised from {held_words(held)}' if held else ''}"


def tasks_did(recipe: Tasks, results: dict[str, Any], rows: str, tokens: str) -> str:
    counts = results.get("tasks", {}).values()
    train, test = (sum(count[split] for count in counts) for split in ("train", "test"))
    return f"tasks: {train:,} items to train, {test:,} to test"


_WORDS = tomllib.loads(resources.files(__package__).joinpath("kinds.toml").read_text(encoding="utf-8"))

KINDS = {
    "corpus": Kind(Corpus, inputs=corpus_inputs, leaves=CorpusResults, did=corpus_did, **_WORDS["corpus"]),
    "tokenizer": Kind(TokenizerRecipe, inputs=tokenizer_inputs, did=tokenizer_did, **_WORDS["tokenizer"]),
    "train": Kind(Train, inputs=train_inputs, leaves=TrainResults, did=train_did, **_WORDS["train"]),
    "mlm": Kind(
        Mlm, inputs=mlm_inputs, leaves=TrainResults,
        did=lambda recipe, results, rows, tokens: f"masked tokens of {rows}: {tokens}", **_WORDS["mlm"],
    ),
    "embed": Kind(
        Embed, inputs=embed_inputs, leaves=EmbedResults,
        did=lambda recipe, results, rows, tokens: f"embeddings of pairs: {tokens}", **_WORDS["embed"],
    ),
    "finetune": Kind(
        Finetune, inputs=finetune_inputs, did=lambda recipe, *_: f"fine-tuned for {recipe.task}", **_WORDS["finetune"],
    ),
    "distill": Kind(
        Distill, inputs=distill_inputs, leaves=TrainResults,
        did=lambda recipe, results, rows, tokens: f"relations of {recipe.teacher} on {rows}: {tokens}",
        **_WORDS["distill"],
    ),
    "convert": Kind(
        Convert, inputs=lambda recipe: [Input("gguf", recipe.gguf, "gguf", "file")], leaves=ConvertResults,
        did=convert_did, **_WORDS["convert"],
    ),
    "merge": Kind(
        Merge, inputs=merge_inputs, leaves=MergeResults,
        did=lambda recipe, results, *_: f"merge into {results.get('base_weights') or recipe.base_weights} weights",
        **_WORDS["merge"],
    ),
    "tasks": Kind(
        Tasks, inputs=tasks_inputs, leaves=TasksResults, did=tasks_did, **_WORDS["tasks"],
    ),
    "crystals": Kind(
        Crystals, leaves=TasksResults, did=tasks_did, **_WORDS["crystals"],
        inputs=lambda recipe: [
            Input("structures", path, f"structures {number}") for number, path in enumerate(recipe.structures or (), 1)
        ],
    ),
    "sft": Kind(
        Sft, inputs=sft_inputs, leaves=TrainResults,
        did=lambda recipe, results, rows, tokens: f"instruction tuning: {tokens}", **_WORDS["sft"],
    ),
    "eval": Kind(
        Eval, inputs=eval_inputs, leaves=EvalResults,
        did=lambda recipe, *_: f"scores of {len(recipe.models or ())} models", **_WORDS["eval"],
    ),
    "report": Kind(
        Report, did=lambda *_: "held-out losses of base, phase 1 and phase 2", **_WORDS["report"],
        inputs=lambda recipe: [
            Input(name, getattr(recipe, name), name, "manifest") for name in ("model2", "phase2", "model1", "phase1")
        ],
    ),
    "stages": Kind(
        Stages, did=lambda recipe, *_: f"held-out answers after {len(recipe.stages or ())} stages", **_WORDS["stages"],
        inputs=lambda recipe: [
            *(Input("stage", one.sft, f"stage:{one.name}", "manifest") for one in recipe.stages or ()),
            *([Input("scores", recipe.scores, "scores", "manifest")] if recipe.scores else ()),
        ],
    ),
    "ladder": Kind(
        Ladder, inputs=ladder_inputs, did=lambda recipe, *_: f"what {len(recipe.bases or ())} bases gained",
        **_WORDS["ladder"],
    ),
}  # fmt: skip
Recipe = (
    Corpus | TokenizerRecipe | Convert | Train | Mlm | Distill | Embed | Finetune | Merge | Report | Tasks | Sft | Eval
    | Stages | Ladder | Crystals
)  # fmt: skip
