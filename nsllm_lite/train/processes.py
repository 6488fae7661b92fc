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
    def __init__(self, accelerator: Accelerator):
        self.rank, self.size = accelerator.process_index, accelerator.num_processes
        self._accelerator = accelerator

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: each item goes to exactly one."""
        return items[self.rank :: self.size]

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def leave(self) -> None:
        """Nobody leaves before all are done."""
        if self.size > 1:
            self.wait()

    def stop_if_asked(self) -> None:
        """Between steps, when all can agree: raises stop.Stop in every process where a signal has come to one."""
        signum = interrupts.requested()
        if self.size > 1:
            told = torch.tensor(signum, device=self._accelerator.device)
            distributed.all_reduce(told, distributed.ReduceOp.MAX)
            signum = int(told)
        if signum:
            raise interrupts.Stop(signum)

    def add(self, number: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(number)
        return number

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every process gets the sum; a parameter that no row of its own reached counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)

    def start_equal(self, parameters: Sequence[nn.Parameter]) -> None:
        """What process 0 begins with."""
        if self.size > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.data, 0)
