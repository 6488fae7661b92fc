"""Cross-entropy of a linear head without ever holding all its logits.

Letters: N tokens, H hidden size, V vocabulary.
loss = -sum_n log softmax(l_n)[target_n], over the n whose target is not IGNORE, of the logits l = `Logits`(hidden W^T).
With V = 151,936 the fp32 logits of one row of 4,096 tokens take 2.5 GB, and their gradient as much again; here a chunk
of tokens at a time is scored and its gradient taken at once, as in Liger-Kernel's fused linear cross-entropy (which is
used on CUDA unless "chunked" is asked for; which is faster is not measured yet: bench/gpu.py --only head).
Source of the idea: https://github.com/linkedin/Liger-Kernel, ops/fused_linear_cross_entropy.py.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

IGNORE = -100
CHUNK_BYTES = 2**25  # of fp32 logits at a time; measured best of 2**22..2**27 on a CPU at V = 151,936
CARD_CHUNK_BYTES = 2**28  # there: each chunk reads the whole head again
LIGER_CHUNK_TOKENS = 1024  # so many or more; by itself Liger takes 128 of 4,096, at V / H = 37


class Logits(NamedTuple):
    """What a model does between its head's product and the softmax: softcap x tanh(scale x product / softcap)."""

    scale: float = 1.0
    softcap: float | None = None

    def of(self, product: Tensor) -> Tensor:
        scaled = product if self.scale == 1 else product * self.scale
        return scaled if self.softcap is None else torch.tanh(scaled / self.softcap) * self.softcap


PLAIN = Logits()


def linear_cross_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    head: Literal["liger", "chunked"] | None = None,
    chunk_tokens: int | None = None,
    logits: Logits = PLAIN,
) -> Tensor:
    """The summed loss, a scalar in fp32; gradients reach `hidden_NH` and, if it asks for them, `weight_VH`.

    `head` None takes Liger's on CUDA and ours elsewhere. `chunk_tokens` is of ours; None: by the size of the logits.
    """
    if head == "liger" or (head is None and hidden_NH.is_cuda):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        scaled_NH = hidden_NH if logits.scale == 1 else hidden_NH * logits.scale
        options = {"ignore_index": IGNORE, "reduction": "sum"} | ({"softcap": logits.softcap} if logits.softcap else {})
        options["chunk_mem_const"] = liger_budget(len(hidden_NH), *weight_VH.shape)
        return liger_fused_linear_cross_entropy(scaled_NH.to(weight_VH.dtype), weight_VH, targets_N, **options)
    chunk_tokens = chunk_tokens or _chunk_tokens(weight_VH)
    return _LinearCrossEntropy.apply(hidden_NH, weight_VH, targets_N, chunk_tokens, logits)


def linear_cross_entropy_reference(
    hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, logits: Logits = PLAIN
) -> Tensor:
    """The same number, with all logits in memory."""
    logits_NV = logits.of((hidden_NH @ weight_VH.T).float())
    return functional.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE, reduction="sum")


def token_losses(hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, logits: Logits = PLAIN) -> Tensor:
    """Loss of each token, (N,) in fp32, 0 where ignored; no gradient (evaluation), chunked likewise."""
    losses = []
    chunk_tokens = _chunk_tokens(weight_VH)
    with torch.no_grad():
        for hidden, targets in zip(hidden_NH.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True):
            product = (hidden.to(weight_VH.dtype) @ weight_VH.T).float()
            losses.append(functional.cross_entropy(logits.of(product), targets, ignore_index=IGNORE, reduction="none"))
    return torch.cat(losses)


def liger_budget(tokens: int, vocab: int, hidden: int) -> int:
    """Liger's `chunk_mem_const`: a chunk's logits take no more than so many times the hidden states of all tokens."""
    chunks = max(1, tokens // LIGER_CHUNK_TOKENS)
    return -(-vocab // (hidden * chunks))


def _chunk_tokens(weight_VH: Tensor) -> int:
    return max(1, (CARD_CHUNK_BYTES if weight_VH.is_cuda else CHUNK_BYTES) // (4 * weight_VH.shape[0]))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, chunk_tokens: int, form: Logits
    ) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden_NH) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        for start in range(0, len(hidden_NH), chunk_tokens):
            stop = start + chunk_tokens
            hidden, targets = hidden_NH[start:stop], targets_N[start:stop]
            kept = targets != IGNORE
            logits = form.of((hidden.to(weight_VH.dtype) @ weight_VH.T).float())
            log_probs = torch.log_softmax(logits, dim=-1)
            index = targets.clamp(min=0)[:, None]
            loss -= (log_probs.gather(1, index)[:, 0] * kept).sum()
            # d loss / d logits = softmax - one-hot, 0 for ignored tokens
            grad_logits = log_probs.exp_()
            grad_logits.scatter_add_(1, index, -torch.ones_like(index, dtype=grad_logits.dtype))
            grad_logits *= kept[:, None]
            if form.softcap is not None:
                grad_logits *= 1 - (logits / form.softcap) ** 2  # the derivative of tanh
            if form.scale != 1:
                grad_logits *= form.scale
            grad_logits = grad_logits.to(weight_VH.dtype)
            if needs_hidden:
                grad_hidden[start:stop] = (grad_logits @ weight_VH).to(hidden_NH.dtype)
            if needs_weight:
                grad_weight += (grad_logits.T @ hidden.to(weight_VH.dtype)).float()
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VH.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        to_hidden = None if grad_hidden is None else grad_hidden * grad_loss
        to_weight = None if grad_weight is None else (grad_weight * grad_loss).to(ctx.weight_dtype)
        return to_hidden, to_weight, None, None, None
