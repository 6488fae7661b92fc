"""Several processes, one a GPU, that train one model: started by `accelerate launch`, or just one.

Every process holds the whole model and the same optimizer. Of each step's rows it takes its share; the gradients, which
are of the loss summed over all target tokens of the step, are added up. So the result is that of one process, but for
rounding. Process 0 alone writes.
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
