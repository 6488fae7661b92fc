"""The divergence of self-attention relations: how the tokens of a document are to each other, in two encoders.

Source: Wang et al., MiniLMv2, arXiv 2012.15828.
Letters: T tokens of all documents, H and J hidden sizes of teacher and student, R relations (queries, keys, values), A
relation heads, L tokens of one document.
"""

import math
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


def divergence(teacher_LRH: Tensor, student_LRJ: Tensor, num_heads: int) -> Tensor:
    """Of one document KL(teacher || student), summed over its tokens, as a mean over relations and heads."""
    wanted, found = (relation_log_shares(x, num_heads) for x in (teacher_LRH, student_LRJ))
    return functional.kl_div(found, wanted, log_target=True, reduction="sum") / (len(wanted) * num_heads)


def relation_divergences(teacher_TRH: Tensor, student_TRJ: Tensor, layout: Layout, num_heads: int) -> Iterator[Tensor]:
    """`divergence` of each document; without gradients its L x L shares are freed when the next is asked for."""
    for teacher, student in zip(documents(teacher_TRH, layout), documents(student_TRJ, layout), strict=True):
        yield divergence(teacher, student, num_heads)


def uniform_divergences(teacher_TRH: Tensor, layout: Layout, num_heads: int) -> Iterator[Tensor]:
    """The same of a student to which all tokens are alike."""
    for teacher in documents(teacher_TRH, layout):
        wanted = relation_log_shares(teacher, num_heads)
        yield (wanted.exp() * wanted).sum() / (len(wanted) * num_heads) + len(teacher) * math.log(len(teacher))


def add_relation_gradients(
    teacher_TRH: Tensor, student_TRJ: Tensor, layout: Layout, num_heads: int, scale: float
) -> Tensor:
    """Backward of the sum of `relation_divergences` times `scale`; returns that. The shares of one document at a time
    are held: the gradients of all are gathered at `student_TRJ`, from where one pass goes on."""
    leaves = [document.detach().requires_grad_() for document in documents(student_TRJ, layout)]
    total = torch.zeros((), device=student_TRJ.device)
    for teacher, student in zip(documents(teacher_TRH, layout), leaves, strict=True):
        loss = divergence(teacher, student, num_heads) * scale
        loss.backward()
        total += loss.detach()
    student_TRJ.backward(torch.cat([leaf.grad for leaf in leaves]))
    return total


def documents(x_TRH: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    return x_TRH.split([stop - start for start, stop in pairwise(layout.bounds)])
