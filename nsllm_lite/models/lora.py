"""LoRA on a base: added for training, or loaded."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.adapter_names import PREFIX, TOKEN_ROWS, at_home, module_of, names_differ, peft_names
from nsllm_lite.formats.weights import TensorOnDisk, listed, read_header, require_sound, same_bytes
from nsllm_lite.models.sizes import head_tied
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
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight  # what config.json says may not hold
    if tied and "lm_head" in adapter.modules_to_save:
        raise head_tied()
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


def load_adapter(model: "PreTrainedModel | PeftModel", directory: Path, name: str = "default") -> "PeftModel":
    """A saved adapter on its base, or beside another one, for evaluation; a vocabulary that its training resized is
    resized here.

    Raises:
        UserError: `directory` holds no finished adapter, or one that PEFT does not read whole.
    """
    from peft import PeftModel

    if not (Path(directory) / "adapter_model.safetensors").is_file():
        raise UserError("model-adapter-missing", f"No adapter at {directory}.", "Run its training phase first.")
    safety.require_lora(read_json(Path(directory) / "adapter_config.json"), Path(directory))
    require_sound(Path(directory))
    written = read_header(Path(directory) / "adapter_model.safetensors")
    homes = modules_of(model)
    tensors, settings, _ = at_home(peft_names(written), read_json(Path(directory) / "adapter_config.json"), homes)
    require_homes(Path(directory), [one for one in tensors if module_of(one) not in homes], homes)
    resize_vocabulary(model, tensors)
    with as_peft_saves(Path(directory), written, tensors, settings) as folder:
        try:
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            why = " ".join(str(error).split())[:300]
            found = f"PEFT cannot put {directory} on its base: {type(error).__name__}: {why}"
            todo = "Name the base that it was trained on, or save the adapter again with PEFT's save_pretrained."
            raise UserError("adapter-not-loaded", found, todo) from None
    require_read(model, Path(directory), tensors, name)
    return model


@contextmanager
def as_peft_saves(
    directory: Path, written: dict[str, TensorOnDisk], tensors: dict[str, TensorOnDisk], settings: dict
) -> Iterator[Path]:
    """The folder itself where its names are those that PEFT saves, else a copy with them."""
    names = {PREFIX + name: stored for name, stored in tensors.items()}
    if names == written:
        yield directory
        return
    from safetensors.torch import load_file, save_file

    stands_at = {stored: name for name, stored in written.items()}
    with tempfile.TemporaryDirectory() as copy:
        write_json(Path(copy) / "adapter_config.json", settings)
        held = load_file(directory / "adapter_model.safetensors")
        named = {name: held[stands_at[stored]] for name, stored in names.items()}
        save_file(named, Path(copy) / "adapter_model.safetensors", {"format": "pt"})
        yield Path(copy)


def resize_vocabulary(model: nn.Module, tensors: dict[str, TensorOnDisk]) -> None:
    """Gives the model as many embeddings as the adapter holds, where it holds them whole."""
    embeddings = model.get_input_embeddings()
    module = next((name for name, of in model.named_modules() if of is embeddings), None)
    whole = (f"{module}{infix}.weight" for infix in ("", ".base_layer", ".token_adapter.base_layer"))
    stored = next((tensors[name] for name in whole if name in tensors), None)
    if stored and stored.shape[:1] != embeddings.weight.shape[:1]:
        model.resize_token_embeddings(stored.shape[0], mean_resizing=False)


def require_read(model: "PeftModel", directory: Path, tensors: dict[str, TensorOnDisk], name: str) -> None:
    """Raises UserError where a tensor of the adapter is none of the model's: PEFT leaves such out."""
    from peft import get_peft_model_state_dict

    held = {*get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False), *model.state_dict()}
    left = [one for one in tensors if PREFIX + one not in held]
    rows = [stored for one, stored in tensors.items() if one.endswith(TOKEN_ROWS) and one not in left]
    # those of a head that PEFT ties are saved twice and read once
    left = [one for one in left if not (one.endswith(TOKEN_ROWS) and any(same_bytes(tensors[one], of) for of in rows))]
    require_homes(directory, left, modules_of(model))


def require_homes(directory: Path, left: list[str], homes: set[str]) -> None:
    """Raises UserError where tensors are `left` that the base, with the modules `homes`, has no place for."""
    if left:
        found = f"{directory} holds {listed(left)}, which its base has no place for."
        todo = "Name the base that it was trained on, or save the adapter again with PEFT's save_pretrained."
        raise names_differ(left, homes) or UserError("adapter-tensors-unread", found, todo)


def modules_of(model: nn.Module) -> set[str]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {name for name, _ in base.named_modules()}
