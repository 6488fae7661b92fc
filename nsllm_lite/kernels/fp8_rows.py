"""`fp8.quantise` as one Triton kernel, which reads a row once: a program a row. Imported where there is a card."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def quantise_kernel(x, columns, values, scales, K, smallest, BLOCK: tl.constexpr):  # noqa: ANN001, ANN201
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < K
    numbers = tl.load(x + row * K + place, mask=inside, other=0.0).to(tl.float32)
    if columns is not None:
        numbers *= tl.load(columns + place, mask=inside, other=0.0)
    largest = tl.max(tl.abs(numbers))
    power = ((largest.to(tl.int32, bitcast=True) + 0x1FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
    scale = tl.maximum(power / 256, smallest)
    tl.store(scales + row, scale)
    tl.store(values + row * K + place, (numbers / scale).to(tl.float8e4nv), mask=inside)


def quantise_rows(
    x_NK: Tensor, scale_K: Tensor | None, values_NK: Tensor, scale_N1: Tensor, smallest_scale: float
) -> None:
    """Writes the last two tensors. All are contiguous; the scales are fp32."""
    N, K = x_NK.shape
    block = triton.next_power_of_2(K)
    warps = min(16, max(1, block // 512))
    quantise_kernel[(N,)](x_NK, scale_K, values_NK, scale_N1, K, smallest_scale, BLOCK=block, num_warps=warps)
