"""Stochastic rounding: a sum in fp32 becomes one of its two neighbours in bf16 or fp16, the nearer the likelier.

With probability p = (x - below) / (above - below) x becomes `above`, else `below`, so that the mean over seeds is x.
Rounding to the nearest always loses an update below half the distance of the neighbours. This keeps it on average, at
the price of noise: its squared error is p (1 - p) distances squared, that of the nearest min(p, 1 - p)^2.

What x becomes follows from the seed, the tensor's name and the entry's place alone (Philox, counted by entries): not
from slices, shards, threads, or where a killed merge went on. What the dtype holds exactly stays as it is.

Source: Gupta et al., Deep Learning with Limited Numerical Precision, arXiv:1502.02551; Salmon et al., Parallel Random
Numbers: As Easy as 1, 2, 3 (SC 2011), as numpy.random.Philox.
"""

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nsllm_lite.errors import UserError
from nsllm_lite.merge.plan import Plan
from nsllm_lite.recipe.merge import Merge

BITS = 16  # drawn for an entry; 16 of fp32 are cut in bf16, 13 in fp16, so that probabilities are exact
BLOCK = 16  # entries of one count of Philox: 4 words of 64 bits
EXPONENT, EXPONENT_BITS = np.uint32(0x7F800000), 23
HALF_LEAST, HALF_DIGITS = 113, 10  # fp16: fp32's exponent of the least normal number, bits of the fraction


def keyed(plan: Plan, recipe: Merge) -> Plan:
    """`plan` with the key of each tensor whose sums the recipe has rounded stochastically.

    Raises:
        UserError: there is none, since all that the adapter changes is written in fp32.
    """
    if recipe.rounding != "stochastic":
        return plan
    keys = {
        name: key_of(recipe.rounding_seed or 0, name)
        for name, planned in plan.tensors.items()
        if (planned.updates or planned.replaced) and planned.dtype in ("BF16", "F16")
    }
    if not keys:
        found = "rounding is stochastic, but all that the adapter changes is written in fp32, which needs no rounding."
        raise UserError("merge-rounds-nothing", found, "Leave --rounding out, or write 16 bits: --dtype bfloat16.")
    return replace(plan, tensors={n: replace(planned, key=keys.get(n)) for n, planned in plan.tensors.items()})


def key_of(seed: int, name: str) -> int:
    """128 bits, those of no other tensor or seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16], "little")


def drawn(key: int, first: int, count: int) -> np.ndarray:
    """(count,) uint16, evenly distributed: those of the entries from `first` on, counted through the whole tensor."""
    skip = first % BLOCK
    words = np.random.Philox(key=key, counter=first // BLOCK).random_raw(-(-(skip + count) * BITS // 64))
    return words.astype("<u8", copy=False).view("<u2")[skip : skip + count]


def round_(total: Tensor, out: Tensor, largest: float, key: int, first: int) -> None:
    """Rounds `total`, finite fp32 that is overwritten, into `out`, bf16 or fp16 of its shape, which holds the nearest;
    `largest` is the largest magnitude there. No finite value becomes infinite: the last one stays."""
    values, draws = total.view(-1).numpy(), drawn(key, first, total.numel())
    if out.dtype == torch.bfloat16:  # fp32 cut to its upper half: a carry goes to the neighbour further from zero
        bits = values.view(np.uint32)
        bits += draws
        np.right_shift(bits, BITS, out=out.view(torch.int16).view(-1).numpy().view(np.uint16), casting="unsafe")
    else:
        exponents = np.maximum(values.view(np.uint32) & EXPONENT, HALF_LEAST << EXPONENT_BITS)
        distance = (exponents - np.uint32(HALF_DIGITS << EXPONENT_BITS)).view(np.float32)
        scaled = np.abs(values) / distance
        below = np.floor(scaled)
        below += (scaled - below) * 2**BITS > draws + np.float32(0.5)
        out.copy_(torch.from_numpy(np.copysign(below * distance, values)).view(out.shape))
    if largest == (limit := torch.finfo(out.dtype).max):
        out.clamp_(-limit, limit)


def beyond(rounded: Tensor, sums: Tensor) -> Tensor:
    """By how much each of `rounded` is too far from the fp32 sum to be its neighbour: negative where it is one."""
    values = rounded.float()
    towards = torch.where(sums > values, torch.inf, -torch.inf).to(rounded.dtype)
    return (sums - values).abs_() - (torch.nextafter(rounded, towards).float() - values).abs_()
