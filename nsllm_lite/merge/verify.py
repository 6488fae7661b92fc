"""The written model, loaded by plain transformers, compared with base + adapter (PEFT)."""

import gc
from pathlib import Path

import torch

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.errors import RunError
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import dtypes
from nsllm_lite.merge import in_memory
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.merge.plan import Plan, Rounding
from nsllm_lite.merge.write import Written
from nsllm_lite.models.device import find_device
from nsllm_lite.recipe.merge import Merge

SEQUENCES, TOKENS = 4, 128
MAX_KL = 1e-3  # nats a token; or
MAX_KL_SHARE = 0.1  # of the adapter's own KL; rounding to 16 bits stays below it, a lost update does not


def verify(
    recipe: Merge, base: Base, adapters: list[Adapter], plan: Plan, rounding: Rounding, folder: Path, written: Written
) -> dict[str, float]:
    """{kl, top1, tokens, kl_of_adapter}: the merged model's predictions against base + adapter, unmerged.

    Raises:
        RunError: a file is not what was written, or the predictions differ by more than rounding.
    """
    from transformers import AutoModelForCausalLM

    for name, sha256 in written.sha256.items():
        if sha256_file(folder / name) != sha256:
            found = f"{folder / name} is not what was written there: the disk or the memory is broken."
            raise RunError("merge-file-differs", found, "Check both, and run the merge again.")
    device = find_device(recipe.execution.device).device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    in_memory.say_need("verify", base, dtype)
    options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False, "device_map": {"": device}}
    tokens = prompts(recipe, base.config.get("vocab_size") or base.config["text_config"]["vocab_size"]).to(device)

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)

    theirs = AutoModelForCausalLM.from_pretrained(base.folder, **options).eval()
    if rounded := {name: planned for name, planned in plan.tensors.items() if planned.rounded}:
        held_in = rounding.dtype or next(iter(rounded.values())).source.dtype
        in_memory.round_to_nf4(theirs, rounded, dtypes()[held_in], rounding.double, rounding.on_card)
    before = logits(theirs)
    reference = logits(in_memory.add_adapters(theirs, adapters))
    del theirs
    gc.collect()
    mine = logits(AutoModelForCausalLM.from_pretrained(folder, **options).eval())
    kl, same = in_memory.differences(mine, reference)
    effect, _ = in_memory.differences(before, reference)
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
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (SEQUENCES, min(TOKENS, 64)), generator=drawn)
