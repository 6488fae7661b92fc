"""What happens where a training does not fit the card: the next leaner execution, from the newest checkpoint."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution, Training

LEANER = 0.95  # of the memory that was predicted for the execution before
WORDS = ("out of memory", "ALLOC_FAILED")  # of errors that CUDA's libraries and Triton raise as others


class OutOfMemoryError(RunError):
    """The card ran out of memory. `leaner` is the recipe to start again with."""

    def __init__(self, found: str, leaner: Training):
        super().__init__("card-ran-out", found, "Start again with a leaner execution.")
        self.leaner = leaner


@dataclass(frozen=True, slots=True)
class Fallback:
    """How a training runs, in `need_bytes` as predicted; `choose` gives the execution of a recipe."""

    recipe: Training
    how: Execution
    need_bytes: int
    card: Card
    choose: Callable[[Training], Execution]

    @contextmanager
    def where_it_runs_out(self, is_alone: bool) -> Iterator[None]:
        """An execution changes the numbers by rounding only, so another may take its place.

        Several processes would have to agree: one of them ends as torch ends it.

        Raises:
            OutOfMemoryError: memory ran out, and there is an execution that is predicted to need less.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_alone or not any(word in str(error) for word in WORDS):
                raise
            gib = LEANER * self.need_bytes / USABLE_SHARE / GIB
            asked = self.recipe.execution.model_copy(update={"memory_gib": gib})
            recipe = recipes.update(self.recipe, execution=asked.model_dump())
            try:
                leaner = self.choose(recipe)
            except UserError:
                leaner = self.how
            if leaner.model_copy(update={"memory_gib": self.how.memory_gib}) == self.how:
                raise
            found = f"The card ran out of memory with {self.need_bytes / GIB:.1f} GiB predicted."
            raise OutOfMemoryError(found, recipe) from None
