"""Attention over documents laid end to end; none sees another.

Letters: T tokens of all documents, H query heads, K key/value heads (H is a multiple of K), D head size.
"""

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each document begins and ends among the T tokens."""

    bounds: tuple[int, ...]  # 0, end of document 1, ..., T
    bounds_tensor: Tensor  # the same, int32 on the tokens' device

    @property
    def longest(self) -> int:
        return max(stop - start for start, stop in pairwise(self.bounds))


class Attending(NamedTuple):
    """How a token attends within its document: of the tokens up to itself to the last `window`, or to all; with scores
    capped to softcap x tanh(score / softcap), or as they are."""

    scale: float
    causal: bool = True
    window: int | None = None
    softcap: float | None = None


def varlen_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, how: Attending) -> Tensor:
    """Softmax attention within each document, (T, H, D).

    On CUDA (Ampere or newer) with 16-bit inputs `torch.nn.attention.varlen.varlen_attn`, on other cards torch's
    memory-efficient kernel a document at a time; on the CPU what `scaled_dot_product_attention` takes. Capped scores
    are computed plainly, a document at a time.
    """
    how = how._replace(window=None) if how.window and how.window >= layout.longest else how
    if how.softcap is not None or not q_THD.is_cuda:
        return varlen_attention_reference(q_THD, k_TKD, v_TKD, layout, how)
    is_fast = q_THD.dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability() >= (8, 0)
    return (fused if is_fast and can_be_fused(how) else memory_efficient)(q_THD, k_TKD, v_TKD, layout, how)


def memory_efficient(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, how: Attending) -> Tensor:
    """With the keys and values of grouped heads repeated: with `enable_gqa` torch takes its plain implementation on
    these cards, which keeps all probabilities (4 bytes x heads x length^2). Any other kernel is an error here."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    k_THD, v_THD = (x.repeat_interleave(q_THD.shape[1] // x.shape[1], dim=1) for x in (k_TKD, v_TKD))
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        return varlen_attention_reference(q_THD, k_THD, v_THD, layout, how)


def varlen_attention_reference(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, how: Attending) -> Tensor:
    lengths = [stop - start for start, stop in pairwise(layout.bounds)]
    # split: the backward of a slice makes a zero tensor of all T tokens for each document
    parts = (x.transpose(0, 1).split(lengths, dim=1) for x in (q_THD, k_TKD, v_TKD))
    attend = _attend if how.softcap is None else _attend_capped
    documents = [attend(q, k, v, how) for q, k, v in zip(*parts, strict=True)]
    return torch.cat(documents, dim=1).transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, how: Attending) -> Tensor:
    """One document, (H, T, D)."""
    options: dict = {"is_causal": how.causal}
    if how.window is not None and how.window < q.shape[1]:
        options = {"attn_mask": _allowed(q.shape[1], how, q.device)}
    options |= {"scale": how.scale, "enable_gqa": q.shape[0] != k.shape[0]}
    return functional.scaled_dot_product_attention(q[None], k[None], v[None], **options)[0]


def _attend_capped(q: Tensor, k: Tensor, v: Tensor, how: Attending) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], dim=0) for x in (k, v))
    scores = torch.tanh(q @ k.transpose(1, 2) * (how.scale / how.softcap)) * how.softcap
    scores = scores.masked_fill(~_allowed(q.shape[1], how, q.device), float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v


def _allowed(length: int, how: Attending, device: torch.device) -> Tensor:
    """(T, T): which tokens each token attends to."""
    back = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    seen = back >= 0 if how.causal else torch.ones_like(back, dtype=torch.bool)
    return seen if how.window is None else seen & (back.abs() < how.window)


def can_be_fused(how: Attending) -> bool:
    """Whether this torch version's `varlen_attn` knows windows, where one is asked for."""
    from torch.nn.attention import varlen

    return how.window is None or "window_size" in inspect.signature(varlen.varlen_attn).parameters


def fused(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, how: Attending) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` in this torch version's words.

    torch 2.10 knows `is_causal` and always scales by 1/sqrt(D); 2.11 knows `scale` and `window_size` ((-1, 0) is
    causal); 2.12 and later also `enable_gqa`, before which the kernel took grouped heads as they are.
    """
    from torch.nn.attention import varlen

    known = inspect.signature(varlen.varlen_attn).parameters
    options: dict = {"is_causal": how.causal}
    if "window_size" in known:
        back = -1 if how.window is None else how.window - 1
        options = {"window_size": (back, 0 if how.causal else back)}
    if "scale" in known:
        options["scale"] = how.scale
    else:
        q_THD = q_THD * (how.scale * q_THD.shape[-1] ** 0.5)
    if q_THD.shape[1] != k_TKD.shape[1] and "enable_gqa" in known:
        options["enable_gqa"] = True
    bounds, longest = layout.bounds_tensor, layout.longest
    return varlen.varlen_attn(q_THD, k_TKD, v_TKD, bounds, bounds, longest, longest, **options)
