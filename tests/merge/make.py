"""Pico models, adapters on them, and merges of both; PEFT's merge to compare with."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, Qwen3Config

from nsllm_lite.merge.write_model import merge
from nsllm_lite.recipe.merge import Merge

# 130 rows leave a remainder behind slices of 64; 96 x 64 head rows are whole slices.
SHAPE = {"hidden_size": 64, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 203, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(folder: Path, dtype=torch.bfloat16, config=Qwen3Config, tied=False, **save) -> Path:
    made = built(dtype, config, tied, **save)
    torch.manual_seed(0)
    return Path(shutil.copytree(made.name, folder, dirs_exist_ok=True))


@functools.cache
def built(dtype, config, tied: bool, **save) -> tempfile.TemporaryDirectory:
    made = tempfile.TemporaryDirectory()
    folder = Path(made.name)
    torch.manual_seed(0)
    heads = {"head_dim": 16} if config in (Qwen3Config, Gemma2Config) else {}
    model = AutoModelForCausalLM.from_config(config(**SHAPE, **heads, tie_word_embeddings=tied), dtype=dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero in a fresh model
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(folder, **save)
    (folder / "tokenizer.json").write_text("{}")
    return made


def make_adapter(base: Path, folder: Path, dtype=None, seed=1, **lora) -> Path:
    """A LoRA adapter whose every trained tensor is random and non-zero."""
    torch.manual_seed(seed)
    settings = {"r": 8, "lora_alpha": 12, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"} | lora
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder)
    if dtype is not None:
        edit_adapter(folder, lambda tensors: tensors.update({n: tensor.to(dtype) for n, tensor in tensors.items()}))
    return folder


def make_recipe(base: Path, adapter: Path | list[dict], out: Path, **changes) -> Merge:
    adapter = adapter if isinstance(adapter, list) else str(adapter)
    values = {"base": str(base), "adapter": adapter, "out": str(out), "base_weights": "original"}
    return Merge(kind="merge", **{**values, "then_requantize": False, "shard_bytes": 2**32, **changes})


def merged_by_peft(base: Path, adapters: list[Path], weights: list[float] | None = None, dtype=None):
    """PEFT's merge of the adapters in turn."""
    model = AutoModelForCausalLM.from_pretrained(base, **({"dtype": dtype} if dtype else {}))
    names = [f"adapter_{number}" for number in range(len(adapters))]
    model = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(adapter, adapter_name=name)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, weight in zip(names, weights or [], strict=bool(weights)):
                module.set_scale(name, weight)
    return model.merge_and_unload(adapter_names=names)


def assert_equals_peft(base: Path, adapter: Path, out: Path, theirs=None, **changes) -> dict:
    """Merges and compares the files, the reloaded weights and the logits with PEFT's; returns the results."""
    results = merge(make_recipe(base, adapter, out, **changes))
    theirs = theirs or merged_by_peft(base, [adapter])
    ours = AutoModelForCausalLM.from_pretrained(out)
    their_weights, our_weights = theirs.state_dict(), ours.state_dict()
    assert our_weights.keys() == their_weights.keys()
    for name, weight in their_weights.items():
        assert our_weights[name].dtype == weight.dtype, name
        assert torch.equal(our_weights[name], weight), name
    assert ours.config.tie_word_embeddings == theirs.config.tie_word_embeddings
    pointers = {ours.get_input_embeddings().weight.data_ptr(), ours.get_output_embeddings().weight.data_ptr()}
    assert len(pointers) == (1 if ours.config.tie_word_embeddings else 2)
    prompt = torch.arange(1, 9)[None]
    assert torch.equal(ours(prompt).logits, theirs(prompt).logits)
    return results


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def edit_adapter(adapter: Path, change) -> None:
    edit_tensors(adapter / "adapter_model.safetensors", change)
