"""Attention within documents, registered as an attention implementation of transformers."""

from typing import Any

from torch import Tensor, nn

from nsllm_lite.kernels.varlen_attention import Layout, varlen_attention

ATTENTION = "nsllm_packed"


def register_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Called by transformers; q, k, v are (1, heads, T, D); `layout` comes from `PackedLM`, absent in `generate`."""
    layout: Layout | None = kwargs.get("layout")
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)
    if attention_mask is not None:
        raise AssertionError("a packed forward must not get an attention mask")
    # Rotation widens q and k where embeddings are trained in fp32; v has the dtype of the products
    out_THD = varlen_attention(
        *(x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value)), layout=layout, scale=scaling, causal=True
    )
    return out_THD[None], None
