"""The one forward of encoders over packed rows: BERT, RoBERTa and ModernBERT with a head for masked tokens.

transformers 5.17 ignores `position_ids` in bidirectional masks, so that documents of a packed row would see each other,
and one mask of four dimensions makes ModernBERT's local layers global. Here attention is `varlen_attention`, which sees
one document at a time, and windows are those of each layer.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nsllm_lite.errors import UserError
from nsllm_lite.kernels.varlen_attention import Attending, Layout, varlen_attention
from nsllm_lite.models.causal import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "nsllm_packed_encoder"
HEADS = {"bert": ("cls",), "roberta": ("lm_head",), "modernbert": ("head", "decoder")}
"""By `model_type` the parts that make logits of hidden states, one after the other."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Called by transformers; q, k, v are (1, heads, T, D). A window of ModernBERT counts the token itself and those on
    one side of it."""
    assert attention_mask is None, "a packed forward must not get an attention mask"
    assert dropout == 0, "set to 0 by PackedEncoder"
    how = Attending(scaling, causal=False, window=sliding_window)
    out_THD = varlen_attention(*(x[0].transpose(0, 1) for x in (query, key, value)), layout=layout, how=how)
    return out_THD[None], None


class PackedEncoder(nn.Module):
    """An encoder with its head for masked tokens, over packed batches.

    Attention's probabilities have no dropout here, as in no kernel for packed rows; `dropout_left_out` is what the
    model's config states of it. Raises UserError for a model of another architecture.
    """

    def __init__(self, model: "PreTrainedModel"):
        from transformers import AttentionInterface

        super().__init__()
        config = model.config
        if config.model_type not in HEADS or getattr(config, "is_decoder", False):
            found = f"The model is of the architecture {config.model_type!r}, or a decoder."
            needed = f"Encoders for masked tokens are {', '.join(HEADS)}."
            raise UserError("encoder-architecture-unknown", found, needed)
        AttentionInterface.register(ATTENTION, _attention)
        model.set_attn_implementation(ATTENTION)
        self.model, self.kind = model, config.model_type
        self.dropout_left_out = _without_dropout(model)
        self.first_position = config.pad_token_id + 1 if self.kind == "roberta" else 0

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states of the last layer, (T, H)."""
        return self.model.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None] + self.first_position,
            attention_mask=None,
            layout=batch.layout,
        ).last_hidden_state.squeeze(0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states (N, H) those of the vocabulary, (N, V)."""
        for name in HEADS[self.kind]:
            hidden = self.model.get_submodule(name)(hidden)
        return hidden


def _without_dropout(model: "PreTrainedModel") -> float:
    """Sets the dropout of attention's probabilities to 0; returns what it was."""
    before = 0.0
    for module in model.modules():
        if isinstance(probability := getattr(module, "attention_dropout", None), float):  # ModernBERT
            module.attention_dropout, before = 0.0, max(before, probability)
        elif type(module).__name__ in ("BertSelfAttention", "RobertaSelfAttention"):
            before = max(before, module.dropout.p)
            module.dropout.p = 0.0
    return before
