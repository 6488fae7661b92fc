"""The merge against PEFT's `merge_and_unload`, bit for bit, for every kind of adapter and base."""

from itertools import product

import pytest
import torch
from peft import EvaConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from nsllm_lite.formats import weights
from nsllm_lite.merge.write_model import merge
from tests.merge.make import assert_equals_peft, edit_adapter, make_adapter, make_base, make_recipe, merged_by_peft
from tests.raising import raises

KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True, "init_lora_weights": "gaussian"},
    "eva": {"init_lora_weights": "eva", "eva_config": EvaConfig()},  # it says where A and B began
    "patterns": {
        "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.down_proj": 5, "proj": 100},
        # the last is the beginning of a module's name only
        "alpha_pattern": {"^model.layers.0.self_attn.k_proj": 7, "mlp.gate_proj": 33, "mlp.up": 99},
    },
    "some_layers": {"layers_to_transform": [1], "target_modules": ["q_proj", "up_proj"]},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "dora": {"use_dora": True, "use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "saved_both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved_head": {"modules_to_save": ["lm_head"]},
    "saved_embeddings": {"modules_to_save": ["embed_tokens"]},
    "saved_and_tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "lora_head": {"target_modules": ["lm_head", "o_proj"]},
    "lora_embeddings": {"target_modules": ["embed_tokens", "o_proj"]},
    "token_rows": {"trainable_token_indices": {"embed_tokens": [3, 170, 0]}},
}

# Of a tied head they say nothing
LAYERS_ALONE = (
    "plain",
    "rslora",
    "eva",
    "patterns",
    "some_layers",
    "bf16",
    "fp16",
    "dora",
)
CONFIGS = (Qwen3Config, Qwen2Config, LlamaConfig, MistralConfig, Gemma2Config)
HEAD = "base_model.model.lm_head.weight"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FEW_BASES = [*((Qwen3Config, dtype) for dtype in DTYPES), (Qwen2Config, torch.float32), (Gemma2Config, torch.float32)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "tied"),
    [
        pytest.param(kind, tied, marks=[pytest.mark.slow] if tied and kind in LAYERS_ALONE else [])
        for kind in KINDS for tied in (False, True)
    ],
)  # fmt: skip
def test_every_kind_of_adapter_equals_peft(tmp_path, kind, tied):
    base = make_base(tmp_path / "base", tied=tied)
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    if kind in ("lora_head", "lora_embeddings") and tied:
        with raises("merge-lora-on-tied-embeddings", "lm_head" if kind == "lora_head" else "model.embed_tokens"):
            merge(make_recipe(base, adapter, tmp_path / "out"))
        return
    results = assert_equals_peft(base, adapter, tmp_path / "out")
    head_too = not tied and HEAD in load_file(adapter / "adapter_model.safetensors")  # PEFT before 0.21
    num_saved = {"saved_both": 2, "saved_head": 1, "saved_embeddings": 1, "saved_and_tied": 1 + head_too}
    assert results["num_replaced"] == num_saved.get(kind, 0)
    num_merged = {"some_layers": 2, "lora_head": 3, "lora_embeddings": 3, "token_rows": 15}
    assert results["num_merged"] == num_merged.get(kind, 14)
    assert results["untied_embeddings"] == (tied and kind in ("saved_both", "saved_head", "saved_embeddings"))


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        pytest.param(config, dtype, marks=[] if (config, dtype) in FEW_BASES else [pytest.mark.slow])
        for config, dtype in product(CONFIGS, DTYPES)
    ],
)
def test_every_base_dtype_equals_peft(tmp_path, dtype, config):
    torch.set_num_threads(2)
    base = make_base(tmp_path / "base", dtype, config)
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    # a head saved in fp32 is cast to the base's dtype
    edit_adapter(adapter, lambda tensors: tensors.update({name: tensor.float() for name, tensor in tensors.items()}))
    results = assert_equals_peft(base, adapter, tmp_path / "out")
    assert (results["absorbed_share"] < 1e-4) == (dtype == torch.float32)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_head_that_training_tied_is_replaced_with_the_embeddings(tmp_path):
    """With ensure_weight_tying PEFT before 0.21 ties the head of an untied base too, and writes it twice."""
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS["saved_and_tied"])
    edit_adapter(adapter, lambda t: t.update({HEAD: t["base_model.model.model.embed_tokens.weight"].clone()}))
    results = assert_equals_peft(base, adapter, tmp_path / "out")
    assert (results["num_replaced"], results["untied_embeddings"]) == (2, False)
    merged = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])


