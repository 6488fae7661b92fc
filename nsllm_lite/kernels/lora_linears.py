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
        low_TR = x @ _stacked(adapters, x).T
        parts = low_TR.split(_ranks(adapters), dim=1)
        for layer, y, low, B_OR in zip(layers, outputs, parts, adapters[1::2], strict=True):
            if B_OR is not None:
                y.addmm_(low, B_OR.to(x.dtype).T, alpha=layer.scale)
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

        ranks, scales = _ranks(adapters), [scale for _, scale in ctx.layers]
        pairs = list(zip(adapters[0::2], adapters[1::2], grads, scales, strict=True))
        grads_low = [(grad @ B.to(dtype)) * scale for A, B, grad, scale in pairs if A is not None]
        # of all layers side by side, (T, sum of R)
        grad_low = grads_low[0] if len(grads_low) == 1 else torch.cat([low_TR[:, :0], *grads_low], dim=1)
        adapter_grads: list[Tensor | None] = []  # of A and B of each layer in turn
        parts = zip(pairs, low_TR.split(ranks, dim=1), (grad_low.T @ x).split(ranks), strict=True)
        for (A, B, grad, scale), low, grad_A in parts:
            if A is None:
                adapter_grads += [None, None]
            else:
                grad_B = (grad.T @ low) * scale
                adapter_grads += [grad_A.to(A.dtype), grad_B.to(B.dtype)]
        if not to_inputs:
            return None, None, None, *(None for _ in inputs), *adapter_grads
        del x
        grad_x = None
        for (weight, _), grad in zip(ctx.layers, grads, strict=True):
            grad_x = grad @ weight() if grad_x is None else grad_x.addmm_(grad, weight())
        grad_x.addmm_(grad_low, _stacked(adapters, grad_x))
        if ctx.produce is None:
            return None, None, None, grad_x.to(inputs[0].dtype), *adapter_grads
        input_grads = torch.autograd.grad(made, inputs, grad_x.to(made.dtype))
        return None, None, None, *input_grads, *adapter_grads


def _stacked(adapters: Sequence[Tensor | None], x: Tensor) -> Tensor:
    """All A, one below the other, in the dtype of `x`, which is (T, I)."""
    return torch.cat([x[:0], *(A.to(x.dtype) for A in adapters[0::2] if A is not None)])


def _ranks(adapters: Sequence[Tensor | None]) -> list[int]:
    return [0 if A is None else A.shape[0] for A in adapters[0::2]]
