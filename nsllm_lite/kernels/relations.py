"""The divergence of self-attention relations: how the tokens of a document are to each other, in two encoders.

Source: Wang et al., MiniLMv2, arXiv 2012.15828, equations 3 to 6.
Letters: T tokens of all documents, H and J hidden sizes of teacher and student, R relations (queries, keys, values), A
relation heads, L tokens of one document.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from nsllm_lite.kernels.varlen_attention import Layout


def relation_log_shares(x_LRH: Tensor, num_heads: int) -> Tensor:
    """(R, A, L, L) fp32: the logarithm of softmax(x x' / sqrt(H / A)) within each relation and head."""
    x_RALD = x_LRH.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3)
    scores_RALL = x_RALD @ x_RALD.transpose(2, 3) * x_RALD.shape[3] ** -0.5
    return functional.log_softmax(scores_RALL.float(), dim=3)


def relation_divergences(teacher_TRH: Tensor, student_TRJ: Tensor, layout: Layout, num_heads: int) -> Iterator[Tensor]:
    """Of each document KL(teacher || student), summed over its tokens, as a mean over relations and heads; a document's
    L x L shares are freed when the next is asked for, unless a gradient still needs them."""
    lengths = [stop - start for start, stop in pairwise(layout.bounds)]
    for teacher, student in zip(teacher_TRH.split(lengths), student_TRJ.split(lengths), strict=True):
        wanted, found = (relation_log_shares(x, num_heads) for x in (teacher, student))
        of_all = wanted.shape[0] * num_heads
        yield functional.kl_div(found, wanted, log_target=True, reduction="sum") / of_all


def uniform_divergences(teacher_TRH: Tensor, layout: Layout, num_heads: int) -> Iterator[Tensor]:
    """The same of a student to which all tokens are alike."""
    lengths = [stop - start for start, stop in pairwise(layout.bounds)]
    for teacher in teacher_TRH.split(lengths):
        wanted = relation_log_shares(teacher, num_heads)
        told = (wanted.exp() * wanted).sum() / (wanted.shape[0] * num_heads)
        yield told + len(teacher) * torch.log(torch.tensor(float(len(teacher))))


def add_relation_gradients(
    teacher_TRH: Tensor, student_TRJ: Tensor, layout: Layout, num_heads: int, scale: float
) -> Tensor:
    """Backward of the sum of `relation_divergences` times `scale`; returns that. The shares of one document at a time
    are held: their gradients are gathered at `student_TRJ`, from where one pass goes on."""
    leaf = student_TRJ.detach().requires_grad_()
    total = torch.zeros((), device=leaf.device)
    for divergence in relation_divergences(teacher_TRH, leaf, layout, num_heads):
        loss = divergence * scale
        loss.backward()
        total += loss.detach()
    student_TRJ.backward(leaf.grad)
    return total
