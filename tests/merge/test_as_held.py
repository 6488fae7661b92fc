"""A training and its merge: `dequantized` has the bits that training held, those of a card on a card."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.loading import build_base, nf4_states, save_nf4
from nsllm_lite.recipe.train import ModelShape
from nsllm_lite.train import cpt, outputs
from tests.conftest import END_OF_TEXT, ROW_TOKENS, SHAPE
from tests.merge.make import make_recipe

NO_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CARD])])
@pytest.mark.parametrize("dequantised", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_merge_has_the_weights_that_training_held(pico, pico_recipe, tmp_path, monkeypatch, device, dequantised):
    """With scales enough (30,720) that those of a CPU and a card would differ in some."""
    base, held = tmp_path / "base", {}
    shape = ModelShape(**SHAPE | {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 2, "head_dim": 64},
                       tokenizer=str(pico / "tokenizer"))  # fmt: skip
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    build_base(shape, pico / "tokenizer", END_OF_TEXT, seed=1).to(dtype).save_pretrained(base)
    for path in (pico / "tokenizer").iterdir():
        (base / path.name).write_text(path.read_text())

    def keep(model, folder):
        for name in nf4_states(model):
            weight = model.get_base_model().get_submodule(name).base_layer.weight
            state = getattr(weight, "quant_state", None)
            assert (state is None) == dequantised
            held[name] = (weight.data if state is None else dequantize_4bit(weight.data, state)).float().cpu()
        save_nf4(model, folder)

    monkeypatch.setattr(outputs, "save_nf4", keep)
    recipe = pico_recipe(
        model=str(base),
        compute_dtype=str(dtype).removeprefix("torch."),
        budget={"steps": 4, "tokens_per_step": 4 * ROW_TOKENS, "tokens": 4 * 4 * ROW_TOKENS},
        execution={"device": device, "micro_batch_rows": 2, "dequantised": dequantised},
    )
    cpt.train(recipe)
    merge(make_recipe(base, tmp_path / "out/adapter", tmp_path / "merged", base_weights="dequantized"))

    assert len(held) == 2 * 7
    assert sum(weight.numel() for weight in held.values()) == 64 * 30_720
    seen = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, weight in held.items():
        seen.get_submodule(name).weight.data = weight
    expected = PeftModel.from_pretrained(seen, tmp_path / "out/adapter").merge_and_unload().state_dict()
    merged = load_file(tmp_path / "merged/model.safetensors")
    different = {name: int((weight != expected[name].to(dtype)).sum()) for name, weight in merged.items()}
    assert not any(different.values()), different
