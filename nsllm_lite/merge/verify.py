"""The written model, loaded by plain transformers, against base + adapter, which PEFT adds and merges."""

import gc
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.errors import RunError
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import FLOATS, dtypes, model_files, read_header
from nsllm_lite.merge import stochastic
from nsllm_lite.merge.in_memory import differences, round_to_nf4, say_need
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.merge.plan import Plan, Rounding, TokenRows
from nsllm_lite.merge.write import Written
from nsllm_lite.models.device import find_device
from nsllm_lite.models.loading import from_folder
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe.merge import Merge

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

SEQUENCES, TOKENS = 4, 128
MAX_KL = 1e-3  # nats a token; or
MAX_KL_SHARE = 0.1  # of the adapter's own KL; rounding to 16 bits stays below it, a lost update does not
MAX_LOGIT_SHARE = 0.25  # of the adapter's largest change of a logit; or so many units of the least precise dtype:
LOGIT_UNITS = 4
LEAST_UNIT = 1e-5  # of products in fp32, whatever their order
MAX_STRAY_SHARE = 1e-3  # of a tensor's entries, for that order, that are no neighbours of the sum


def verify(
    recipe: Merge, base: Base, adapters: list[Adapter], plan: Plan, rounding: Rounding, folder: Path, written: Written
) -> dict[str, float]:
    """{kl, top1, tokens, kl_of_adapter, largest, largest_of_adapter}: the merged model's predictions against base +
    adapter (PEFT), unmerged. Then each row of its weights is compared with PEFT's merge.

    Raises:
        RunError: a file is not what was written, or predictions or weights differ by more than rounding.
        UserError: transformers cannot load the base.
    """
    for name, sha256 in written.sha256.items():
        if sha256_file(folder / name) != sha256:
            found = f"{folder / name} is not what was written there: the disk or the memory is broken."
            raise RunError("merge-file-differs", found, "Check both, and run the merge again.")
    device = find_device(recipe.execution.device).device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    say_need("verify", base, dtype)
    options = {"dtype": dtype, "device_map": {"": device}}
    theirs = from_folder(base.folder, **options).eval()
    if rounded := {name: planned for name, planned in plan.tensors.items() if planned.rounded}:
        held_in = rounding.dtype or next(iter(rounded.values())).source.dtype
        round_to_nf4(theirs, rounded, dtypes()[held_in], rounding.double, rounding.on_card)
    tokens = prompts(recipe, theirs.get_input_embeddings().num_embeddings).to(device)
    with_trained = torch.cat([tokens, trained_tokens(plan, tokens.shape[1]).to(device)])
    before = logits(theirs, tokens)
    peft_model = add_adapters(theirs, adapters)
    reference = logits(peft_model, with_trained)
    num_same, num_tensors = require_weights(recipe.out, plan, folder, merged_by_peft(peft_model, adapters), dtype)
    del theirs, peft_model
    gc.collect()
    mine = from_folder(folder, **options).eval()
    of_mine, count = logits(mine, with_trained), tokens.numel()
    kl, same = differences(of_mine[:count], reference[:count])
    known = reference[:count, : before.shape[1]]  # without the tokens of a resized vocabulary
    effect, _ = differences(before, known)
    figures = {"kl": kl / count, "top1": same / count, "tokens": count, "kl_of_adapter": effect / count}
    figures |= {"largest": largest(of_mine, reference), "largest_of_adapter": largest(before, known)}
    unit = max(torch.finfo(of).eps for of in (dtype, *plan_dtypes(plan)))
    allowed = max(LOGIT_UNITS * unit * reference.abs().max().item(), MAX_LOGIT_SHARE * figures["largest_of_adapter"])
    if not figures["kl"] <= max(MAX_KL, MAX_KL_SHARE * figures["kl_of_adapter"]) or not figures["largest"] <= allowed:
        found = f"KL {figures['kl']:.3g} nats a token and a logit by {figures['largest']:.3g}, where the adapter's own "
        found += f"effect is {figures['kl_of_adapter']:.3g} and {figures['largest_of_adapter']:.3g}"
        raise failed(recipe.out, found)
    print(
        f"verified: KL {figures['kl']:.2e} nats a token, same first choice at {figures['top1']:.2%}, no logit off by "
        f"more than {figures['largest']:.3g}, {num_same} of {num_tensors} tensors compared with PEFT's merge and alike"
    )
    return figures


def failed(out: str, differs: str) -> RunError:
    found = f"The merged model does not answer as base + adapter do: {differs}. Nothing was left at {out}."
    return RunError("merge-verify-failed", found, "Merge again; if it stays so, merge with PEFT and report this.")


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """(tokens, V) of all that are in (sequences, length) `tokens`."""
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)


def largest(mine: Tensor, theirs: Tensor) -> float:
    """Difference of two logits."""
    return (mine.float() - theirs.float()).abs().max().item()