@pytest.mark.parametrize("bias", [{"bias": "all"}, {"bias": "lora_only"}], ids=str)
def test_biases_equal_peft(tmp_path, bias):
    base = make_base(tmp_path / "base", config=Qwen2Config)  # its query, key and value projections have biases
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"], **bias)
    biases = [name for name in load_file(adapter / "adapter_model.safetensors") if name.endswith(".bias")]
    if biases or bias["bias"] == "all":
        results = assert_equals_peft(base, adapter, tmp_path / "out")
        assert (results["num_replaced"], results["num_merged"]) == ({"all": 6, "lora_only": 4}[bias["bias"]], 4)
    edit_adapter(adapter, lambda tensors: [tensors.pop(name) for name in biases])  # as PEFT before 0.21 does
    with raises("merge-biases-absent", *bias.values(), "model.layers.0.self_attn.q_proj.bias"):
        merge(make_recipe(base, adapter, tmp_path / "without"))


def test_several_adapters_in_turn_equal_peft(pair, tmp_path):
    base, first = pair
    lora = {"r": 4, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]}
    second = make_adapter(base, tmp_path / "second", seed=2, **lora)
    adapters = [{"path": str(first), "weight": 0.3}, {"path": str(second), "weight": -1.7}]
    theirs = merged_by_peft(base, [first, second], [0.3, -1.7])
    assert_equals_peft(base, adapters, tmp_path / "out", theirs)


@pytest.mark.parametrize(
    ("settings", "what"), [({"modules_to_save": ["lm_head"]}, "lm_head.weight"), ({"use_dora": True}, "DoRA")]
)
def test_what_does_not_add_is_neither_one_of_several_nor_weighted(tmp_path, settings, what):
    base = make_base(tmp_path / "base")
    adapter = str(make_adapter(base, tmp_path / "adapter", **settings))
    with raises("merge-not-one-of-several", adapter, what):
        merge(make_recipe(base, [{"path": adapter}, {"path": adapter}], tmp_path / "out"))
    with raises("merge-weight-meaningless", adapter, what, 0.5):
        merge(make_recipe(base, [{"path": adapter, "weight": 0.5}], tmp_path / "out"))


@pytest.mark.parametrize("name", ["float16", "float32", "bfloat16"])
def test_another_dtype_equals_peft_on_a_base_loaded_so(tmp_path, name):
    stored, dtype = torch.float32 if name != "float32" else torch.bfloat16, getattr(torch, name)
    base = make_base(tmp_path / "base", stored)
    adapter = make_adapter(base, tmp_path / "adapter")
    theirs = merged_by_peft(base, [adapter], dtype=dtype)
    assert_equals_peft(base, adapter, tmp_path / "out", theirs, dtype=name)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == dtype


def test_embedding_saved_without_being_asked_for_is_loaded_as_peft_does(copied, tmp_path):
    base, adapter, _ = copied
    weight = torch.randn(203, 64).bfloat16()
    edit_adapter(adapter, lambda tensors: tensors.update({"base_model.model.model.embed_tokens.weight": weight}))
    assert assert_equals_peft(base, adapter, tmp_path / "out")["num_replaced"] == 1


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 127, 128, 130, 777, 1030])
@pytest.mark.parametrize("slice_bytes", [1, 500_000])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_product_in_slices_has_the_bits_of_the_whole(monkeypatch, rows, slice_bytes, num_threads):
    torch.set_num_threads(num_threads)
    monkeypatch.setattr(weights, "SLICE_BYTES", slice_bytes)
    A_RI, B_OR = torch.randn(64, 515), torch.randn(rows, 64)
    cut = list(weights.slices(rows, 4 * 515))
    assert [first for first, _ in cut] == [0, *(last for _, last in cut[:-1])]
    assert all(last - first >= min(rows, 64) for first, last in cut)
    assert torch.equal(torch.cat([B_OR[first:last] @ A_RI for first, last in cut]), B_OR @ A_RI)
