"""Merged weights in a model in memory."""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nsllm_lite.formats.weights import as_floats
from nsllm_lite.merge import nf4
from nsllm_lite.merge.arithmetic import Buffers, merge_rows, prepare
from nsllm_lite.merge.inputs import Base
from nsllm_lite.merge.plan import Plan, PlannedTensor, Rounding
from nsllm_lite.merge.write import slice_entries

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fill(model: "PreTrainedModel", plan: Plan, rounding: Rounding) -> None:
    """Gives `model`, made from the base, the weights that the merge would write."""
    if plan.vocab_rows:
        model.resize_token_embeddings(plan.vocab_rows, mean_resizing=False)
    if plan.untied:
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for name, planned in plan.tensors.items():
        for first, last, rows in _rows(name, planned, rounding):
            parameters[name].data[first:last].copy_(rows)


def _rows(name: str, planned: PlannedTensor, rounding: Rounding) -> Iterator[tuple[int, int, Tensor]]:
    source = planned.source
    if planned.is_copy:
        yield from ((first, last, source.rows(first, last)) for first, last in source.row_slices())
        return
    slot = Buffers(slice_entries(planned), 4 * slice_entries(planned))
    operands = prepare(name, planned, rounding)
    for first, last in source.row_slices():
        data, _ = merge_rows(name, planned, operands, first, last, slot, sampled=False)
        yield first, last, as_floats(data, planned.dtype).view(-1, *source.shape[1:])


def round_to_nf4(model: nn.Module, names: Iterable[str], dtype: torch.dtype, double: bool, on_card: bool) -> None:
    """Rounds the named weights in place, as NF4 training of a model stored in `dtype` would see them."""
    parameters = dict(model.named_parameters())
    for name in names:
        weight = parameters[name].data
        flat = weight.to(dtype).float().cpu().view(-1)
        absmax = nf4.absmax_of(flat)
        scales = nf4.Scales(absmax, nf4.restored(absmax, None, on_card) if double else absmax, on_card)
        weight.copy_(nf4.round_(flat.clone(), scales).view(weight.shape).to(dtype))


def differences(logits: Tensor, reference: Tensor) -> tuple[float, int]:
    """Of two (T, V) logits: KL(reference || model) in nats summed over tokens, and how many first choices agree."""
    mine, theirs = (torch.log_softmax(of.float(), -1) for of in (logits, reference))
    return (theirs.exp() * (theirs - mine)).sum().item(), int((mine.argmax(-1) == theirs.argmax(-1)).sum())


def say_need(what: str, base: Base, dtype: torch.dtype) -> None:
    """Prints the memory that `what` needs, before it is allocated."""
    num_bytes = sum(math.prod(stored.shape) for stored in base.tensors.values()) * dtype.itemsize
    print(f"{what}: loads the model, about {num_bytes / 2**30:.1f} GiB of memory in {dtype}", flush=True)
