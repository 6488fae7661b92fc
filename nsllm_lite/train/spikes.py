"""Spikes of the training loss, and a warning where the learning rate is too high.

Everything is a function of the losses so far, so that a continued run reports what an unbroken one reports.

A step is a spike where its loss is above the median of the last 50 steps by 8 robust deviations (1.4826 x the median
absolute deviation) and by a twentieth of it. On Gaussian noise of 1 to 10 % of the loss that was never true in 120,000
steps; on noise with heavy tails (Student's t with 5 degrees of freedom) about once in 5,000.

The learning rate is called too high where the median of the last 10 steps is above the lowest such median by a tenth of
it and by 4 robust deviations of the steps around that lowest; where there were 3 spikes in 50 steps; and, in the first
20 steps, where that median is above the first loss by a quarter and by 7 robust deviations, or two of the losses are
above the first by 15 % and above their median by 7. A rate that wipes the model out does it at the end of the warm-up:
the loss jumps, and stays at or falls to that of guessing by frequency, which may be where it began.
"""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nsllm_lite.artifact.json_files import cut_lines
from nsllm_lite.recipe.train import Training

WINDOW, LEAST = 50, 20  # steps that a spike is measured by, and how many there must be
SPIKE_DEVIATIONS, SPIKE_SHARE = 8.0, 0.05
SMOOTHED = 10  # steps of a level
RISE_DEVIATIONS, RISE_SHARE = 4.0, 0.1
EARLY_DEVIATIONS, JUMP_SHARE, HUMP_SHARE = 7.0, 0.25, 0.15
MANY_SPIKES = 3
MAX_LINES, MAX_DOCUMENTS, MAX_SAID = 100, 1_000, 20  # kept in spikes.jsonl, in a line of it, and printed


@dataclass(slots=True)
class SpikeDetector:
    """Takes the losses one by one; `spikes` are the steps so far, counted from 1, `too_high` the reason once known."""

    spikes: list[int] = field(default_factory=list)
    too_high: str = ""
    too_high_step: int | None = None
    usual: tuple[float, float] = (0.0, 0.0)  # 5th to 95th percentile of the steps before the last
    _step: int = 0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _lowest: tuple[float, float, int] | None = None  # level, deviation and step

    def take(self, loss: float) -> bool:
        """Whether this loss is a spike."""
        self._step += 1
        before = np.array(self._recent)
        self._recent.append(loss)
        is_spike = False
        if len(before) >= LEAST:
            middle, deviation = _spread(before)
            is_spike = loss - middle > max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * middle)
            self.usual = tuple(np.quantile(before, (0.05, 0.95)).tolist())
        if is_spike:
            self.spikes.append(self._step)
        if not self.too_high and (why := self._why_too_high()):
            self.too_high, self.too_high_step = why, self._step
        return is_spike

    def _why_too_high(self) -> str:
        if len([step for step in self.spikes if step > self._step - WINDOW]) >= MANY_SPIKES:
            return f"{MANY_SPIKES} spikes of the loss within {WINDOW} steps"
        if len(self._recent) < SMOOTHED:
            return ""
        recent = np.array(self._recent)
        level = float(np.median(recent[-SMOOTHED:]))
        if self._step <= LEAST:
            first, second = recent[0], np.sort(recent[1:])[-2]
            jump = max(JUMP_SHARE * first, EARLY_DEVIATIONS * _spread(recent[-SMOOTHED:])[1])
            middle, deviation = _spread(recent)
            hump = max(first * (1 + HUMP_SHARE), middle + EARLY_DEVIATIONS * deviation)
            if level > first + jump or second > hump:
                return f"the loss has risen to {recent.max():.3f} from the {first:.3f} that it began with"
        if self._lowest:
            lowest, around, at = self._lowest
            if level - lowest > max(RISE_DEVIATIONS * around, RISE_SHARE * lowest):
                return f"the loss has risen to {level:.3f} from the {lowest:.3f} that it had at step {at}"
        if self._lowest is None or level < self._lowest[0]:
            self._lowest = level, _spread(recent)[1], self._step
        return ""


def judge(lines: Iterable[dict[str, Any]]) -> SpikeDetector:
    """The detector after the lines of a `metrics.jsonl`."""
    found = SpikeDetector()
    for line in lines:
        if "loss" in line:
            found.take(line["loss"])
    return found


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Median, and the deviation that the median absolute deviation stands for in Gaussian noise."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))


class SpikeLog:
    """Prints what a `SpikeDetector` finds, and writes the documents of a spike's batch to `spikes.jsonl`."""

    def __init__(self, out: Path, recipe: Training, lines: Sequence[dict[str, Any]]):
        """`lines` are those of metrics.jsonl so far; entries of later steps, left by a killed run, are removed."""
        self._out, self._recipe, self._judge = out, recipe, judge(lines)
        self._path = out / "spikes.jsonl"
        self._num_kept = len(cut_lines(self._path, max((line["step"] for line in lines), default=0)))

    def see(self, step: int, loss: float, documents: Sequence[str]) -> None:
        known = self._judge.too_high
        if self._judge.take(loss):
            self._keep(step, loss, documents)
        if self._judge.too_high and not known:
            rate = self._recipe.optimizer.learning_rate
            print(
                f"\nStep {step}: the learning rate seems too high: {self._judge.too_high}. optimizer.learning_rate is "
                f"{rate:g}, after {self._recipe.schedule.warmup_steps} steps of warm-up: try {rate / 3:.1g} or "
                f"{rate / 10:.1g}, in another folder. The run goes on."
            )

    def _keep(self, step: int, loss: float, documents: Sequence[str]) -> None:
        low, high = self._judge.usual
        line = {"step": step, "loss": loss, "usual": [low, high], "num_documents": len(documents)}
        if self._num_kept < MAX_LINES:
            self._num_kept += 1
            with open(self._path, "a", encoding="utf-8") as file:
                line |= {"documents": list(documents[:MAX_DOCUMENTS])}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if (number := len(self._judge.spikes)) <= MAX_SAID:
            last = "; later ones are not printed" if number == MAX_SAID else ""
            print(
                f"\nStep {step}: a spike, loss {loss:.3f} where {low:.3f} to {high:.3f} is usual; the "
                f"{len(documents)} documents of its batch are named in {self._path}{last}"
            )
