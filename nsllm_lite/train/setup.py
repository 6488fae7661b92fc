"""Setup shared by all trainings: card, model and adapter, optimizer, learning rate of a step."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.kernels.fused_layers import use_fused_layers
from nsllm_lite.models.device import Card, find_device, require_dtype, require_kernels
from nsllm_lite.models.loading import build_base, load_base, recompute_layers
from nsllm_lite.models.lora import add_adapter, saved_parameters
from nsllm_lite.recipe.train import Execution, Optimizer, Schedule, Training
from nsllm_lite.train.inputs import Inputs
from nsllm_lite.train.sft_inputs import SftInputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def choose_card(recipe: Training) -> Card:
    """`find_device` for the recipe. Raises UserError where that cannot compute as the recipe says, or not at all."""
    card = find_device(recipe.execution.device)
    path = Path(recipe.out) / "execution.json"
    before = read_json(path) if card.device == "cuda" and path.is_file() else {}
    if before.get("card") == card.name and before.get("memory_gib"):  # it ran out of memory with more
        card = card._replace(memory_bytes=min(card.memory_bytes, int(before["memory_gib"] * GIB)))
    require_dtype(recipe.compute_dtype, card)
    require_kernels(card.device)
    return card


def freeze_execution(out: Path, card: str, how: Execution) -> None:
    """Stores the execution in `out/execution.json`; prints what has changed when the run is continued."""
    frozen = {"card": card, **how.model_dump(mode="json")}
    path = out / "execution.json"
    before = read_json(path) if path.is_file() else {}
    if before.get("card") == card:  # on which it may have run out of memory once
        frozen["memory_gib"] = how.memory_gib or before.get("memory_gib")
    old = {key: before.get(key, value) for key, value in frozen.items()}
    if changed := [f"{key} {old[key]} -> {value}" for key, value in frozen.items() if old[key] != value]:
        print(f"{out}: continuing with another execution ({', '.join(changed)}); losses may differ by rounding")
    write_json(path, frozen)


def make_model(recipe: Training, inputs: Inputs | SftInputs, how: Execution) -> nn.Module:
    """The model of the recipe on its device: built, or loaded and given its adapter."""
    if recipe.kind == "train" and recipe.build:
        end_id = inputs.rows.totals.end_of_text_id
        model = build_base(recipe.build, inputs.tokenizer_dir, end_id, recipe.seed).to(how.device)
    else:
        model = load_base(
            inputs.base_dir,
            quantisation=recipe.quantisation,
            double_quantisation=recipe.double_quantisation,
            compute_dtype=recipe.compute_dtype if recipe.adapter else "float32",
            device=how.device,
            dequantised=bool(how.dequantised) and recipe.adapter is not None and recipe.products is None,
        )
        if recipe.adapter is None:
            model.requires_grad_(True)
    return equip(model, recipe, how)


def equip(model: "PreTrainedModel", recipe: Training, how: Execution, say: Callable[[str], Any] = print) -> nn.Module:
    """A base with what is trained in it, its kernels and its recomputation."""
    if how.device == "cuda" and not how.compile:
        from nsllm_lite.kernels.liger import use_liger_kernels

        swapped = use_liger_kernels(model)
        say(f"Liger kernels in {', '.join(f'{count} {name}' for name, count in sorted(swapped.items()))} modules")
    if how.recompute_layers:
        recompute_layers(model, how.recompute_layers)
    if recipe.adapter:
        model = add_adapter(model, recipe.adapter, recipe.model, recipe.seed)
        in_fp8 = recipe.products and ("held" if how.dequantised else "restored")
        if in_fp8 and how.device == "cpu":
            say("Products in float8 are emulated on a CPU: slow, and meant for measuring")
        num_fused = use_fused_layers(model, bool(how.recompute_cheap), bool(how.compile), in_fp8)
        assert not in_fp8 or num_fused == model.config.num_hidden_layers, "layers not in float8"
        if how.compile and not num_fused:
            found = f"execution.compile=true, but no layer of {type(model.get_base_model()).__name__} can be compiled."
            needed = "Qwen3, Qwen2, Llama and Mistral with a plain LoRA can."
            raise UserError("train-layers-not-compilable", found, needed, "Leave execution.compile out.")
    return model


def parameter_groups(lm: nn.Module, recipe: Optimizer) -> list[dict[str, Any]]:
    """What is trained, by peak learning rate: the adapter (or the whole model), then embeddings and head."""
    saved = saved_parameters(lm)
    others = [p for name, p in lm.named_parameters() if p.requires_grad and name not in saved]
    groups = [{"params": others, "peak": recipe.learning_rate, "lr": recipe.learning_rate}]
    if saved:
        peak = recipe.embedding_learning_rate or recipe.learning_rate
        groups.append({"params": list(saved.values()), "peak": peak, "lr": peak})
    return groups


def make_optimizer(recipe: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    options = {"lr": recipe.learning_rate, "betas": recipe.betas, "weight_decay": recipe.weight_decay}
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, **options)
    from bitsandbytes import optim

    return {"adamw8bit": optim.AdamW8bit, "paged_adamw8bit": optim.PagedAdamW8bit}[recipe.name](groups, **options)


def lr_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """The learning rate of `step` (from 0) as a share of the peak: linear warm-up, then constant or cosine."""
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.shape == "constant":
        return 1.0
    done = (step - schedule.warmup_steps) / max(1, num_steps - schedule.warmup_steps)
    return schedule.final_share + (1 - schedule.final_share) * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Gives each group this share of its peak; returns the rate of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return optimizer.param_groups[0]["lr"]
