"""Linear layers with LoRA on one input, as one autograd function that says what it keeps.

Letters: T tokens, I inputs, O outputs, R rank.
x = produce(*inputs), a cheap function such as a norm; y = x W^T + bias + s (x A^T) B^T for each layer.

Kept for the backward pass are the inputs of `produce` and x A^T, a few numbers a token; x itself is computed again.
Layers on the same input (q, k and v; gate and up) share one product with all their A. The frozen weight is fetched
again in the backward pass, so that a dequantised one lives only as long as its product. A and B may be stored in fp32:
products are taken in the frozen weights' dtype, as autocast would.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class LoraLinear(NamedTuple):
    """A frozen linear layer and what is trained on it, if anything."""

    weight: Callable[[], Tensor]  # () -> (O, I)
    bias: Tensor | None  # (O,), frozen
    A_RI: Tensor | None
    B_OR: Tensor | None
    scale: float


def lora_linears(
    produce: Callable[..., Tensor] | None, inputs: Sequence[Tensor], layers: Sequence[LoraLinear]
) -> tuple[Tensor, ...]:
    """y_TO of each layer; `produce` None takes the one input as it is."""
    adapters = [tensor for layer in layers for tensor in (layer.A_RI, layer.B_OR)]
    return _LoraLinears.apply(produce, len(inputs), tuple(layers), *inputs, *adapters)


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


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        produce: Callable[..., Tensor] | None,
        num_inputs: int,
        layers: tuple[LoraLinear, ...],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        inputs, adapters = tensors[:num_inputs], tensors[num_inputs:]
        x = inputs[0] if produce is None else produce(*inputs)
        outputs = []
        for layer in layers:
            weight = layer.weight()
            x = x.to(weight.dtype)
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            outputs.append(torch.nn.functional.linear(x, weight, bias))
            del weight
        every_A = _stacked(adapters, x.dtype)
        low_TR = None if every_A is None else x @ every_A.T
        for number, (layer, y, B_OR) in enumerate(zip(layers, outputs, adapters[1::2], strict=True)):
            if B_OR is not None:
                y.addmm_(_part(low_TR, adapters, number), B_OR.to(x.dtype).T, alpha=layer.scale)
        ctx.produce, ctx.num_inputs, ctx.dtype = produce, num_inputs, x.dtype
        ctx.layers = tuple((layer.weight, layer.scale) for layer in layers)
        ctx.save_for_backward(low_TR, *tensors)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low_TR, *tensors = ctx.saved_tensors
        inputs, adapters = tensors[: ctx.num_inputs], tensors[ctx.num_inputs :]
        dtype = ctx.dtype
        to_inputs = any(ctx.needs_input_grad[3 : 3 + ctx.num_inputs])
        made = None
        if ctx.produce is None:
            x = inputs[0].to(dtype)
        else:
            with torch.set_grad_enabled(to_inputs):
                inputs = [each.detach().requires_grad_(to_inputs) for each in inputs]
                made = ctx.produce(*inputs)
            x = made.detach().to(dtype)

        grad_low = _grad_low(ctx.layers, adapters, grads, dtype)
        adapter_grads = _adapter_grads(ctx.layers, adapters, grads, x, low_TR, grad_low)
        if not to_inputs:
            return None, None, None, *(None for _ in inputs), *adapter_grads
        del x
        grad_x = None
        for (weight, _), grad in zip(ctx.layers, grads, strict=True):
            grad_x = grad @ weight() if grad_x is None else grad_x.addmm_(grad, weight())
        if grad_low is not None:
            grad_x.addmm_(grad_low, _stacked(adapters, dtype))
        if ctx.produce is None:
            return None, None, None, grad_x.to(inputs[0].dtype), *adapter_grads
        input_grads = torch.autograd.grad(made, inputs, grad_x.to(made.dtype))
        return None, None, None, *input_grads, *adapter_grads


def _stacked(adapters: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor | None:
    """All A, one below the other."""
    every = [A.to(dtype) for A in adapters[0::2] if A is not None]
    return torch.cat(every) if every else None


def _part(low_TR: Tensor, adapters: Sequence[Tensor | None], number: int) -> Tensor:
    """The columns of `low_TR` that belong to layer `number`."""
    ranks = [0 if A is None else A.shape[0] for A in adapters[0::2]]
    return low_TR[:, sum(ranks[:number]) : sum(ranks[: number + 1])]


def _grad_low(
    layers: Sequence[tuple], adapters: Sequence[Tensor | None], grads: Sequence[Tensor], dtype: torch.dtype
) -> Tensor | None:
    """d loss / d (x A^T) of all layers side by side, (T, sum of R)."""
    parts = [
        (grad @ B.to(dtype)) * scale
        for (_, scale), B, grad in zip(layers, adapters[1::2], grads, strict=True)
        if B is not None
    ]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] if parts else None


def _adapter_grads(
    layers: Sequence[tuple],
    adapters: Sequence[Tensor | None],
    grads: Sequence[Tensor],
    x: Tensor,
    low_TR: Tensor | None,
    grad_low: Tensor | None,
) -> list[Tensor | None]:
    """Of A and B of each layer in turn."""
    found: list[Tensor | None] = []
    grad_A = None if grad_low is None else (grad_low.T @ x)
    row = 0
    for number, ((_, scale), A, B, grad) in enumerate(zip(layers, adapters[0::2], adapters[1::2], grads, strict=True)):
        if A is None:
            found += [None, None]
            continue
        grad_B = (grad.T @ _part(low_TR, adapters, number)) * scale
        found += [grad_A[row : row + A.shape[0]].to(A.dtype), grad_B.to(B.dtype)]
        row += A.shape[0]
    return found
