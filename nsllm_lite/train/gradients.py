"""The gradients of all that is trained, in one buffer: zeroed, added up over processes and clipped in one piece each.

Fused layers add theirs to it themselves, and for the micro-batches of a step they share copies of A and B in the dtype
of the products (`kernels.lora_linears.Held`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nsllm_lite.kernels.fused_layers import lora_groups
from nsllm_lite.kernels.lora_linears import Held, LoraGroup


class Gradients:
    """`flat` (N,) fp32 holds the gradients of N trained numbers; each parameter's `grad` is a part of it."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        """`dtype` is that of the products of fused layers."""
        groups = [group for group in lora_groups(model) if any(group.ranks)]
        named = {id(p): p for group in groups for p in _in_order(group)}
        named |= {id(p): p for p in model.parameters() if p.requires_grad}
        self.parameters = list(named.values())
        device = self.parameters[0].device
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters), dtype=torch.float32, device=device)
        place = 0
        for parameter in self.parameters:
            parameter.grad = self.flat[place : place + parameter.numel()].view_as(parameter)
            place += parameter.numel()
        self._held = [(group, _held(group, self.flat, dtype)) for group in groups]
        self._originals = [A for group in groups for A in _in_order(group)]
        self._copies = [copy for group, held in self._held for copy in _copies(group, held)]

    @contextmanager
    def of_step(self) -> Iterator[None]:
        """Inside, fused layers hold copies of A and B as they are now: no optimizer may change them here."""
        if self._copies:
            torch._foreach_copy_(self._copies, [original.detach() for original in self._originals])
        for group, held in self._held:
            group.held = held
        try:
            yield
        finally:
            for group, _ in self._held:
                group.held = None

    def zero(self) -> None:
        self.flat.zero_()

    def clip(self, max_norm: float) -> float:
        """Their norm, above which they are scaled down to `max_norm`."""
        norm = torch.linalg.vector_norm(self.flat)
        self.flat.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)


def _in_order(group: LoraGroup) -> list[nn.Parameter]:
    """All A, then all B."""
    given = [tensor for tensor in (*group.adapters[0::2], *group.adapters[1::2]) if tensor is not None]
    return [tensor for tensor in given if tensor.requires_grad]


def _held(group: LoraGroup, flat: Tensor, dtype: torch.dtype) -> Held:
    As = [A for A in group.adapters[0::2] if A is not None]
    start = As[0].grad.storage_offset()
    count = sum(A.numel() for A in As)
    stacked = torch.empty(sum(group.ranks), As[0].shape[1], dtype=dtype, device=flat.device)
    Bs = tuple(None if B is None else torch.empty_like(B, dtype=dtype) for B in group.adapters[1::2])
    grad_Bs = tuple(None if B is None else B.grad for B in group.adapters[1::2])
    return Held(stacked, Bs, flat[start : start + count].view_as(stacked), grad_Bs)


def _copies(group: LoraGroup, held: Held) -> Sequence[Tensor]:
    """Where the copies are, in the order of `_in_order`."""
    return [part for part in held.A_SI.split(group.ranks) if len(part)] + [B for B in held.Bs_OR if B is not None]
