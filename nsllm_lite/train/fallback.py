"""What happens where the first step of a training does not fit the card: the next leaner execution."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution, Training

LEANER = 0.95  # of the memory that was predicted for the execution before


class StepTooLargeError(RunError):
    """The card ran out of memory before this process made a step. `leaner` is the recipe to start again with."""

    def __init__(self, found: str, leaner: Training):
        super().__init__("card-first-step-too-large", found, "Start again with a leaner execution.")
        self.leaner = leaner


@dataclass(frozen=True, slots=True)
class Fallback:
    """How a training runs, in `need_bytes` as predicted; `choose` gives the execution for another card."""

    recipe: Training
    how: Execution
    need_bytes: int
    card: Card
    choose: Callable[[Card], Execution]

    @contextmanager
    def on_first_step(self, has_trained: Callable[[], bool]) -> Iterator[None]:
        """An execution changes the numbers by rounding only, so before a step was made another may take its place.

        Raises:
            StepTooLargeError: memory ran out before a step was made, and a leaner execution is predicted to need less.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            if has_trained():
                raise
            try:
                leaner = self.choose(self.card._replace(memory_bytes=int(LEANER * self.need_bytes / USABLE_SHARE)))
            except UserError:
                leaner = self.how
            if leaner == self.how:
                raise
            found = f"The first step ran out of memory with {self.need_bytes / GIB:.1f} GiB predicted."
            recipe = recipes.update(self.recipe, execution=leaner.model_dump())
            raise StepTooLargeError(found, recipe) from None
