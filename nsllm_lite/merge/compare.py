"""Held-out losses of a merge into each base (original, dequantized), in 16 bits and rounded to NF4 again.

The reference is the model that was trained: the adapter on the NF4 base. Losses decide; the distance of the predictions
from the reference's (KL, same first choice) is reported beside them.
"""

import gc
from pathlib import Path
from typing import Any

import torch

from nsllm_lite import terminal
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.merge import in_memory
from nsllm_lite.merge.inputs import Adapter, Base, open_inputs
from nsllm_lite.merge.plan import EXACT, Plan, on_rounding, plan_merge
from nsllm_lite.merge.stochastic import keyed
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM, autocast, collate
from nsllm_lite.models.device import find_device
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe.merge import Merge

CHUNK_TOKENS = 256  # whose logits are in memory at a time
KL_ROWS = 8  # of the held-out rows, whose logits are compared
CHOICES = ("original", "dequantized")
TRAINED = "adapter on NF4(base)"


def compare(recipe: Merge, base: Base, adapters: list[Adapter], plan: Plan) -> dict[str, dict[str, float]]:
    """{model: loss, kl, top1, tokens} of the base, the adapter on its NF4 base, each merge, and each merge in NF4.
    Raises UserError where there are several adapters, or no held-out rows."""
    if len(adapters) > 1:
        found = f"{len(adapters)} adapters, each trained on its own base: there is no single loss to compare with."
        raise UserError("compare-several-adapters", found, "Choose base_weights=original or dequantized.")
    if not recipe.heldout_rows:
        todo = "Set --heldout-rows DIR, as `nsllm-lite corpus` writes them (rows/phase1/heldout)."
        raise UserError("compare-no-rows", "No held-out rows are given, which a comparison needs.", todo)
    rounded, rounding = on_rounding(plan, adapters, recipe)
    plans = {"original": (plan, EXACT), "dequantized": (rounded, rounding)}
    rows = heldout.sample_rows(Rows(Path(recipe.heldout_rows)), recipe.max_rows)
    device = find_device(recipe.execution.device).device
    dtype = adapters[0].training.get("compute_dtype", "bfloat16" if device == "cuda" else "float32")
    in_memory.say_need("compare", base, getattr(torch, dtype))
    how: dict[str, Any] = {"double_quantisation": rounding.double, "compute_dtype": dtype, "device": device}
    scorer = Scorer(rows, device, dtype)

    table: dict[str, dict[str, float]] = {}
    trained = load_base(base.folder, quantisation="nf4", **how)
    table[TRAINED] = scorer.score(load_adapter(trained, adapters[0].folder))
    del trained
    _free()
    names = [name for name, planned in rounded.tensors.items() if planned.rounded]
    for choice, (chosen, with_rounding) in plans.items():
        lm = load_base(base.folder, quantisation="none", **how)
        if choice == CHOICES[0]:
            table["base"] = scorer.score(lm)
        in_memory.fill(lm, chosen, with_rounding)
        table[choice] = scorer.score(lm)
        in_memory.round_to_nf4(lm, names, lm.dtype, rounding.double, rounding.on_card)
        table[f"NF4({choice})"] = scorer.score(lm)
        del lm
        _free()
    return table


class Scorer:
    """Scores models on the same rows; the predictions of the first are what the others' are compared with."""

    def __init__(self, rows: list[Row], device: str, dtype: str):
        self.rows, self.device, self.dtype = rows, device, dtype
        self.reference: list[torch.Tensor] = []  # hidden states of each row
        self.reference_head: torch.Tensor | None = None

    def score(self, causal_lm: torch.nn.Module) -> dict[str, float]:
        lm = PackedLM(causal_lm)
        head = lm.head_VH.detach()
        if is_first := self.reference_head is None:
            self.reference_head = head.clone()
        vocab = min(len(head), len(self.reference_head))  # of a base before training resized its own
        kl, same, tokens = 0.0, 0, 0
        with torch.no_grad(), autocast(self.device, self.dtype), heldout.evaluating(lm):
            loss = heldout.score(lm, self.rows, 1, self.device)["all"].loss
            for number, row in enumerate(self.rows[:KL_ROWS]):
                hidden = lm.hidden(collate([row], self.device))
                if is_first:
                    self.reference.append(hidden.cpu())
                for first in range(0, len(hidden), CHUNK_TOKENS):
                    chunk = slice(first, first + CHUNK_TOKENS)
                    reference = self.reference[number][chunk].to(self.device) @ self.reference_head[:vocab].T
                    mine = hidden[chunk] @ head[:vocab].T
                    both = (lm.logits_form.of(product.float()) for product in (mine, reference))
                    chunk_kl, chunk_same = in_memory.differences(*both)
                    kl, same = kl + chunk_kl, same + chunk_same
                tokens += len(hidden)
        return {"loss": loss, "kl": kl / tokens, "top1": same / tokens, "tokens": tokens}


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def lowest(table: dict[str, dict[str, float]], then_requantize: bool) -> str:
    """The choice with the lowest loss: in 16 bits, or in NF4 where another phase will hold it so."""
    return min(CHOICES, key=lambda choice: table[f"NF4({choice})" if then_requantize else choice]["loss"])


def table(comparison: dict[str, dict[str, float]]) -> str:
    labels = {"base": "base", TRAINED: TRAINED}
    for choice in CHOICES:
        labels |= {choice: f"merged into {choice}", f"NF4({choice})": "the same in NF4"}
    heads = ("", "held-out loss", "KL to the trained", "same first choice")
    rows = ((label, comparison[name]) for name, label in labels.items())
    lines = ((label, f"{row['loss']:.4f}", f"{row['kl']:.4f}", f"{row['top1']:.1%}") for label, row in rows)
    return terminal.as_markdown(heads, lines, right=heads[1:])


def compare_only(recipe: Merge) -> dict[str, Any]:
    """Prints the table and returns it, with the lowest choice for either use; writes nothing."""
    base, adapters = open_inputs(recipe)
    comparison = compare(recipe, base, adapters, keyed(plan_merge(base, adapters, recipe.dtype), recipe))
    in_16_bits, in_nf4 = (lowest(comparison, then_requantize) for then_requantize in (False, True))
    terminal.markdown(table(comparison))
    print(f"Lowest loss: to serve in 16 bits, {in_16_bits}; when NF4 training follows, {in_nf4}.")
    return {"comparison": comparison, "lowest": {"to_serve_in_16_bits": in_16_bits, "then_requantize": in_nf4}}
