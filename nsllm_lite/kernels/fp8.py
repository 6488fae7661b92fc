"""Products with a frozen weight whose operands are in float8 (e4m3), each row with its own scale, summed in fp32.

Letters: T tokens, I inputs, O outputs; N rows of K numbers.
y = x W^T and dx = dy W, with x and dy rounded anew at each product. Row o of W is s_o times numbers in e4m3; in dx that
s_o goes to dy, before this is rounded itself, so that both products see the same rounded weight.

Scales are powers of two: what is rounded is the mantissa alone, to 3 bits (relative error 2^-4 at most), down to 2^-13
of a row's largest number, below which the error is 2^-17 of that. Where a row holds an infinity or NaN, so does what
comes of it.

Without a card the products are emulated: the same operands, multiplied in fp32. That is slow, and for measuring.

Source: Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
SMALLEST_SCALE = 2.0**-126


class Quantised(NamedTuple):
    """scale * values, row by row."""

    values: Tensor  # (N, K) e4m3
    scale: Tensor  # (N, 1) fp32


class Weight(NamedTuple):
    """A frozen weight: scale * W_OI. The other has the same numbers, laid out for the product with W itself."""

    W_OI: Tensor  # e4m3
    W_IO: Tensor | None  # None: laid out when it is asked for
    scale: Tensor  # (O, 1) fp32
    dtype: torch.dtype  # of what the products give


def quantise(x_NK: Tensor, scale_K: Tensor | None = None) -> Quantised:
    """The rows of `x_NK`, each number times `scale_K` first."""
    return (quantise_on_card if x_NK.is_cuda else quantise_reference)(x_NK, scale_K)


def quantise_reference(x_NK: Tensor, scale_K: Tensor | None = None) -> Quantised:
    x_NK = x_NK.float() if scale_K is None else x_NK.float() * scale_K
    largest_N1 = x_NK.abs().amax(1, keepdim=True)
    # the least power of two that takes the largest to 448 = 1.75 x 2^8 or below: a carry out of the mantissa
    power_N1 = ((largest_N1.view(torch.int32) + 0x1FFFFF) & 0x7F800000).view(torch.float32)
    scale_N1 = (power_N1 / 256).clamp(min=SMALLEST_SCALE)
    return Quantised((x_NK / scale_N1).to(E4M3), scale_N1)


def quantise_on_card(x_NK: Tensor, scale_K: Tensor | None = None) -> Quantised:
    from nsllm_lite.kernels.fp8_rows import quantise_rows  # needs Triton

    values = torch.empty(x_NK.shape, dtype=E4M3, device=x_NK.device)
    scale_N1 = torch.empty(len(x_NK), 1, dtype=torch.float32, device=x_NK.device)
    quantise_rows(x_NK.contiguous(), scale_K, values, scale_N1, SMALLEST_SCALE)
    return Quantised(values, scale_N1)


def product(x: Quantised, w: Quantised, dtype: torch.dtype) -> Tensor:
    """x w^T, whose rows are those of `x` and whose columns are the rows of `w`."""
    return (product_on_card if x.values.is_cuda else product_reference)(x, w, dtype)


def product_reference(x: Quantised, w: Quantised, dtype: torch.dtype) -> Tensor:
    with torch.autocast(x.values.device.type, enabled=False):
        summed = _in_fp32(x.values) @ _in_fp32(w.values).T
    return (summed * x.scale * w.scale.T).to(dtype)


def _in_fp32(values: Tensor) -> Tensor:
    """By a table of all values: on a CPU torch takes five times as long."""
    table = torch.arange(256, dtype=torch.uint8).view(E4M3).float()
    return table.index_select(0, values.view(torch.uint8).flatten().int()).view(values.shape)


def product_on_card(x: Quantised, w: Quantised, dtype: torch.dtype) -> Tensor:
    """All sums in fp32: Hopper's fast accumulation keeps fewer bits of them."""
    return torch._scaled_mm(x.values, w.values.T, x.scale, w.scale.T, out_dtype=dtype, use_fast_accum=False)


def weight_of(restore: Callable[[], Tensor], both: bool) -> Weight:
    """The weight that `restore` gives; `both`: laid out for both products."""
    W_OI = restore()
    values, scale = quantise(W_OI)
    return Weight(values, values.T.contiguous() if both else None, scale, W_OI.dtype)


def forward(x: Quantised, weight: Weight) -> Tensor:
    """y_TO = x W^T"""
    return product(x, Quantised(weight.W_OI, weight.scale), weight.dtype)


def backward(grad_TO: Tensor, weight: Weight) -> Tensor:
    """dx_TI = dy W"""
    W_IO = weight.W_OI.T.contiguous() if weight.W_IO is None else weight.W_IO
    ones = torch.ones(len(W_IO), 1, device=grad_TO.device)
    return product(quantise(grad_TO, weight.scale.flatten()), Quantised(W_IO, ones), weight.dtype)
