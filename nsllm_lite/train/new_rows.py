"""Training of the rows that an extension has added to a model, and of nothing else."""

import torch
from torch import Tensor, nn

from nsllm_lite.errors import UserError
from nsllm_lite.models.extension import NewRows


class OnlyNewRows:
    """Freezes `model` but for the rows that are new; those beside them in the same matrices stay as they are, to the
    last bit: they get no gradient, and what weight decay makes of them is undone.

    Raises UserError where none is new.
    """

    def __init__(self, model: nn.Module, new: NewRows):
        """`new` names parameters, (rows,) bool each."""
        if not any(bool(rows.any()) for rows in new.values()):
            found = "train_only: new, but nothing that can be trained was added."
            todo = "Set train_only=all: rotated positions have no rows, and the tokenizer has no token of its own."
            raise UserError("new-rows-none", found, todo)
        self._kept: list[tuple[nn.Parameter, Tensor, Tensor]] = []  # with the places of the others and their values
        for name, parameter in model.named_parameters():
            rows = new.get(name)
            parameter.requires_grad = rows is not None and bool(rows.any())
            if parameter.requires_grad and not rows.all():
                others = torch.nonzero(~rows).flatten().to(parameter.device)
                self._kept.append((parameter, others, parameter.data[others].clone()))

    def drop_gradients(self) -> None:
        """Before they are clipped."""
        for parameter, others, _ in self._kept:
            parameter.grad[others] = 0

    def restore(self) -> None:
        """After the optimizer's step."""
        for parameter, others, values in self._kept:
            parameter.data[others] = values
