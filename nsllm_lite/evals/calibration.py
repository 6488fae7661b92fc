"""Contextual calibration of few-shot answers: what a label owes to the prompt alone is taken out.

A small model gives nearly every item the same one or two labels, whatever the item says. So the labels are also scored
behind inputs that say nothing, and each label's probability is divided by the mean of its probabilities there.

Source: Zhao et al., Calibrate Before Use (ICML 2021), with its three inputs and its diagonal W.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nsllm_lite.tasks.sets import TaskSet

if TYPE_CHECKING:
    from nsllm_lite.models.generate import Engine

EMPTY_INPUTS = ("N/A", "[MASK]", "")


def priors(of: TaskSet, options: Sequence[Sequence[str]], engine: "Engine") -> Iterator[np.ndarray]:
    """For each item the log-probabilities of its options, (options,), behind inputs that say nothing."""
    distinct = list(dict.fromkeys(map(tuple, options)))
    like = {row: item for item, row in zip(of.items, map(tuple, options), strict=True)}
    prompts = [
        of.task.few_shot_prompt(replace(like[row], input=empty), of.shots) for row in distinct for empty in EMPTY_INPUTS
    ]
    labels = [[f" {option}" for option in row] for row in distinct for _ in EMPTY_INPUTS]
    found = dict(engine.rank(prompts, labels))
    by_row = {}
    for number, row in enumerate(distinct):
        logits = np.array([found[number * len(EMPTY_INPUTS) + n] for n in range(len(EMPTY_INPUTS))])
        shares = np.exp(logits - logits.max(1, keepdims=True))
        by_row[row] = np.log((shares / shares.sum(1, keepdims=True)).mean(0))
    yield from (by_row[tuple(row)] for row in options)
