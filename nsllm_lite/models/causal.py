"""The one forward over packed rows.

Every loss in this project goes through `PackedLM`, because a packed forward is silently wrong in two easy ways: with
a cache or with an attention mask, transformers lets documents see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels.linear_cross_entropy import IGNORE, linear_cross_entropy, token_losses
from nsllm_lite.kernels.varlen_attention import Layout
from nsllm_lite.models.architectures import logits_of, require_accepted

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows laid end to end: T tokens of several documents."""

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64, from 0 in each document
    targets: Tensor  # (T,) int64: the next token of the same document, or IGNORE at its last
    layout: Layout
    doc_ids: list[str]
    doc_sources: list[str]
    doc_bytes: list[int]

    @property
    def num_targets(self) -> int:
        return len(self.input_ids) - len(self.doc_ids)

    def to(self, device: str) -> "Batch":
        """The same on `device`; what is pinned is copied without waiting for it."""
        if device == "cpu":
            return self
        names = ("input_ids", "position_ids", "targets")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        bounds = self.layout.bounds_tensor.to(device, non_blocking=True)
        return replace(self, **moved, layout=replace(self.layout, bounds_tensor=bounds))


def autocast(device: str, compute_dtype: str) -> torch.autocast:
    """The context of every forward: products in `compute_dtype`."""
    return torch.autocast(device, dtype=getattr(torch, compute_dtype), enabled=compute_dtype != "float32")


def collate(rows: Sequence[Row], device: str) -> Batch:
    """`lay_out` on `device`."""
    return lay_out(rows, pinned=device == "cuda").to(device)


def lay_out(rows: Sequence[Row], pinned: bool) -> Batch:
    """Joins rows without padding, in host memory. A document never continues from one row into the next."""
    lengths = np.concatenate([np.asarray(row.doc_lengths, dtype=np.int64) for row in rows])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    input_ids = np.concatenate([row.input_ids for row in rows]).astype(np.int64)
    targets = np.append(input_ids[1:], IGNORE)
    targets[bounds[1:] - 1] = IGNORE
    position_ids = np.arange(len(input_ids)) - np.repeat(bounds[:-1], lengths)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).pin_memory() if pinned else torch.from_numpy(array)

    return Batch(
        input_ids=tensor(input_ids),
        position_ids=tensor(position_ids),
        targets=tensor(targets),
        layout=Layout(tuple(bounds.tolist()), tensor(bounds.astype(np.int32))),
        doc_ids=[name for row in rows for name in row.doc_ids],
        doc_sources=[name for row in rows for name in row.doc_sources],
        doc_bytes=[count for row in rows for count in row.doc_bytes],
    )


class PackedLM(nn.Module):
    """A causal language model over packed batches. `forward` returns the loss in nats, summed over the target tokens.

    `head` computes that loss (see `linear_cross_entropy`). Raises UserError for a model that is not in `ACCEPTED`.
    """

    def __init__(self, model: "PreTrainedModel | PeftModel", head: Literal["liger", "chunked"] | None = None):
        super().__init__()
        self.model = model
        self.head = head
        require_accepted(self.causal_lm.config.to_dict())
        self.logits_form = logits_of(self.causal_lm.config)

    @property
    def causal_lm(self) -> "PreTrainedModel":
        """Without PEFT's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states after the last norm, (T, H)."""
        return self.causal_lm.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            attention_mask=None,
            use_cache=False,
            layout=batch.layout,
        ).last_hidden_state.squeeze(0)

    @property
    def head_VH(self) -> Tensor:  # noqa: N802
        return self.model.get_output_embeddings().weight

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over `batch.num_targets` tokens, fp32."""
        hidden = self.hidden(batch)
        return linear_cross_entropy(hidden, self.head_VH, batch.targets, self.head, logits=self.logits_form)

    def losses(self, batch: Batch) -> Tensor:
        """Loss of each token, (T,), 0 at the last of each document; no gradient."""
        with torch.no_grad():
            return token_losses(self.hidden(batch), self.head_VH, batch.targets, self.logits_form)

    def logits(self, batch: Batch) -> Tensor:
        """All logits, (T, V); for small checks only."""
        with torch.no_grad():
            return self.logits_form.of(self.hidden(batch) @ self.head_VH.T)
