"""NF4 as bitsandbytes rounds to it, a slice at a time.

A weight is cut into blocks of 64 along its rows; each block is scaled by its largest magnitude (absmax) and each entry
becomes the nearest of 16 values. With double quantisation the scales are themselves held in 8 bits, in blocks of 256
about their mean over the whole weight. Those codes differ between a card and a CPU, and between versions of
bitsandbytes, and the mean in its last bits even with the number of threads. So training writes down what it held
(`nf4.json` and `nf4_scales.safetensors` beside the adapter) and `scales_of` takes it from there; where nothing was
written down, the rule of the device says what was held, up to rare ties.

Source: bitsandbytes 0.50, functional.py `quantize_4bit`, csrc/kernels.cu, csrc/cpu_ops.cpp; QLoRA, arXiv:2305.14314.
The tests compare with bitsandbytes bit by bit.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import TensorOnDisk

BLOCK = 64
LARGEST_STEP = 0.02  # of a block's largest: what lies between a scale and its code, twice over
SCALE_BLOCK = 256  # scales that share one of their own
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


class Held(NamedTuple):
    """How training held a weight, as far as that is known."""

    on_card: bool = False
    mean: float | None = None  # of the blocks' absmax
    codes: Tensor | None = None  # (blocks,) uint8, of absmax - mean
    nested: Tensor | None = None  # (blocks / 256,) fp32, the scales of `codes`
    code: Tensor | None = None  # (256,) fp32, the values that codes stand for


class Scales(NamedTuple):
    """Of each block of a weight: by what it is divided, and by what the rounded is multiplied."""

    absmax: Tensor  # (blocks,) fp32
    restored: Tensor  # (blocks,) fp32; differs from `absmax` by double quantisation
    on_card: bool = False  # a CUDA kernel rounds a block of zeros to -1 (0 x 1/0 is NaN), a CPU to 0


def absmax_of(flat: Tensor) -> Tensor:
    """The largest magnitude of each block of `flat`, fp32 of any length; the last block may be shorter."""
    whole = flat.numel() // BLOCK * BLOCK
    absmax = flat[:whole].view(-1, BLOCK).abs().amax(1)
    if whole < flat.numel():
        absmax = torch.cat((absmax, flat[whole:].abs().amax().clamp(min=1e-38).view(1)))
    return absmax


def scales_of(weight: TensorOnDisk, dtype: torch.dtype, double_quantisation: bool, held: Held) -> Scales:
    """Of `weight` held in `dtype`; reads it once.

    Raises:
        UserError: the codes written down are of a weight of another size.
    """
    pieces = (weight.rows(first, last).to(dtype).float() for first, last in weight.row_slices())
    absmax = torch.cat([absmax_of(piece.view(-1)) for piece in pieces])
    if not double_quantisation:
        return Scales(absmax, absmax, held.on_card)
    if held.codes is None or held.mean is None:
        return Scales(absmax, restored(absmax, held.mean, held.on_card), held.on_card)
    shapes = (held.codes.shape, held.nested.shape, held.code.shape)
    are_right = shapes == ((absmax.numel(),), (-(-absmax.numel() // SCALE_BLOCK),), (SCALE_BLOCK,))
    if are_right and (held.codes.dtype, held.nested.dtype, held.code.dtype) == (torch.uint8, *[torch.float32] * 2):
        scales = from_codes(held.codes, held.nested, held.mean, held.code)
        steps = held.nested.abs().repeat_interleave(SCALE_BLOCK)[: len(scales)] * LARGEST_STEP
        if bool(((scales - absmax).abs() <= steps + 1e-3 * absmax).all()):
            return Scales(absmax, scales, held.on_card)
    found = f"The scales in the adapter's nf4_scales.safetensors are not those of this weight of {weight.shape}."
    raise UserError("merge-nf4-scales-wrong", found, "Copy the adapter's folder again, or set base=DIR to its base.")


def restored(absmax: Tensor, mean: float | None = None, on_card: bool = False) -> Tensor:
    """`absmax` after its own quantisation to 8 bits, by the rule of the device."""
    from bitsandbytes import functional

    offset = absmax.mean().item() if mean is None else mean
    if on_card:
        return from_codes(*_nearest_codes(absmax - offset), offset, _code())
    codes, nested = functional.quantize_blockwise(absmax - offset, blocksize=SCALE_BLOCK)
    return from_codes(codes, nested.absmax, offset, nested.code)


def from_codes(codes: Tensor, nested: Tensor, mean: float, code: Tensor) -> Tensor:
    """The scales that 8-bit `codes`, with a scale of their own for 256 each, stand for; fp32."""
    scales = code[codes.int()].mul_(nested.repeat_interleave(SCALE_BLOCK)[: len(codes)])
    return scales.add_(torch.tensor(mean, dtype=torch.float32))


def _nearest_codes(values: Tensor) -> tuple[Tensor, Tensor]:
    """(codes, nested) as bitsandbytes' CUDA kernel `dQuantize` rounds: to the nearest code, of two to the even one."""
    blocks = torch.nn.functional.pad(values, (0, -len(values) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    nested = blocks.abs().amax(1)
    bounds = (_code()[:-1] + _code()[1:]) * 0.5
    bounds[1::2] = torch.nextafter(bounds[1::2], bounds[1::2] - 1)  # what lies on such a bound belongs above it
    scaled = torch.nan_to_num(blocks * (1.0 / nested)[:, None], nan=-1.0)  # a block of zeros has any code
    return torch.bucketize(scaled, bounds, out_int32=True).view(-1)[: len(values)], nested


@cache
def _code() -> Tensor:
    from bitsandbytes import functional

    return functional.create_dynamic_map()


def round_(flat: Tensor, scales: Scales, first_block: int = 0) -> Tensor:
    """Rounds `flat`, fp32 of whole blocks but perhaps the last, in place; the weight's blocks from `first_block` on."""
    for first in range(0, flat.numel(), PIECE):
        piece = flat[first : first + PIECE]
        block = first_block + first // BLOCK
        blocks = slice(block, block + -(-piece.numel() // BLOCK))
        _round_piece(piece, scales.absmax[blocks], scales.restored[blocks], scales.on_card)
    return flat


def _round_piece(flat: Tensor, absmax: Tensor, restored: Tensor, on_card: bool) -> None:
    whole = flat.numel() // BLOCK
    blocks, rest = flat[: whole * BLOCK].view(-1, BLOCK), flat[whole * BLOCK :]
    blocks.mul_((1.0 / absmax[:whole].clamp(min=1e-38)).view(-1, 1))
    if rest.numel():
        rest.mul_(1.0 / absmax[whole]) if on_card else rest.div_(absmax[whole])
    flat.clamp_(-1, 1)
    bins = _bins(flat)
    values = torch.where(flat > UP_TO.index_select(0, bins), HIGH.index_select(0, bins), LOW.index_select(0, bins))
    if on_card:
        values[: whole * BLOCK].view(-1, BLOCK)[absmax[:whole] == 0] = VALUES[0]
    torch.mul(values[: whole * BLOCK].view(-1, BLOCK), restored[:whole].view(-1, 1), out=blocks)
    if rest.numel():
        torch.mul(values[whole * BLOCK :], restored[whole], out=rest)
