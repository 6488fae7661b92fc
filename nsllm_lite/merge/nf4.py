"""NF4 as bitsandbytes rounds to it, a slice at a time.

A weight is cut into blocks of 64 along its rows; each block is scaled by its largest magnitude (absmax) and each entry
becomes the nearest of 16 values. With double quantisation the scales are themselves held in 8 bits, in blocks of 256
about their mean over the whole weight. That mean depends on the device and even on the number of threads in its last
bits, so training writes it down (`nf4.json` beside the adapter) and `scales_of` takes it from there.

Source: bitsandbytes 0.50, functional.py `quantize_4bit`, backends/default/ops.py; QLoRA, arXiv:2305.14314. The tests
compare with bitsandbytes bit by bit.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nsllm_lite.formats.weights import TensorOnDisk

BLOCK = 64
PIECE = 1024 * BLOCK  # rounded at a time: its temporaries stay in the cache
VALUES = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    dtype=torch.float32,
)  # fmt: skip
BOUNDS = (VALUES[:-1] + VALUES[1:]) / 2

# [-1, 1] in 4,096 bins, of which none holds two bounds: in each an entry up to `UP_TO` becomes `LOW`, above it `HIGH`.
# A binary search gives the same 20 times slower.
NUM_BINS = 4096


def _bins(scaled: Tensor) -> Tensor:
    return ((scaled * ((NUM_BINS - 1) / 2)) + ((NUM_BINS - 1) / 2)).to(torch.int32)


_below = torch.bucketize(torch.arange(NUM_BINS, dtype=torch.int32), _bins(BOUNDS), out_int32=True)
LOW = VALUES[_below]
HIGH, UP_TO = LOW.clone(), torch.full((NUM_BINS,), math.inf)
HIGH[_bins(BOUNDS)], UP_TO[_bins(BOUNDS)] = VALUES[1:], BOUNDS


class Scales(NamedTuple):
    """Of each block of a weight: by what it is divided, and by what the rounded is multiplied."""

    absmax: Tensor  # (blocks,) fp32
    restored: Tensor  # (blocks,) fp32; differs from `absmax` by double quantisation


def absmax_of(flat: Tensor) -> Tensor:
    """The largest magnitude of each block of `flat`, fp32 of any length; the last block may be shorter."""
    whole = flat.numel() // BLOCK * BLOCK
    absmax = flat[:whole].view(-1, BLOCK).abs().amax(1)
    if whole < flat.numel():
        absmax = torch.cat((absmax, flat[whole:].abs().amax().clamp(min=1e-38).view(1)))
    return absmax


def scales_of(weight: TensorOnDisk, dtype: torch.dtype, double_quantisation: bool, mean: float | None = None) -> Scales:
    """Of `weight` held in `dtype`; reads it once. `mean` of its absmax, as training had it; else it is taken here."""
    pieces = (weight.rows(first, last).to(dtype).float() for first, last in weight.row_slices())
    absmax = torch.cat([absmax_of(piece.view(-1)) for piece in pieces])
    return Scales(absmax, restored(absmax, mean) if double_quantisation else absmax)


def restored(absmax: Tensor, mean: float | None = None) -> Tensor:
    """`absmax` after its own quantisation to 8 bits."""
    from bitsandbytes import functional

    offset = absmax.mean() if mean is None else torch.tensor(mean, dtype=torch.float32)
    codes, state = functional.quantize_blockwise(absmax - offset, blocksize=256)
    return functional.dequantize_blockwise(codes, state).add_(offset)


def round_(flat: Tensor, scales: Scales, first_block: int = 0) -> Tensor:
    """Rounds `flat`, fp32 of whole blocks but perhaps the last, in place; the weight's blocks from `first_block` on."""
    for first in range(0, flat.numel(), PIECE):
        piece = flat[first : first + PIECE]
        block = first_block + first // BLOCK
        _round_piece(piece, *(of[block : block + -(-piece.numel() // BLOCK)] for of in scales))
    return flat


def _round_piece(flat: Tensor, absmax: Tensor, restored: Tensor) -> None:
    whole = flat.numel() // BLOCK
    blocks, rest = flat[: whole * BLOCK].view(-1, BLOCK), flat[whole * BLOCK :]
    blocks.mul_((1.0 / absmax[:whole].clamp(min=1e-38)).view(-1, 1))
    if rest.numel():
        rest.div_(absmax[whole])
    flat.clamp_(-1, 1)
    bins = _bins(flat)
    values = torch.where(flat > UP_TO.index_select(0, bins), HIGH.index_select(0, bins), LOW.index_select(0, bins))
    torch.mul(values[: whole * BLOCK].view(-1, BLOCK), restored[:whole].view(-1, 1), out=blocks)
    if rest.numel():
        torch.mul(values[whole * BLOCK :], restored[whole], out=rest)
