"""Attention over documents laid end to end; none sees another.

Letters: T tokens of all documents, H query heads, K key/value heads (H is a multiple of K), D head size.
"""

import inspect
from dataclasses import dataclass
from functools import cache
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

    On CUDA with 16-bit inputs `torch.nn.attention.varlen.varlen_attn`; elsewhere scaled-dot-product attention a
    document at a time.
    """
    if q_THD.is_cuda and q_THD.dtype in (torch.bfloat16, torch.float16):
        return _varlen_attn(causal, q_THD.shape[1] != k_TKD.shape[1])(
            q_THD, k_TKD, v_TKD, layout.bounds_tensor, layout.bounds_tensor, layout.longest, layout.longest, scale=scale
        )
    return varlen_attention_reference(q_THD, k_TKD, v_TKD, layout, scale, causal)


def varlen_attention_reference(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float, causal: bool
) -> Tensor:
    q, k, v = (x.transpose(0, 1) for x in (q_THD, k_TKD, v_TKD))
    grouped = q.shape[0] != k.shape[0]
    documents = [
        functional.scaled_dot_product_attention(
            q[None, :, start:stop],
            k[None, :, start:stop],
            v[None, :, start:stop],
            is_causal=causal,
            scale=scale,
            enable_gqa=grouped,
        )[0]
        for start, stop in pairwise(layout.bounds)
    ]
    return torch.cat(documents, dim=1).transpose(0, 1)


@cache
def _varlen_attn(causal: bool, grouped: bool):
    """`varlen_attn` with this torch version's words for "causal" and "grouped heads".

    torch 2.10 knows `is_causal`; later versions `window_size` ((-1, 0) is causal) and `enable_gqa`. Before
    `enable_gqa` the kernel took grouped heads as they are.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict = {}
    if "window_size" in known:
        options["window_size"] = (-1, 0) if causal else (-1, -1)
    else:
        options["is_causal"] = causal
    if grouped and "enable_gqa" in known:
        options["enable_gqa"] = True

    def attend(*args, **kwargs) -> Tensor:
        return varlen_attn(*args, **kwargs, **options)

    return attend
