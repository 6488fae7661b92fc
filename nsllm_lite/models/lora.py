"""LoRA on a base: added for training, or loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.recipe.train import Adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapter(model: "PreTrainedModel", adapter: Adapter, base: str, seed: int) -> "PeftModel":
    """LoRA in fp32 on `adapter.targets`, A drawn from `seed` and B zero; embeddings and head in fp32 where they train.

    Raises:
        UserError: a target names no linear layer of the model, or the head of tied embeddings is to train alone.
    """
    from peft import LoraConfig, get_peft_model

    modules = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if missing := sorted(set(adapter.targets) - modules):
        found = f"adapter.targets {missing} name no linear layer of this model."
        needed = f"It has {sorted(modules - {'lm_head'})}."
        raise UserError("adapter-targets-unknown", found, needed, "Correct adapter.targets.")
    tied = bool(model.config.tie_word_embeddings)
    if tied and "lm_head" in adapter.modules_to_save:
        found = "This model ties its head to its embeddings: they are one tensor."
        raise UserError("adapter-head-tied", found, "To train it, name embed_tokens alone in adapter.modules_to_save.")
    torch.manual_seed(seed)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        modules_to_save=list(adapter.modules_to_save) or None,
        ensure_weight_tying=tied and bool(adapter.modules_to_save),
        target_modules=list(adapter.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    config.base_model_name_or_path = base  # the recipe's name for it, not this machine's cache folder
    for parameter in saved_parameters(peft_model).values():
        parameter.data = parameter.data.float()
    dtypes = {p.dtype for p in peft_model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}, f"LoRA parameters must be fp32, found {dtypes}"
    return peft_model


def saved_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Of what is trained, the embeddings and the head."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and ".modules_to_save." in name}


def load_adapter(model: "PreTrainedModel", directory: Path) -> "PeftModel":
    """A saved adapter on its base, for evaluation.

    Raises:
        UserError: `directory` holds no finished adapter.
    """
    from peft import PeftModel

    if not (Path(directory) / "adapter_model.safetensors").is_file():
        raise UserError("model-adapter-missing", f"No adapter at {directory}.", "Run its training phase first.")
    safety.require_lora(read_json(Path(directory) / "adapter_config.json"), Path(directory))
    require_sound(Path(directory))
    return PeftModel.from_pretrained(model, str(directory))