def plan_dtypes(plan: Plan) -> set[torch.dtype]:
    return {dtypes()[planned.dtype] for planned in plan.tensors.values() if planned.dtype in FLOATS}


def prompts(recipe: Merge, vocab_size: int) -> Tensor:
    """(SEQUENCES, TOKENS) ids: of the held-out rows where there are any so long, else drawn from a fixed seed."""
    if recipe.heldout_rows:
        rows = Rows(Path(recipe.heldout_rows))
        rows.require_sound(vocab_size)
        long = [row for row in map(rows.__getitem__, range(min(len(rows), 64))) if len(row.input_ids) >= TOKENS]
        if len(long) >= SEQUENCES:
            return torch.stack([torch.from_numpy(row.input_ids[:TOKENS]).long() for row in long[:SEQUENCES]])
    return torch.randint(vocab_size, (SEQUENCES, min(TOKENS, 64)), generator=torch.Generator().manual_seed(0))


def trained_tokens(plan: Plan, length: int) -> Tensor:
    """(at most SEQUENCES, `length`) ids: tokens whose rows alone were trained, or that a resized vocabulary has last,
    spread evenly; none where there are no such."""
    updates = [update for planned in plan.tensors.values() for update in planned.updates]
    ids = {index for update in updates if isinstance(update, TokenRows) for index in update.indices}
    if plan.vocab_rows:
        ids |= set(range(max(0, plan.vocab_rows - SEQUENCES * length), plan.vocab_rows))
    if not ids:
        return torch.zeros(0, length, dtype=torch.long)
    spread = torch.linspace(0, len(ids) - 1, min(SEQUENCES, math.ceil(len(ids) / length)) * length).long()
    return torch.tensor(sorted(ids))[spread].view(-1, length)


def add_adapters(model: "PreTrainedModel", adapters: list[Adapter]) -> "PeftModel":
    """`model` with all adapters active (PEFT), each with its weight."""
    from peft.tuners.lora import LoraLayer

    names = names_of(adapters)
    for name, adapter in zip(names, adapters, strict=True):
        model = load_adapter(model, adapter.folder, name)
    model.base_model.set_adapter(names)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, adapter in zip(names, adapters, strict=True):
                if name in module.scaling:
                    module.set_scale(name, adapter.weight)
    return model.eval()


def names_of(adapters: list[Adapter]) -> list[str]:
    return [f"adapter_{number}" for number in range(len(adapters))]


def merged_by_peft(model: "PeftModel", adapters: list[Adapter]) -> dict[str, Tensor]:
    merged = model.merge_and_unload(adapter_names=names_of(adapters))
    return dict(merged.named_parameters(remove_duplicate=False))


def require_weights(
    out: str, plan: Plan, folder: Path, theirs: dict[str, Tensor], dtype: torch.dtype
) -> tuple[int, int]:
    """(tensors that were compared, tensors there are).

    Raises RunError where a row of a written tensor is further from PEFT's than rounding moves it: by half a unit of its
    norm for each cast, and on a card, where PEFT rounds in between, by a whole one. After stochastic rounding each
    entry must be one of the two neighbours of PEFT's sum in fp32, but on a card, which has no such sum, and where the
    base is rounded to NF4, whose 8-bit scales may differ in rare ties. Tensors that transformers has under another name
    in memory are compared by the logits only.
    """
    stored = {name: of for file in model_files(folder) for name, of in read_header(folder / file).items()}
    compared = sorted(name for name in stored.keys() & theirs.keys() if stored[name].dtype in FLOATS)
    for name in compared:
        kind = dtypes()[stored[name].dtype]
        unit = max(LEAST_UNIT, *(torch.finfo(of).eps for of in (dtype, kind)))
        planned, num_strays = plan.tensors[name], 0
        is_drawn = planned.key is not None
        units = (1 + len(planned.updates)) * (0.5 if dtype == torch.float32 else 1) + 0.5 * is_drawn
        least = torch.finfo(kind).tiny * math.sqrt(math.prod(stored[name].shape[1:]))
        for first, last in stored[name].row_slices():
            written, other = stored[name].rows(first, last), theirs[name].data[first:last].float().cpu()
            written, other = (of.flatten(1) if of.dim() > 1 else of[None] for of in (written, other))
            mine = written.float()
            norms = torch.maximum(mine.norm(dim=1), other.norm(dim=1))
            over = (mine - other).norm(dim=1) - units * unit * norms
            if is_drawn and dtype == torch.float32 and not planned.rounded:
                beyond = stochastic.beyond(written, other)
                num_strays += int((beyond >= 0).sum())
                over = beyond.amax(1) - LEAST_UNIT * norms
            if not over.max() <= least:
                raise failed(out, f"row {first + int(over.argmax())} of {name} is not that of PEFT's merge")
        if num_strays > MAX_STRAY_SHARE * math.prod(stored[name].shape):
            raise failed(out, f"{num_strays:,} entries of {name} are no neighbours of the sums of PEFT's merge")
    return len(compared), len(stored)
