"""Schema of manifest.json, times.json and metrics.jsonl: the fields that other steps read.

Manifests outlive versions and are copied and edited, so they are validated once, where they are read. Fields are
optional but typed; unknown fields are ignored. A file that holds something else is damaged.
"""

from typing import Any

from pydantic import BaseModel, Field


class Lenient(BaseModel, strict=True):
    """Fields are optional but typed; unknown fields are ignored."""


class Loss(Lenient):
    loss: float | None = None
    bits_per_byte: float | None = None


Heldout = dict[str, dict[str, Loss]]  # domain, general or answers -> all, or a source


class Line(Lenient):
    """A line of metrics.jsonl."""

    step: int
    tokens: int
    loss: float | None = None
    heldout: Heldout = {}


class Times(Lenient):
    started: str
    finished: str
    seconds: float | None = None
    train_tokens_per_s: float | None = None
    peak_memory_gib: float | None = None


class Tokens(Lenient):
    tokens: int


class Counts(Lenient):
    num_in: int = Field(alias="in")
    kept: int
    heldout: int
    duplicate: int
    unused: int
    dropped: dict[str, int]


class CorpusResults(Lenient):
    rows: dict[str, Tokens] = {}
    documents: dict[str, Counts] = {}
    licences: dict[str, str] = {}


class BeforeAndAfter(Lenient):
    before: Heldout
    after: Heldout


class TrainResults(Lenient):
    tokens: int | None = None
    steps: int | None = None
    coverage: float | None = None
    epochs: float | None = None
    domain_tokens: int | None = None
    available_tokens: int | None = None
    replay_share: float | None = None
    heldout: BeforeAndAfter | None = None


class MergeResults(Lenient):
    base_weights: str | None = None
    base_model: str | None = None


class TaskCounts(Lenient):
    train: int
    test: int


class TasksResults(Lenient):
    tasks: dict[str, TaskCounts] = {}


class ScoredSet(Lenient):
    name: str
    title: str = ""
    metrics: list[str]


class EvalResults(Lenient):
    sets: list[ScoredSet] = []
    scores: list[dict[str, Any]] = []
