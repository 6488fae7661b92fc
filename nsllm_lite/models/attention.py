"""Attention within documents, registered as attention implementations of transformers: of decoders and of encoders."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nsllm_lite.kernels.varlen_attention import Attending, Layout, varlen_attention
from nsllm_lite.models.architectures import unpacked_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION, OF_ENCODERS = "nsllm_packed", "nsllm_packed_encoder"


@contextmanager
def unpacked(model: "PreTrainedModel") -> Iterator[None]:
    """Inside, `model` (without PEFT's wrapper) attends as transformers does, for `generate`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(unpacked_attention(model.config))
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def register_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, partial(_attention, causal=True))
    AttentionInterface.register(OF_ENCODERS, partial(_attention, causal=False))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    causal: bool,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Called by transformers; q, k, v are (1, heads, T, D); `layout` comes from `PackedLM` or `PackedEncoder`, absent
    in `generate`. A window counts the token itself and those before it, or those on one side of it."""
    layout: Layout | None = kwargs.get("layout")
    window, softcap = kwargs.get("sliding_window"), kwargs.get("softcap")
    assert causal or (layout is not None and not kwargs.get("dropout")), "an encoder goes through `PackedEncoder`"
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        assert window is softcap is None, "without a layout this would be lost: use `unpacked`"
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)
    assert attention_mask is None, "a packed forward must not get an attention mask"
    how = Attending(scaling, causal, window, softcap)
    # Rotation widens q and k where embeddings are trained in fp32; v has the dtype of the products
    out_THD = varlen_attention(
        *(x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value)), layout=layout, how=how
    )
    return out_THD[None], None
