"""Attention over documents laid end to end; none sees another.

Letters: T tokens of all documents, H query heads, K key/value heads (H is a multiple of K), D head size.
"""

import inspect
from dataclasses import dataclass
from itertools import pairwise

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


def varlen_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float, causal: bool) -> Tensor:
    """Softmax attention within each document, (T, H, D).

    On CUDA (Ampere or newer) with 16-bit inputs `torch.nn.attention.varlen.varlen_attn`, on other cards torch's
    memory-efficient kernel a document at a time; on the CPU what `scaled_dot_product_attention` takes.
    """
    if not q_THD.is_cuda:
        return varlen_attention_reference(q_THD, k_TKD, v_TKD, layout, scale, causal)
    is_fast = q_THD.dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability() >= (8, 0)
    return (fused if is_fast else memory_efficient)(q_THD, k_TKD, v_TKD, layout, scale, causal)


def memory_efficient(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float, causal: bool) -> Tensor:
    """With the keys and values of grouped heads repeated: with `enable_gqa` torch takes its plain implementation on
    these cards, which keeps all probabilities (4 bytes x heads x length^2). Any other kernel is an error here."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    k_THD, v_THD = (x.repeat_interleave(q_THD.shape[1] // x.shape[1], dim=1) for x in (k_TKD, v_TKD))
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        return varlen_attention_reference(q_THD, k_THD, v_THD, layout, scale, causal)


def varlen_attention_reference(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float, causal: bool
) -> Tensor:
    q, k, v = (x.transpose(0, 1) for x in (q_THD, k_TKD, v_TKD))
    options = {"is_causal": causal, "scale": scale, "enable_gqa": q.shape[0] != k.shape[0]}
    documents = [
        functional.scaled_dot_product_attention(*(x[None, :, start:stop] for x in (q, k, v)), **options)[0]
        for start, stop in pairwise(layout.bounds)
    ]
    return torch.cat(documents, dim=1).transpose(0, 1)


def fused(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float, causal: bool) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` in this torch version's words.

    torch 2.10 knows `is_causal` and always scales by 1/sqrt(D); 2.11 knows `scale` and `window_size` ((-1, 0) is
    causal); 2.12 and later also `enable_gqa`, before which the kernel took grouped heads as they are.
    """
    from torch.nn.attention import varlen

    known = inspect.signature(varlen.varlen_attn).parameters
    options: dict = {"is_causal": causal}
    if "window_size" in known:
        options = {"window_size": (-1, 0) if causal else (-1, -1)}
    if "scale" in known:
        options["scale"] = scale
    else:
        q_THD = q_THD * (scale * q_THD.shape[-1] ** 0.5)
    if q_THD.shape[1] != k_TKD.shape[1] and "enable_gqa" in known:
        options["enable_gqa"] = True
    bounds, longest = layout.bounds_tensor, layout.longest
    return varlen.varlen_attn(q_THD, k_TKD, v_TKD, bounds, bounds, longest, longest, **options)
