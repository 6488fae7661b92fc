"""One slice of rows of one tensor of the result.

    W' = cast(fp32(W) + s * fp32(B) fp32(A)),   s = alpha / rank, or alpha / sqrt(rank) for rsLoRA

and for DoRA, with magnitude m and the norm taken row by row, W' = cast(m / |W + s B A| * (W + s B A)). On embeddings
the update is transposed and rounded before it is added, W' = cast(W + cast(s (B A)^T)). Several adapters are merged in
turn, each cast before the next, as PEFT does.

That is for a cast to the nearest. Where it is stochastic (`stochastic.py`), all is added in fp32 and cast once, at the
end: the mean of the result is the sum that PEFT has on the base in fp32.

Letters: O output features (rows of W), I input features, R rank. W_OI, A_RI, B_OR, m_O.

Source of the numbers: peft 0.21, tuners/lora/layer.py `Linear.merge`, `Embedding.merge`, and tuners/lora/variants.py
`DoraLinearVariant`. Slices of 64 rows have the bits of the whole product, see `weights.slices`.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nsllm_lite.errors import RunError, UserError
from nsllm_lite.formats.weights import TensorOnDisk, dtypes, not_finite
from nsllm_lite.merge import nf4, stochastic
from nsllm_lite.merge.plan import Lora, PlannedTensor, Rounding, TokenRows

NF4_ROWS = 64  # of a sampled slice


class Figures(NamedTuple):
    """Measurements of a merged slice; all but the first are sums over its entries."""

    max_abs_delta: float = 0.0
    num_entries: int = 0
    num_absorbed: int = 0  # entries of W' that equal those of W: the change was below half an ulp
    energy: float = 0.0  # |D|^2 of the exact update D
    kept: float = 0.0  # <W' - W, D>: over the energy, the share of D that is in W'
    nf4_energy: float = 0.0  # as `energy`, of the rows measured in NF4
    nf4_kept: float = 0.0  # <NF4(W') - NF4(W), D>

    def plus(self, other: "Figures") -> "Figures":
        return Figures(max(self[0], other[0]), *(a + b for a, b in zip(self[1:], other[1:], strict=True)))


class Operands(NamedTuple):
    """What all slices of one tensor share: A whole, the scales of NF4."""

    A: tuple[Tensor | None, ...]  # of each update
    scales: nf4.Scales | None
    held_in: torch.dtype  # what was rounded to NF4


class Buffers:
    """The memory of one slice at work, used again by later ones: fresh pages cost more than the arithmetic on them."""

    def __init__(self, num_entries: int, num_bytes: int):
        self.read = bytearray(num_bytes)
        self.written = torch.empty(num_bytes, dtype=torch.uint8)
        self.W, self.total, self.delta = (torch.empty(num_entries, dtype=torch.float32) for _ in range(3))
        self.same = np.empty(num_entries, bool)


def prepare(name: str, planned: PlannedTensor, rounding: Rounding) -> Operands:
    A = tuple(update.A.rows().float() if isinstance(update, Lora) else None for update in planned.updates)
    held_in = dtypes().get(rounding.dtype or planned.source.dtype, torch.float32)
    scales = nf4.scales_of(planned.source, held_in, rounding.double, rounding.held(name)) if planned.rounded else None
    return Operands(A, scales, held_in)


def merge_rows(
    name: str, planned: PlannedTensor, operands: Operands, first: int, last: int, slot: Buffers, sampled: bool
) -> tuple[memoryview, Figures]:
    """The bytes of rows first..last, which lie in `slot`, and their figures. Raises UserError if one is not finite."""
    shape = (last - first, *planned.source.shape[1:])
    count, dtype = math.prod(shape), dtypes()[planned.dtype]
    first_entry = first * math.prod(shape[1:])
    added_in = dtype if planned.key is None else torch.float32
    source = planned.source.rows_into(slot.read, first, last)
    written = slot.written[: count * dtype.itemsize]
    out = written.view(dtype).view(shape)
    W, total, delta = (of[:count].view(shape) for of in (slot.W, slot.total, slot.delta))
    W.copy_(source)
    if operands.scales:  # what bitsandbytes gave the forward pass
        W.copy_(source.to(operands.held_in))
        nf4.round_(slot.W[:count], operands.scales, first_entry // nf4.BLOCK)
        W.copy_(W.to(operands.held_in))
    if dtype != source.dtype and planned.key is None:  # as if the base had been loaded so
        W.copy_(out.copy_(W))
    if not planned.updates:
        out.copy_(W)
        largest = require_finite(name, planned, out)
        if planned.key is not None:
            stochastic.round_(W, out, largest, planned.key, first_entry)
        return written.numpy().data, Figures()
    before = W
    for number, (update, A) in enumerate(zip(planned.updates, operands.A, strict=True)):
        step = torch.empty_like(delta) if number else delta
        add_update(total, before, step, update, A, first, last, added_in)
        out.copy_(total)
        if number:
            delta.add_(step)
        if number + 1 < len(planned.updates):
            before = out.float() if planned.key is None else total
    largest = require_finite(name, planned, out)
    if planned.key is not None:
        is_exact = dtype == source.dtype and not planned.rounded  # and so are sums without an update
        nearest = None if is_exact else out.clone()
        stochastic.round_(total, out, largest, planned.key, first_entry)
        if nearest is not None:
            out.copy_(torch.where(delta == 0, nearest, out))
        if dtype != source.dtype:
            W.copy_(W.to(dtype))
    return written.numpy().data, measure(W, delta, out, largest, total, slot.same[:count], sampled)


def add_update(
    total: Tensor,
    before: Tensor,
    step: Tensor,
    update: Lora | TokenRows,
    A: Tensor | None,
    first: int,
    last: int,
    dtype: torch.dtype,
) -> None:
    """`total` becomes `before` plus rows first..last of the update, `step` what was added."""
    match update:
        case Lora(on_embedding=True):
            step.copy_((update.B.rows().float() @ A[:, first:last]).T).mul_(update.scale)
            torch.add(before, step.to(dtype), out=total)
        case Lora():
            torch.mm(update.B.rows(first, last).float(), A, out=step)
            if update.scale != 1:
                step.mul_(update.scale)
            torch.add(before, step, out=total)
            if update.magnitude:
                m_O = update.magnitude.rows(first, last).float()
                total.mul_((m_O / torch.linalg.norm(total, dim=1)).view(-1, 1))
                torch.sub(total, before, out=step)
        case TokenRows():
            total.copy_(before)
            step.zero_()
            mine = [(index - first, place) for place, index in enumerate(update.indices) if first <= index < last]
            if mine:
                rows, places = map(list, zip(*mine, strict=True))
                total[rows] = update.values.rows()[places].float()
                step[rows] = total[rows] - before[rows]


def require_finite(name: str, planned: PlannedTensor, out: Tensor) -> float:
    """The largest magnitude in `out`; NaN propagates. Raises UserError where it is not finite."""
    largest = max(abs(bound.item()) for bound in torch.aminmax(out))
    if not math.isfinite(largest):
        found = f"{name} is not finite once merged into {planned.dtype}."
        todo = "check the adapter's held-out loss, or use a bf16 base in place of an fp16 one."
        raise UserError("merge-not-finite", found, "The base or the update is out of that range:", todo)
    return largest


def measure(
    W: Tensor, delta: Tensor, out: Tensor, largest: float, scratch: Tensor, same: np.ndarray, sampled: bool
) -> Figures:
    """Figures of one slice; `scratch` is overwritten. The costlier checks are made where the slice is `sampled`. Raises
    RunError where the change that is written is not the update but for the rounding of its dtype."""
    flat = delta.view(-1)
    changed = scratch.copy_(out).sub_(W).view(-1)
    num_absorbed = int(np.count_nonzero(np.equal(changed.numpy(), 0, out=same)))
    energy, kept = torch.dot(flat, flat).item(), torch.dot(changed, flat).item()
    low, high = torch.aminmax(flat)
    figures = Figures(max(-low.item(), high.item()), flat.numel(), num_absorbed, energy, kept)
    if not sampled:
        return figures
    error = max(abs(bound.item()) for bound in torch.aminmax(changed.sub_(flat)))
    if not error <= largest * torch.finfo(out.dtype).eps * 2:
        found = f"A slice differs from W + s B A by {error:.3g}, more than rounding does."
        raise RunError("merge-slice-wrong", found, "Run the merge again.")
    rounded = [weight[:NF4_ROWS].to(torch.float32, copy=True).view(-1) for weight in (W, out)]
    for weight in rounded:
        absmax = nf4.absmax_of(weight)
        nf4.round_(weight, nf4.Scales(absmax, absmax))
    part = flat[: rounded[0].numel()]
    nf4_energy, nf4_kept = (torch.dot(of, part).item() for of in (part, rounded[1].sub_(rounded[0])))
    return figures._replace(nf4_energy=nf4_energy, nf4_kept=nf4_kept)


EXPONENTS = {"BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F32": (np.uint32, 0x7F800000)}


def copy_bytes(name: str, stored: TensorOnDisk, first: int, last: int, slot: Buffers) -> tuple[memoryview, Figures]:
    """Bytes first..last as they are. Raises UserError where exponent bits are those of infinity or NaN."""
    data = stored.read_into(slot.read, first, last)
    if stored.dtype in EXPONENTS and data:
        kind, mask = EXPONENTS[stored.dtype]
        bits = np.frombuffer(data, kind)
        masked = np.bitwise_and(bits, kind(mask), out=slot.written.numpy()[: len(data)].view(kind))
        if masked.max() == mask:
            raise not_finite(name, stored.file)
    return data, Figures()
