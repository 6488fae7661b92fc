"""Which rows a step trains on: a pure function of (seed, step), so that resuming needs no state but the step."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.recipe.train import Train


@dataclass(frozen=True, slots=True)
class StepOrder:
    """Domain rows in shuffled epochs, with replay rows at a steady `replay_share` from a shuffle of their own."""

    domain: Rows
    replay: Rows | None
    rows_per_step: int
    replay_share: Fraction
    seed: int

    def rows(self, step: int) -> list[Row]:
        """The rows of `step` (from 0), domain rows first."""
        first, last = self._replay_before(step), self._replay_before(step + 1)
        domain_first = step * self.rows_per_step - first
        domain_last = (step + 1) * self.rows_per_step - last
        rows = [self.domain[i] for i in shuffled(len(self.domain), self.seed, 0, domain_first, domain_last)]
        if self.replay is not None:
            rows += [self.replay[i] for i in shuffled(len(self.replay), self.seed, 1, first, last)]
        return rows

    def replay_rows(self, step: int) -> int:
        """How many of the rows of `step`, its last ones, are replay."""
        return self._replay_before(step + 1) - self._replay_before(step)

    def epochs(self, steps: int) -> float:
        """How often `steps` steps show the domain rows."""
        return (steps * self.rows_per_step - self._replay_before(steps)) / len(self.domain)

    def num_bytes(self, steps: int) -> int:
        """UTF-8 bytes of the text that `steps` steps show, replay included."""
        replay = self._replay_before(steps)
        seen = _first_bytes(self.domain, self.seed, 0, steps * self.rows_per_step - replay)
        return seen + (_first_bytes(self.replay, self.seed, 1, replay) if self.replay is not None else 0)

    def _replay_before(self, step: int) -> int:
        return int(step * self.rows_per_step * self.replay_share) if self.replay is not None else 0


def shuffled(count: int, seed: int, stream: int, first: int, last: int) -> list[int]:
    """Places `first` to `last` of 0..count-1 in endless shuffled epochs."""
    indices = []
    for position in range(first, last):
        epoch, place = divmod(position, count)
        indices.append(int(_permutation(count, seed, stream, epoch)[place]))
    return indices


def _first_bytes(rows: Rows, seed: int, stream: int, count: int) -> int:
    """Bytes behind the first `count` places of the shuffled epochs."""
    epochs, rest = divmod(count, len(rows))
    in_order = rows.row_bytes[_permutation(len(rows), seed, stream, epochs)] if rest else rows.row_bytes
    return epochs * int(rows.row_bytes.sum()) + int(in_order[:rest].sum())


_LAST: dict[int, tuple[tuple[int, int, int, int], np.ndarray]] = {}  # stream -> (key, permutation): one epoch each


def _permutation(count: int, seed: int, stream: int, epoch: int) -> np.ndarray:
    """A stream that changes its epoch in every step (a short replay) does not push out the other's."""
    key = (count, seed, stream, epoch)
    known, permutation = _LAST.get(stream, (None, None))
    if known != key:
        permutation = np.random.default_rng([seed, stream, epoch]).permutation(count)
        _LAST[stream] = (key, permutation)
    return permutation


def order_of(recipe: Train, rows: Rows, replay: Rows | None, steps: int) -> StepOrder:
    """The data order of a recipe in so many `steps`, with the share of `replay` lowered where it would repeat too
    often."""
    rows_per_step = recipe.rows_per_step(rows.totals.row_tokens)
    share = Fraction(0)
    if recipe.replay and recipe.replay.share and replay is not None:
        share = plan_replay(recipe.replay.share, recipe.replay.max_epochs, replay, steps * rows_per_step)
    return StepOrder(rows, replay if share else None, rows_per_step, share, recipe.seed)


def plan_replay(share: float, max_epochs: float, replay: Rows, total_rows: int) -> Fraction:
    """The share that can be kept without repeating the replay text more than `max_epochs` times."""
    most_rows = Fraction(max_epochs).limit_denominator(1000) * len(replay)
    return min(Fraction(share).limit_denominator(10_000), most_rows / total_rows)
