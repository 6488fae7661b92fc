"""A training whose first step does not fit the card starts again with the next leaner execution.

An execution is chosen by predicted memory; where the card ran out all the same, nothing has been trained yet by this
process, and the choice changes the numbers by rounding only. A later step that does not fit ends the run as before.
"""

import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.errors import UserError
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.train.training_run import TrainingRun

LEANER = 0.95  # of the memory that was predicted for the execution before


@dataclass
class Attempt:
    """One start of a training: the memory it may plan with (None: what is free), what it planned, and its run."""

    card_bytes: int | None = None
    need_bytes: int = 0
    run: TrainingRun | None = None

    def begin(self, run: TrainingRun, need: dict[str, int]) -> None:
        self.run, self.need_bytes = run, sum(need.values())

    @property
    def may_fall_back(self) -> bool:
        return self.run is not None and self.run.own_tokens == 0 and self.run.team.size == 1


def until_it_fits(train: Callable[[Any, Attempt], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Decorates `train(recipe, attempt)`: a function of the recipe alone.

    Raises:
        torch.OutOfMemoryError: there is no leaner execution, it came after a step, or there are several processes.
    """

    @functools.wraps(train)
    def trying(recipe: Any) -> dict[str, Any]:
        attempt, ran_out = Attempt(), ""
        while True:
            try:
                return train(recipe, attempt)
            except torch.OutOfMemoryError as error:
                if not attempt.may_fall_back:
                    raise
                ran_out = str(error)
            except UserError as error:
                if not ran_out or error.code != "execution-memory-too-small":
                    raise
                break
            print(
                f"The first step ran out of memory with {attempt.need_bytes / GIB:.1f} GiB predicted: starting again "
                "with a leaner execution"
            )
            attempt = Attempt(int(LEANER * attempt.need_bytes / USABLE_SHARE))
            gc.collect()
            torch.cuda.empty_cache()
        raise torch.OutOfMemoryError(ran_out)

    return trying
