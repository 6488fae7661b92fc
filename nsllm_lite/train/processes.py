"""Several processes, one a GPU, that train one model: started by `accelerate launch`, or just one.

Every process holds the whole model and the same optimizer. Of each step's rows it takes its share; the gradients, which
are of the loss summed over all target tokens of the step, are added up. So the result is that of one process, but for
rounding. Held-out batches are shared out, too, and have the losses of one process. Process 0 alone writes.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from nsllm_lite.artifact import interrupts

T = TypeVar("T")


class Processes:
    def __init__(self, accelerator: Accelerator | None = None):
        """Without `accelerator`: this process alone."""
        self.rank, self.size = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        self.accelerator = accelerator

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part; each item goes to exactly one process."""
        return items[self.rank :: self.size]

    def gather(self, mine: Sequence[T]) -> list[T]:
        """What each process made of its `share`, in the order of all; every process has it."""
        if self.size == 1:
            return list(mine)
        of_each: list[Sequence[T]] = [()] * self.size
        distributed.all_gather_object(of_each, mine)
        return [of_each[n % self.size][n // self.size] for n in range(sum(map(len, of_each)))]

    def as_first(self, value: bool) -> bool:
        """The `value` of process 0, for a choice that all have to make alike."""
        if self.size > 1:
            said = torch.tensor(value, device=self.accelerator.device)
            distributed.broadcast(said, 0)
            value = bool(said)
        return value

    def print(self, text: str) -> None:
        if self.is_first:
            print(text)

    def wait(self) -> None:
        if self.size > 1:
            self.accelerator.wait_for_everyone()

    def stop_if_requested(self) -> None:
        """Between steps, when all can agree: raises interrupts.Stop in every process when a signal has come to one."""
        signum = interrupts.requested()
        if self.size > 1:
            highest = torch.tensor(signum, device=self.accelerator.device)
            distributed.all_reduce(highest, distributed.ReduceOp.MAX)
            signum = int(highest)
        if signum:
            raise interrupts.Stop(signum)

    def add(self, number: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(number)
        return number

    def start_equal(self, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
        """Returns `parameters`, which every process now has as process 0 has them."""
        if self.size > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.data, 0)
        return parameters
