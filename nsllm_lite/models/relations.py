"""Queries, keys and values of an encoder's last layer, over packed rows: what self-attention relations are made of."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nsllm_lite.models.causal import Batch
from nsllm_lite.models.encoder import PackedEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Projections(nn.Module):
    """In the place of an encoder's last layer: takes its queries, keys and values, as its matrices give them (before a
    rotation), and hands the hidden states on. What of the layer stands behind them is not computed."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.taken = layer, torch.empty(0)
        self.attention_type = getattr(layer, "attention_type", None)  # by which ModernBERT chooses a mask

    def forward(self, hidden: Tensor, *_: object, **__: object) -> Tensor:
        if hasattr(self.layer, "attn"):  # ModernBERT
            self.taken = self.layer.attn.Wqkv(self.layer.attn_norm(hidden)).unflatten(-1, (3, -1))
        else:
            own = self.layer.attention.self
            self.taken = torch.stack([project(hidden) for project in (own.query, own.key, own.value)], dim=-2)
        return hidden

    def reached(self) -> set[str]:
        """Names of the layer's parameters that are used."""
        used = ("attn.Wqkv", "attn_norm") if hasattr(self.layer, "attn") else tuple(
            f"attention.self.{name}." for name in ("query", "key", "value")
        )  # fmt: skip
        return {name for name, _ in self.layer.named_parameters() if name.startswith(used)}


class RelationEncoder(nn.Module):
    """The body of an encoder up to the projections of its last layer.

    Of that layer the rest has no part in relations: it is neither computed nor trained, as in MiniLMv2.
    """

    def __init__(self, body: "PreTrainedModel"):
        """`body` has no head (`encoder.load_body`)."""
        super().__init__()
        self.encoder = PackedEncoder(body)
        layers = self._layers()
        layers[-1] = self.last = Projections(layers[-1])
        reached = self.last.reached()
        for name, parameter in self.last.layer.named_parameters():
            parameter.requires_grad = name in reached
        if hasattr(body, "final_norm"):
            body.final_norm.requires_grad_(False)

    def _layers(self) -> nn.ModuleList:
        body = self.encoder.model
        return body.layers if hasattr(body, "layers") else body.encoder.layer

    def forward(self, batch: Batch) -> Tensor:
        """(T, 3, H): queries, keys and values of each token."""
        self.encoder.hidden(batch)
        taken, self.last.taken = self.last.taken.squeeze(0), torch.empty(0)
        return taken

    def whole(self) -> "PreTrainedModel":
        """The body as an ordinary model, its last layer in its place; this one is not used any more."""
        self._layers()[-1] = self.last.layer
        return self.encoder.model
