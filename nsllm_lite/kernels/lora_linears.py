"""Linear layers with LoRA on one input, as one autograd function that says what it keeps.

Letters: T tokens, I inputs, O outputs, R rank, S the ranks of all layers on one input.
x = produce(*inputs), a cheap function such as a norm; y = x W^T + bias + s (x A^T) B^T for each layer.

Kept for the backward pass are the inputs of `produce` and x A^T, a few numbers a token; x itself is computed again.
Layers on the same input (q, k and v; gate and up) share one product with all their A. The frozen weight is fetched
again in the backward pass, so that a dequantised one lives only as long as its product. A and B may be stored in fp32:
products are taken in the frozen weights' dtype, as autocast would.

Between two steps of an optimizer A and B stay as they are: `LoraGroup.held` has copies of them in the products' dtype
for all micro-batches of a step, and the place where their gradients are added, without a copy of these.

Where the frozen weights have an `in_fp8`, their own two products take operands in float8 (`kernels.fp8`) wherever
gradients are wanted. Without them, as in an evaluation, the products are those of `weight`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nsllm_lite.kernels import fp8


class LoraLinear(NamedTuple):
    """A frozen linear layer and what is trained on it, if anything."""

    weight: Callable[[], Tensor]  # () -> (O, I)
    bias: Tensor | None  # (O,), frozen
    A_RI: Tensor | None
    B_OR: Tensor | None
    scale: float
    in_fp8: Callable[[], fp8.Weight] | None = None  # the same weight; of all layers of a group, or of none


class Held(NamedTuple):
    """Of a group, for the micro-batches of one step: copies of its A, one below the other, and of each B, in the dtype
    of the products; and the sums of their gradients, in fp32."""

    A_SI: Tensor
    Bs_OR: tuple[Tensor | None, ...]
    A_grad_SI: Tensor
    B_grads_OR: tuple[Tensor | None, ...]


class LoraGroup:
    """Layers on the same input."""

    def __init__(self, layers: Sequence[LoraLinear]):
        self.layers = tuple(layers)
        self.has_fp8 = all(layer.in_fp8 for layer in self.layers)
        self.ranks = [0 if layer.A_RI is None else layer.A_RI.shape[0] for layer in layers]
        self.held: Held | None = None

    @property
    def adapters(self) -> list[Tensor | None]:
        """A and B of each layer in turn."""
        return [tensor for layer in self.layers for tensor in (layer.A_RI, layer.B_OR)]


def lora_linears(
    produce: Callable[..., Tensor] | None, inputs: Sequence[Tensor], group: LoraGroup
) -> tuple[Tensor, ...]:
    """y_TO of each layer; `produce` None takes the one input as it is."""
    in_fp8 = group.has_fp8 and torch.is_grad_enabled()
    return _LoraLinears.apply(produce, len(inputs), group, in_fp8, *inputs, *group.adapters)


def lora_linears_reference(
    produce: Callable[..., Tensor] | None, inputs: Sequence[Tensor], layers: Sequence[LoraLinear]
) -> tuple[Tensor, ...]:
    (x,) = inputs if produce is None else (produce(*inputs),)
    outputs = []
    for layer in layers:
        weight = layer.weight()
        y = torch.nn.functional.linear(x.to(weight.dtype), weight, layer.bias)
        if layer.A_RI is not None:
            low = x.to(weight.dtype) @ layer.A_RI.to(weight.dtype).T
            y = y + layer.scale * (low @ layer.B_OR.to(weight.dtype).T)
        outputs.append(y)
    return tuple(outputs)


NOT_TENSORS = (None,) * 4  # gradients of what comes before the inputs


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        produce: Callable[..., Tensor] | None,
        num_inputs: int,
        group: LoraGroup,
        in_fp8: bool,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        inputs, adapters = tensors[:num_inputs], tensors[num_inputs:]
        x = inputs[0] if produce is None else produce(*inputs)
        low_TS, outputs = None, []
        for number, layer in enumerate(group.layers):
            weight = layer.in_fp8() if in_fp8 else layer.weight()
            if low_TS is None:
                x = x.to(weight.dtype)
                low_TS = x @ _A_SI(group.held, adapters, x).T
                lows = low_TS.split(group.ranks, dim=1)
                Bs_OR = _Bs_OR(group.held, adapters, x.dtype)
                x8 = fp8.quantise(x) if in_fp8 else None
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            B_OR = Bs_OR[number]
            if in_fp8:
                y = fp8.forward(x8, weight)
                y = y if bias is None else y.add_(bias)
                outputs.append(y if B_OR is None else y.addmm_(lows[number], B_OR.T, alpha=layer.scale))
            elif B_OR is None:
                outputs.append(torch.nn.functional.linear(x, weight, bias))
            else:  # the large product adds to the small one, which costs it nothing
                y = x.new_empty(len(x), len(weight)) if bias is None else bias.expand(len(x), -1).clone()
                y.addmm_(lows[number], B_OR.T, beta=bias is not None, alpha=layer.scale)
                outputs.append(y.addmm_(x, weight.T))
            del weight
        ctx.produce, ctx.num_inputs, ctx.dtype = produce, num_inputs, x.dtype
        ctx.group, ctx.held, ctx.in_fp8 = group, group.held, in_fp8
        ctx.save_for_backward(low_TS, *tensors)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low_TS, *tensors = ctx.saved_tensors
        inputs, adapters = tensors[: ctx.num_inputs], tensors[ctx.num_inputs :]
        group, held, dtype = ctx.group, ctx.held, ctx.dtype
        to_inputs = any(ctx.needs_input_grad[4 : 4 + ctx.num_inputs])
        made = None
        if ctx.produce is None:
            x = inputs[0].to(dtype)
        else:
            with torch.set_grad_enabled(to_inputs):
                inputs = [each.detach().requires_grad_(to_inputs) for each in inputs]
                made = ctx.produce(*inputs)
            x = made.detach().to(dtype)

        grad_low_TS = torch.empty_like(low_TS)
        parts = zip(group.layers, grads, grad_low_TS.split(group.ranks, dim=1), strict=True)
        for (layer, grad, part), B_OR in zip(parts, _Bs_OR(held, adapters, dtype), strict=True):
            if B_OR is not None:
                part.addmm_(grad, B_OR, beta=0, alpha=layer.scale)
        adapter_grads = _adapter_grads(group, held, grads, x, low_TS, grad_low_TS)
        if not to_inputs:
            return *NOT_TENSORS, *(None for _ in inputs), *adapter_grads
        A_SI = _A_SI(held, adapters, x)
        del x
        if ctx.in_fp8:
            grad_x = _from_fp8(group, grads).addmm_(grad_low_TS, A_SI)
        else:
            grad_x = grad_low_TS @ A_SI
            for layer, grad in zip(group.layers, grads, strict=True):
                grad_x.addmm_(grad, layer.weight())
        if ctx.produce is None:
            return *NOT_TENSORS, grad_x.to(inputs[0].dtype), *adapter_grads
        input_grads = torch.autograd.grad(made, inputs, grad_x.to(made.dtype))
        return *NOT_TENSORS, *input_grads, *adapter_grads


def _from_fp8(group: LoraGroup, grads: Sequence[Tensor]) -> Tensor:
    """The gradient of the input by the frozen weights."""
    total = None
    for layer, grad in zip(group.layers, grads, strict=True):
        part = fp8.backward(grad, layer.in_fp8())
        total = part if total is None else total.add_(part)
    return total


def _A_SI(held: Held | None, adapters: Sequence[Tensor | None], like: Tensor) -> Tensor:  # noqa: N802
    """All A, one below the other, in the dtype of `like`, which is (T, I)."""
    if held is not None:
        return held.A_SI
    return torch.cat([like[:0], *(A.to(like.dtype) for A in adapters[0::2] if A is not None)])


def _Bs_OR(  # noqa: N802
    held: Held | None, adapters: Sequence[Tensor | None], dtype: torch.dtype
) -> Sequence[Tensor | None]:
    return held.Bs_OR if held is not None else [None if B is None else B.to(dtype) for B in adapters[1::2]]


def _adapter_grads(
    group: LoraGroup,
    held: Held | None,
    grads: Sequence[Tensor],
    x: Tensor,
    low_TS: Tensor,
    grad_low_TS: Tensor,
) -> list[Tensor | None]:
    """The gradients of A and B of each layer in turn; None where they were added to those that the group holds."""
    lows = low_TS.split(group.ranks, dim=1)
    if held is not None:
        _add_product(held.A_grad_SI, grad_low_TS.T, x, 1.0)
        for layer, grad, low, grad_B in zip(group.layers, grads, lows, held.B_grads_OR, strict=True):
            if grad_B is not None:
                _add_product(grad_B, grad.T, low, layer.scale)
        return [None] * (2 * len(group.layers))
    found: list[Tensor | None] = []
    for layer, grad, low, grad_A in zip(group.layers, grads, lows, (grad_low_TS.T @ x).split(group.ranks), strict=True):
        if layer.A_RI is None:
            found += [None, None]
        else:
            found += [grad_A.to(layer.A_RI.dtype), ((grad.T @ low) * layer.scale).to(layer.B_OR.dtype)]
    return found


def _add_product(total: Tensor, one: Tensor, other: Tensor, scale: float) -> None:
    """total += scale one @ other"""
    if total.dtype == one.dtype:
        total.addmm_(one, other, alpha=scale)
    else:
        total.add_(one @ other, alpha=scale)
