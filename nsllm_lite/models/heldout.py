"""Loss on held-out rows, by source, in nats per token and in bits per byte (train, merge and evals share it)."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol, TypeVar

import numpy as np
from torch import nn

from nsllm_lite.artifact import interrupts
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Row, Rows, in_groups
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models.causal import Batch, PackedLM, collate

T = TypeVar("T")


class Team(Protocol):
    """Processes that each hold the model (`train.processes`)."""

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of what all have."""

    def gather(self, mine: Sequence[T]) -> list[T]:
        """What each process made of its part, in the order of all."""


@dataclass(slots=True)
class Score:
    """Sums over held-out documents; the two figures are ratios of them."""

    nats: float = 0.0
    targets: int = 0
    bytes: int = 0

    @property
    def loss(self) -> float:
        """Nats per predicted token."""
        return self.nats / self.targets if self.targets else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers. The first token of a document has no context and is not predicted; its
        bytes are counted, so the figure is a little low, alike for every model with the same tokenizer."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    def figures(self) -> dict[str, float | int]:
        return {"loss": self.loss, "bits_per_byte": self.bits_per_byte, "tokens": self.targets}


def sample_rows(rows: Rows, max_rows: int) -> list[Row]:
    """At most `max_rows` rows, spread evenly and the same in every call.

    Raises:
        UserError: the files are not what was written.
    """
    rows.require_sound()
    if len(rows) <= max_rows:
        return [rows[i] for i in range(len(rows))]
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, max_rows)]


def score(
    model: PackedLM,
    rows: Iterable[Row],
    micro_batch_rows: int,
    device: str,
    groups: Mapping[str, str] | None = None,
    team: Team | None = None,
) -> dict[str, Score]:
    """The score of each source and of "all", each document counted whole wherever its row lies.

    A document whose id is in `groups` counts for that group, and not for its source. The processes of a `team` share
    the batches; each has the score of all, to the last bit that of one process.
    """
    batches = list(in_groups(list(rows), micro_batch_rows))

    def laid_out() -> Iterator[Batch]:
        for batch in team.share(batches) if team else batches:
            _require_known(batch, len(model.head_VH))
            yield collate(batch, device)

    return score_batches(model, laid_out(), groups or {}, team)


def score_batches(
    model: PackedLM, batches: Iterable[Batch], groups: Mapping[str, str], team: Team | None = None
) -> dict[str, Score]:
    """`score` of what is laid out already, of this process's share where there is a `team`; counted are the tokens that
    are targets."""
    of_batches = []
    with evaluating(model):
        for batch in batches:
            losses, is_target = model.losses(batch).double().cpu(), (batch.targets != IGNORE).cpu()
            interrupts.raise_if_requested()
            spans = list(pairwise(batch.layout.bounds))
            sums = [(float(losses[start:end].sum()), int(is_target[start:end].sum())) for start, end in spans]
            of_batches.append(list(zip(batch.doc_ids, batch.doc_sources, batch.doc_bytes, sums, strict=True)))
    scores: dict[str, Score] = defaultdict(Score)
    scores["all"] = Score()
    for name, source, num_bytes, (nats, targets) in chain.from_iterable(
        team.gather(of_batches) if team else of_batches
    ):
        for key in (groups.get(name, source), "all"):
            scores[key].nats += nats
            scores[key].targets += targets
            scores[key].bytes += num_bytes
    return dict(scores)


def _require_known(rows: Sequence[Row], vocab: int) -> None:
    for row in rows:
        if (highest := int(row.input_ids.max(initial=0))) >= vocab:
            found = f"A row of {', '.join(row.doc_ids[:3])} holds token {highest}, but the model knows {vocab}."
            needed = "Rows and model need the same tokenizer."
            raise UserError("heldout-token-unknown", found, needed, "Name rows of this model's corpus.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and each module's own mode again after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
