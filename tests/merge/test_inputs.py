"""Inputs that are missing, damaged or do not belong together: what was found, what is needed, what to do."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nsllm_lite.merge import arithmetic, merge
from tests.merge.make import edit_adapter, edit_json, make_adapter, make_base, make_recipe


def edit_base(base, change):
    path = base / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def index(base, name):
    (base / "model.safetensors").rename(base / "elsewhere.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))


def safetensors_of(shape):
    """A file of one tensor of 32 bytes."""
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 32]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(32)


TOKEN_ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
BREAKAGES = {
    "no base": (lambda b, a: shutil.rmtree(b), "No model at .* Hugging Face model directory or a hub id"),
    "no safetensors": (
        lambda b, a: (b / "model.safetensors").unlink(),
        "neither model.safetensors nor its index.* convert",
    ),
    "cut short": (
        lambda b, a: (b / "model.safetensors").write_bytes((b / "model.safetensors").read_bytes()[:-9]),
        "cut short at .* fetch or copy it again",
    ),
    "not safetensors": (
        lambda b, a: (a / "adapter_model.safetensors").write_bytes(b"PK pickled, in truth"),
        "adapter_model.safetensors is not a safetensors file.* fetch or copy",
    ),
    "an impossible shape": (
        lambda b, a: (a / "adapter_model.safetensors").write_bytes(safetensors_of([-2, -4])),
        "adapter_model.safetensors is not a safetensors file.* fetch or copy",
    ),
    "an index of nothing": (
        lambda b, a: (index(b, "x"), (b / "model.safetensors.index.json").write_text('{"weight_map": {"x": 1}}')),
        "index.json names '1', which is no .*safetensors",
    ),
    "settings of another kind": (
        lambda b, a: edit_json(a / "adapter_config.json", r="8", rank_pattern={"(": 4}),
        r"adapter_config.json is damaged .r: .*rank_pattern.*no regular expression",
    ),
    "means that are none": (
        lambda b, a: (a / "nf4.json").write_text('{"model.layers.0.mlp.up_proj": "x"}'),
        "nf4.json is damaged .model.layers.0.mlp.up_proj: ",
    ),
    "training of another kind": (
        lambda b, a: (a / "training.json").write_text('{"base_fingerprint": 7}'),
        "training.json is damaged .base_fingerprint: ",
    ),
    "quantised base": (
        lambda b, a: edit_json(b / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "is quantised .bitsandbytes.* name the model it was quantised from",
    ),
    "no adapter": (
        lambda b, a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"),
        "No adapter at .*: adapter_model.safetensors missing.*run training first",
    ),
    "another base": (
        lambda b, a: (a / "training.json").write_text('{"base": "org/other", "base_fingerprint": "f00d"}'),
        "trained on another base: org/other .weights f00d., but base is .*base .weights .* Set base=DIR",
    ),
    "orphan": (
        lambda b, a: edit_adapter(a, lambda t: t.update({Q + "A.default.weight": torch.ones(8, 64)})),
        r"holds model.layers.0.self_attn.q_proj.lora_A.default.weight, which find no home .* set base=DIR",
    ),
    "no partner": (lambda b, a: edit_adapter(a, lambda t: t.pop(Q + "B.weight")), "q_proj.lora_A.weight, .* no home"),
    "shape": (
        lambda b, a: edit_adapter(a, lambda t: t.update({Q + "A.weight": torch.ones(8, 60)})),
        r"q_proj.weight: the adapter has A \(8, 60\), B \(64, 8\), which does not fit \(64, 64\).* set base=DIR",
    ),
    "rank": (lambda b, a: edit_json(a / "adapter_config.json", r=9), "does not fit rank 9 in adapter_config.json"),
    "not finite": (
        lambda b, a: edit_adapter(a, lambda t: t[Q + "B.weight"].view(-1)[7].fill_(math.nan)),
        "q_proj.lora_B.weight holds NaN or infinity in .*adapter_model.safetensors.* earlier checkpoint",
    ),
    "saved module absent": (
        lambda b, a: edit_json(a / "adapter_config.json", modules_to_save=["lm_head"]),
        "has 'lm_head' in modules_to_save, but the adapter holds no such tensor.* save the adapter again",
    ),
    "embedding": (
        lambda b, a: edit_adapter(a, lambda t: t.update({Q + "embedding_A": torch.ones(8, 64)})),
        "lora_B.weight, model.layers.0.self_attn.q_proj.lora_embedding_A, which find no home",
    ),
    "integers": (
        lambda b, a: edit_adapter(a, lambda t: t.update({Q + "A.weight": torch.ones(8, 64, dtype=torch.int64)})),
        "q_proj.weight of the base or of the adapter is neither bf16, fp16 nor fp32",
    ),
    "overflow": (
        lambda b, a: edit_adapter(a, lambda t: (t[Q + "A.weight"].fill_(3), t[Q + "B.weight"].fill_(3e38))),
        "q_proj.weight is not finite once merged into BF16.* check the adapter's held-out loss",
    ),
    "out exists": (
        lambda b, a: (b.parent / "out" / "thesis").mkdir(parents=True),
        "out exists and was not made by a finished merge.* OUT=DIR",
    ),
    "fan_in_fan_out": (
        lambda b, a: edit_json(a / "adapter_config.json", fan_in_fan_out=True),
        "with fan_in_fan_out=True",
    ),
    "bias": (lambda b, a: edit_json(a / "adapter_config.json", bias="some"), "with bias='some'"),
    "pissa": (lambda b, a: edit_json(a / "adapter_config.json", init_lora_weights="pissa"), "weights='pissa'"),
    "tokens": (
        lambda b, a: edit_json(a / "adapter_config.json", trainable_token_indices=[1]),
        "has trainable_token_indices, but the adapter holds no rows .* save the adapter again",
    ),
    "another name": (
        lambda b, a: edit_json(a / "adapter_config.json", base_model_name_or_path="org/Other-8B"),
        r"says that it was trained on org/Other-8B, but base is .*base\. .*--trust-base",
    ),
    "not finite base": (
        lambda b, a: edit_base(b, lambda t: t["model.norm.weight"][7:8].fill_(math.inf)),
        "model.norm.weight holds NaN or infinity in .*fetch or make that file again",
    ),
    "nothing learned": (
        lambda b, a: edit_adapter(a, lambda t: [w.zero_() for n, w in t.items() if "lora_B" in n]),
        "The adapter changes nothing: every B A is zero.* the result of a training",
    ),
    "shards outside": (
        lambda b, a: index(b, "../model.safetensors"),
        r"names files outside its folder \('\.\./model.safetensors'\).* refused",
    ),
    "shard absent": (lambda b, a: index(b, "model-2.safetensors"), "lacks model-2.safetensors, which its index names"),
    "no config": (lambda b, a: (b / "config.json").unlink(), "is no model directory: it has no config.json"),
    "rows of no token": (
        lambda b, a: edit_adapter(a, lambda t: t.update({TOKEN_ROWS: torch.ones(2, 64)})),
        "model.embed_tokens has trained rows, but trainable_token_indices in .* does not say which: None",
    ),
    "rows of an unknown token": (
        lambda b, a: (
            edit_adapter(a, lambda t: t.update({TOKEN_ROWS: torch.ones(2, 64)})),
            edit_json(a / "adapter_config.json", trainable_token_indices=[5, 203]),
        ),
        r"embed_tokens.weight: the adapter has \(2, 64\) for 2 tokens, which does not fit \(203, 64\)",
    ),
    "bias without a place": (
        lambda b, a: (
            edit_adapter(
                a, lambda t: t.update({n[:-6] + "bias": torch.ones(len(t[n])) for n in list(t) if "lora_B" in n})
            ),
            edit_json(a / "adapter_config.json", lora_bias=True),
        ),
        "was trained with lora_bias, but the base has no model.layers.0.mlp.down_proj.bias",
    ),
    "unheard of": (
        lambda b, a: edit_json(a / "adapter_config.json", use_next=1, peft_type="X"),
        "peft_type='X', use_ne",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_errors_say_what_was_found_and_what_to_do(copied, name):
    base, adapter, recipe = copied
    breaks, message = BREAKAGES[name]
    breaks(base, adapter)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        merge(recipe)
    assert not (Path(recipe.out) / "manifest.json").exists()


def test_neither_peft_nor_transformers_is_imported():
    code = "import sys, nsllm_lite.merge; print([m for m in ('peft', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_base_under_another_name_is_accepted_where_that_is_said(copied):
    base, _, chosen = copied
    moved = base.rename(base.parent / "elsewhere")
    chosen = chosen.model_copy(update={"base": str(moved)})
    with pytest.raises(ValueError, match=r"says that it was trained on .*/base, but base is .*elsewhere"):
        merge(chosen)
    assert merge(chosen.model_copy(update={"trust_base": True}))["num_merged"] == 14


def test_a_hub_s_cache_folder_has_the_name_of_its_model(copied):
    base, adapter, chosen = copied
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="Qwen/Qwen3-Pico-Base")
    snapshot = base.parent / "models--Qwen--Qwen3-Pico-Base" / "snapshots" / "0a1b2c"
    snapshot.parent.mkdir(parents=True)
    base.rename(snapshot)
    assert merge(chosen.model_copy(update={"base": str(snapshot)}))["num_merged"] == 14


def test_head_and_embeddings_kept_one_must_be_equal(tmp_path):
    base = make_base(tmp_path / "base", tied=True)
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    edit_adapter(adapter, lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(203, 64).bfloat16()}))
    with pytest.raises(ValueError, match=r"lm_head.weight is not its model.embed_tokens.weight, although"):
        merge(make_recipe(base, adapter, tmp_path / "out"))


def test_nf4_means_of_unknown_modules_are_refused(copied):
    _, adapter, chosen = copied
    (adapter / "nf4.json").write_text('{"model.layers.7.mlp.up_proj": 0.1}')
    chosen = chosen.model_copy(update={"base_weights": "dequantized", "double_quantisation": True})
    with pytest.raises(
        ValueError, match=r"nf4.json tells of model.layers.7.mlp.up_proj.weight, which the base has not"
    ):
        merge(chosen)


def test_a_slice_that_is_not_what_it_should_be_stops_the_merge(copied, monkeypatch):
    _, _, chosen = copied
    add = arithmetic.add_update

    def wrong(total, before, step, *rest):
        add(total, before, step, *rest)
        total[0] += 1

    monkeypatch.setattr(arithmetic, "add_update", wrong)
    with pytest.raises(RuntimeError, match=r"differs from W \+ s B A by .* more than rounding does"):
        merge(chosen)
    assert not Path(chosen.out + ".partial").exists()
