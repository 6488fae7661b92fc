"""Merged weights in a model in memory, and the written model, loaded by plain transformers, against base + adapter."""

import gc
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.errors import RunError
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import as_floats, dtypes
from nsllm_lite.merge import nf4
from nsllm_lite.merge.arithmetic import Buffers, merge_rows, prepare
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.merge.plan import Plan, PlannedTensor, Rounding
from nsllm_lite.merge.write import Written, slice_entries
from nsllm_lite.models.device import find_device
from nsllm_lite.recipe.merge import Merge

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEQUENCES, TOKENS = 4, 128
MAX_KL = 1e-3  # nats a token; or
MAX_KL_SHARE = 0.1  # of the adapter's own KL; rounding to 16 bits stays below it, a lost update does not


def fill(model: "PreTrainedModel", plan: Plan, rounding: Rounding) -> None:
    """Gives `model`, made from the base, the weights that the merge would write."""
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


def add_adapters(model: "PreTrainedModel", adapters: list[Adapter]) -> nn.Module:
    """`model` with all adapters active (PEFT), each with its weight."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    names = [f"adapter_{number}" for number in range(len(adapters))]
    peft_model = PeftModel.from_pretrained(model, str(adapters[0].folder), adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        peft_model.load_adapter(str(adapter.folder), adapter_name=name)
    peft_model.base_model.set_adapter(names)
    for module in peft_model.modules():
        if isinstance(module, LoraLayer):
            for name, adapter in zip(names, adapters, strict=True):
                if name in module.scaling:
                    module.set_scale(name, adapter.weight)
    return peft_model.eval()


def differences(logits: Tensor, reference: Tensor) -> tuple[float, int]:
    """Of two (T, V) logits: KL(reference || model) in nats summed over tokens, and how many first choices agree."""
    mine, theirs = (torch.log_softmax(of.float(), -1) for of in (logits, reference))
    return (theirs.exp() * (theirs - mine)).sum().item(), int((mine.argmax(-1) == theirs.argmax(-1)).sum())


def say_need(what: str, base: Base, dtype: torch.dtype) -> None:
    """Prints the memory that `what` needs, before it is allocated."""
    num_bytes = sum(math.prod(stored.shape) for stored in base.tensors.values()) * dtype.itemsize
    print(f"{what}: loads the model, about {num_bytes / 2**30:.1f} GiB of memory in {dtype}", flush=True)


def verify(
    recipe: Merge, base: Base, adapters: list[Adapter], plan: Plan, rounding: Rounding, folder: Path, written: Written
) -> dict[str, float]:
    """{kl, top1, tokens, kl_of_adapter}: the merged model's predictions against base + adapter (PEFT), unmerged. Raises
    RunError where a file is not what was written, or the predictions differ by more than rounding."""
    from transformers import AutoModelForCausalLM

    for name, sha256 in written.sha256.items():
        if sha256_file(folder / name) != sha256:
            found = f"{folder / name} is not what was written there: the disk or the memory is broken."
            raise RunError("merge-file-differs", found, "Check both, and run the merge again.")
    device = find_device(recipe.execution.device).device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    say_need("verify", base, dtype)
    options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False, "device_map": {"": device}}
    tokens = prompts(recipe, base.config.get("vocab_size") or base.config["text_config"]["vocab_size"]).to(device)

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)

    theirs = AutoModelForCausalLM.from_pretrained(base.folder, **options).eval()
    if rounded := {name: planned for name, planned in plan.tensors.items() if planned.rounded}:
        held_in = rounding.dtype or next(iter(rounded.values())).source.dtype
        round_to_nf4(theirs, rounded, dtypes()[held_in], rounding.double, rounding.on_card)
    before = logits(theirs)
    reference = logits(add_adapters(theirs, adapters))
    del theirs
    gc.collect()
    mine = logits(AutoModelForCausalLM.from_pretrained(folder, **options).eval())
    kl, same = differences(mine, reference)
    effect, _ = differences(before, reference)
    count = tokens.numel()
    figures = {"kl": kl / count, "top1": same / count, "tokens": count, "kl_of_adapter": effect / count}
    if not figures["kl"] <= max(MAX_KL, MAX_KL_SHARE * figures["kl_of_adapter"]):
        found = f"The merged model does not answer as base + adapter do: KL {figures['kl']:.3g} nats a token, the "
        found += f"adapter's own effect is {figures['kl_of_adapter']:.3g}. Nothing was left at {recipe.out}."
        raise RunError("merge-verify-failed", found, "Merge again; if it stays so, merge with PEFT and report this.")
    print(f"verified: KL {figures['kl']:.2e} nats a token, same first choice at {figures['top1']:.2%}")
    return figures


def prompts(recipe: Merge, vocab_size: int) -> torch.Tensor:
    """(SEQUENCES, TOKENS) ids: of the held-out rows where there are any so long, else drawn from a fixed seed."""
    if recipe.heldout_rows:
        rows = Rows(Path(recipe.heldout_rows))
        rows.require_sound(vocab_size)
        long = [row for row in map(rows.__getitem__, range(min(len(rows), 64))) if len(row.input_ids) >= TOKENS]
        if len(long) >= SEQUENCES:
            return torch.stack([torch.from_numpy(row.input_ids[:TOKENS]).long() for row in long[:SEQUENCES]])
    return torch.randint(vocab_size, (SEQUENCES, min(TOKENS, 64)), generator=torch.Generator().manual_seed(0))
