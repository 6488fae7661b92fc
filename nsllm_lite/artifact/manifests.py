"""What others rely on in the files of a step: its recipe, results, times and metrics, each of its kind.

Manifests outlive versions and are copied and edited, so they are looked at once, where they are read; what is not
named here is not asked for. A file that tells something else is damaged.
"""

from typing import Any

from pydantic import BaseModel, Field, ValidationError


class Told(BaseModel, strict=True):
    """Of these kinds where it is there; more may be there."""


class Loss(Told):
    loss: float | None = None
    bits_per_byte: float | None = None


Heldout = dict[str, dict[str, Loss]]  # domain, general or answers -> all, or a source


class Line(Told):
    """A line of metrics.jsonl."""

    step: int
    tokens: int
    loss: float | None = None
    heldout: Heldout = {}


class Times(Told):
    started: str
    finished: str
    seconds: float | None = None
    train_tokens_per_s: float | None = None
    peak_memory_gib: float | None = None


# --------------------------------------------------------------------------------------------------------- recipes


class Place(Told):
    path: str


class Named(Place):
    name: str


class Lora(Told):
    rank: int
    alpha: float
    targets: list[str]
    modules_to_save: list[str] = []


class Optimizer(Told):
    name: str
    learning_rate: float


class Schedule(Told):
    shape: str
    warmup_steps: int


class Replay(Told):
    rows: str


class Training(Told):
    model: str | None = None
    adapter: Lora | None = None
    quantisation: str | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None


class Train(Training):
    rows: str
    replay: Replay | None = None


class Sft(Training):
    data: list[str]


class Corpus(Told):
    sources: list[Named] = []
    general: list[Named] = []
    languages: list[str] = []
    decontaminate: list[str] = []


class Merge(Told):
    base: str
    adapter: str | list[Place]
    base_weights: str | None = None


class Report(Told):
    phase1: str
    model1: str
    phase2: str
    model2: str


class Eval(Told):
    models: list[Named]
    tasks: str | None = None


class Tasks(Told):
    corpus: str


RECIPES: dict[str, type[Told]] = {
    "corpus": Corpus, "train": Train, "sft": Sft, "merge": Merge, "report": Report, "eval": Eval, "tasks": Tasks,
}  # fmt: skip

# --------------------------------------------------------------------------------------------------------- results


class Tokens(Told):
    tokens: int


class Counts(Told):
    num_in: int = Field(alias="in")
    kept: int
    heldout: int
    duplicate: int
    unused: int
    dropped: dict[str, int]


class KeptTokens(Told):
    kept: int


class PhaseCounts(Told):
    tokens: KeptTokens


class CorpusResults(Told):
    rows: dict[str, Tokens] = {}
    documents: dict[str, Counts] = {}
    phases: dict[str, dict[str, PhaseCounts]] = {}
    licences: dict[str, str] = {}


class BeforeAndAfter(Told):
    before: Heldout
    after: Heldout


class TrainResults(Told):
    tokens: int | None = None
    steps: int | None = None
    coverage: float | None = None
    epochs: float | None = None
    domain_tokens: int | None = None
    available_tokens: int | None = None
    replay_share: float | None = None
    heldout: BeforeAndAfter | None = None


class MergeResults(Told):
    base_weights: str | None = None
    base_model: str | None = None


class TaskCounts(Told):
    train: int
    test: int


class TasksResults(Told):
    tasks: dict[str, TaskCounts] = {}


RESULTS: dict[str, type[Told]] = {
    "corpus": CorpusResults, "train": TrainResults, "sft": TrainResults, "merge": MergeResults, "tasks": TasksResults,
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------- asking


def wrong_in(kind: str, recipe: Any, inputs: Any, results: Any, times: Any) -> str:
    """What is not of its kind in what a step left, in words; empty where nothing is."""
    asked = ((RECIPES.get(kind, Told), recipe, "recipe"), (RESULTS.get(kind, Told), results, "results"))
    asked += ((Times, times, "times"),) if times else ()
    words = [f"{where}.{problem}" for told, value, where in asked for problem in _problems(told, value)]
    if not isinstance(inputs, dict) or not all(isinstance(value, str | None) for value in inputs.values()):
        words.append("inputs: a hash is needed for each")
    return "; ".join(words[:5])


def is_line(value: Any) -> bool:
    """Whether it is a line of metrics.jsonl."""
    return not _problems(Line, value)


def _problems(told: type[Told], value: Any) -> list[str]:
    try:
        told.model_validate(value)
    except ValidationError as error:
        return [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return []
