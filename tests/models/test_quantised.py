"""Weights that are quantised on disk: refused where they are trained or merged into, taken as they are where asked."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.quantised import quantisation_of, sixteen_bit_name
from nsllm_lite.models.sizes import read_size
from nsllm_lite.recipe.evals import EvalExecution
from tests.evals.conftest import make_talker
from tests.raising import raises

BITS4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}
STATED = {
    "bitsandbytes fp4": {"quantization_config": BITS4},
    "gptq 4": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "awq 4": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "mxfp4": {"text_config": {"quantization_config": {"quant_method": "mxfp4"}}},
    "unknown": {"quantization_config": {"bits": 4}},
}
PROJECTION = "model.layers.0.mlp.up_proj"
LEFT = {  # what quantisers leave in the weights
    f"{PROJECTION}.weight is I8": lambda tensors: tensors[f"{PROJECTION}.weight"].to(torch.int8),
    f"{PROJECTION}.weight is U8": lambda tensors: tensors[f"{PROJECTION}.weight"].to(torch.uint8),
    f"{PROJECTION}.weight is F8_E4M3": lambda tensors: tensors[f"{PROJECTION}.weight"].to(torch.float8_e4m3fn),
}


@pytest.fixture
def folder(talker, tmp_path) -> Path:
    return Path(shutil.copytree(talker, tmp_path / "Talker-1B-unsloth-bnb-4bit"))


@pytest.mark.parametrize("held", STATED)
def test_what_config_states(folder, held):
    config = read_json(folder / "config.json") | STATED[held]
    assert quantisation_of(folder, config) == held


@pytest.mark.parametrize("held", LEFT)
def test_tensors_of_other_types(folder, held):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {f"{PROJECTION}.weight": LEFT[held](tensors)}, folder / "model.safetensors")
    assert quantisation_of(folder, {}) == held
    with raises("model-quantised", held, "Talker-1B,"):
        read_size(folder)


@pytest.mark.parametrize(
    "name", ["qweight", "weight_scale_inv", "weight_scale", "quant_state.bitsandbytes__nf4", "SCB"]
)
def test_tensors_that_only_quantisers_write(folder, name):
    tensors = load_file(folder / "model.safetensors")
    assert quantisation_of(folder, {}) is None
    save_file(tensors | {f"{PROJECTION}.{name}": torch.zeros(2)}, folder / "model.safetensors")
    assert quantisation_of(folder, {}) == f"{PROJECTION}.{name} is F32"


def test_files_beside_the_weights(folder):
    (folder / "quantize_config.json").write_text('{"bits": 4}')
    assert quantisation_of(folder, {}) == "by quantize_config.json"


def test_a_model_in_four_bits_is_evaluated_as_it_is_and_never_trained(tmp_path, monkeypatch):
    for name in ("wide", "Talker-1B-bnb-4bit"):
        (tmp_path / name).mkdir()
    wide, folder = make_talker(tmp_path / "wide", hidden_size=64, num_heads=4), tmp_path / "Talker-1B-bnb-4bit"
    shutil.copytree(wide, folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(wide, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    model.save_pretrained(folder)
    with raises("model-quantised", "bitsandbytes fp4", "Talker-1B"):
        read_size(folder)
    options = {"double_quantisation": True, "compute_dtype": "float32", "device": "cpu"}
    with raises("model-quantised"):
        load_base(folder, quantisation="none", **options)
    engine = open_engine(str(folder), device="cpu", how=EvalExecution())
    assert ["fp4" in note for note in engine.notes] == [True]
    assert {str(p.dtype) for name, p in engine.model.named_parameters() if "up_proj" in name} == {"torch.uint8"}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=lambda *_, **__: None))
    assert open_engine(str(folder), device="cpu", how=EvalExecution(backend="vllm")).notes == engine.notes
    with raises("model-quantised"):
        open_engine(str(folder), device="cpu", how=EvalExecution(), quantisation="nf4")


@pytest.mark.parametrize(
    ("folder_name", "stated", "original"),
    [
        ("Qwen3-8B-unsloth-bnb-4bit", "", "Qwen3-8B"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "", "Qwen2.5-7B-Instruct"),
        ("Llama-3.1-8B-quantized.w4a16", "", "Llama-3.1-8B"),
        ("q4", "Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B"),
        ("q4", "Qwen/Qwen3-8B", None),
        ("models--Qwen--Qwen3-8B-AWQ/snapshots/0a1b", "", "Qwen/Qwen3-8B"),
    ],
)
def test_the_name_of_the_model_in_16_bits(folder_name, stated, original):
    assert sixteen_bit_name(Path(folder_name), {"_name_or_path": stated}) == original
