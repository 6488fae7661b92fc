"""Inputs that are missing, damaged or do not belong together: what was found, what is needed, what to do."""

import json
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.formats.weights import TensorOnDisk, fingerprint_weights, read_header
from nsllm_lite.merge import arithmetic
from nsllm_lite.merge.write_model import merge
from tests.merge.make import edit_adapter, edit_json, edit_tensors, make_adapter, make_base, make_recipe
from tests.raising import raises


def set_values(base, adapter, **settings):
    edit_json(adapter / "adapter_config.json", **settings)


def set_tensors(base, adapter, tensors):
    edit_adapter(adapter, lambda held: held.update(tensors))


def write(file, content):
    """`file` below the folder of base and adapter, which `content` replaces."""
    return lambda base, adapter: (base.parent / file).write_bytes(content)


def index(base, name):
    (base / "model.safetensors").rename(base / "elsewhere.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))


TOKEN_ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
SETTINGS = {
    "settings of another kind": (
        {"r": "8", "rank_pattern": {"(": 4}}, "model-file-wrong", "adapter_config.json", "r: ", "rank_pattern.("),
    "rank": ({"r": 9}, "merge-adapter-contradicts", "states rank 9"),
    "saved module absent": ({"modules_to_save": ["lm_head"]}, "merge-saved-module-absent", "'lm_head'"),
    "tokens": ({"trainable_token_indices": [1]}, "merge-token-rows-absent"),
    "another name": (
        {"base_model_name_or_path": "org/Other-8B"}, "merge-base-name-differs", "org/Other-8B", "/base"),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, "merge-adapter-unsupported", "fan_in_fan_out=True"),
    "bias": ({"bias": "some"}, "merge-adapter-unsupported", "bias='some'"),
    "pissa": ({"init_lora_weights": "pissa"}, "merge-adapter-unsupported", "weights='pissa'"),
    "a bias of B": ({"lora_bias": True}, "merge-adapter-unsupported", "lora_bias=True"),
    "unheard of": ({"use_next": 1, "peft_type": "X"}, "merge-adapter-unsupported", "peft_type='X', use_ne"),
}  # fmt: skip
TENSORS = {
    "two of one name": (
        {Q + "A.default.weight": torch.ones(8, 64)},
        "adapter-tensors-twice", "q_proj.lora_A.default.weight and ", "q_proj.lora_A.weight, which"),
    "another layer": (
        {Q.replace("0", "7") + "A.weight": torch.ones(8, 64)},
        "merge-no-place-in-base", "model.layers.7.self_attn.q_proj.lora_A.weight", "set base=DIR"),
    "another prefix": (
        {Q.replace("model.layers", "decoder.layers") + "A.weight": torch.ones(8, 64)},
        "adapter-names-differ", "'decoder.' before 'layers.0.self_attn.q_proj'", "has 'model.'"),
    "embedding": (
        {Q + "embedding_A": torch.ones(8, 64)},
        "merge-no-place-in-base", "lora_B.weight, model.layers.0.self_attn.q_proj.lora_embedding_A"),
    "shape": (
        {Q + "A.weight": torch.ones(8, 60)},
        "merge-shape-differs", "q_proj.weight", "A (8, 60), B (64, 8)", "(64, 64)", "set base=DIR"),
    "rows alone": (
        {"base_model.model.model.embed_tokens.weight": torch.ones(207, 64)},
        "merge-resized-in-part", "'model.embed_tokens.weight': 207, 'lm_head.weight': 203"),
    "integers": (
        {Q + "A.weight": torch.ones(8, 64, dtype=torch.int64)}, "merge-dtype-unsupported", "q_proj.lora_A.weight"),
    "overflow": (
        {Q + "A.weight": torch.full((8, 64), 3.0), Q + "B.weight": torch.full((64, 8), 3e38)},
        "merge-not-finite", "q_proj.weight", "BF16"),
    "rows of no token": (
        {TOKEN_ROWS: torch.ones(2, 64)}, "merge-token-indices-wrong", "model.embed_tokens", "None"),
}  # fmt: skip
FILES = {
    "not safetensors": (
        "adapter/adapter_model.safetensors", b"PK pickled, in truth", "weights-not-safetensors", "adapter_model"),
    "means that are none": (
        "adapter/nf4.json", b'{"model.layers.0.mlp.up_proj": "x"}',
        "file-damaged", "nf4.json", "model.layers.0.mlp.up_proj: "),
    "training of another kind": (
        "adapter/training.json", b'{"base_fingerprint": 7}', "file-damaged", "training.json", "base_fingerprint: "),
    "another base": (
        "adapter/training.json", b'{"base": "org/other", "base_fingerprint": "f00d"}',
        "merge-base-differs", "org/other (weights f00d)"),
}  # fmt: skip
BREAKAGES = {
    "no base": (lambda b, a: shutil.rmtree(b), "model-not-found", "base"),
    "no config": (lambda b, a: (b / "config.json").unlink(), "merge-base-no-config", "base"),
    "cut short": (
        lambda b, a: os.truncate(b / "model.safetensors", (b / "model.safetensors").stat().st_size - 9),
        "weights-size-wrong", "model.safetensors"),
    "quantised base": (
        lambda b, a: edit_json(b / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "model-quantised", "(bitsandbytes)", "base"),
    "not finite base": (
        lambda b, a: edit_tensors(b / "model.safetensors", lambda t: t["model.norm.weight"][7].fill_(math.inf)),
        "weights-not-finite", "model.norm.weight", "base/model.safetensors"),
    "an index of nothing": (
        lambda b, a: (index(b, "x"), (b / "model.safetensors.index.json").write_text('{"weight_map": {"x": 1}}')),
        "weights-index-names-others", "index.json names '1'"),
    "shard absent": (lambda b, a: index(b, "model-2.safetensors"), "weights-shard-absent", "model-2.safetensors"),
    "shard with more": (
        lambda b, a: index(b, "elsewhere.safetensors"),
        "weights-index-differs", "elsewhere.safetensors", "'lm_head.weight'"),
    "no adapter": (
        lambda b, a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"),
        "merge-no-adapter", "adapter: adapter_model.safetensors"),
    "no partner": (
        lambda b, a: edit_adapter(a, lambda t: t.pop(Q + "B.weight")),
        "merge-no-place-in-base", "q_proj.lora_A.weight"),
    "nothing learned": (
        lambda b, a: edit_adapter(a, lambda t: [w.zero_() for n, w in t.items() if "lora_B" in n]),
        "merge-changes-nothing"),
    "rows of an unknown token": (
        lambda b, a: (set_tensors(b, a, {TOKEN_ROWS: torch.ones(2, 64)}),
                      set_values(b, a, trainable_token_indices=[5, 203])),
        "merge-shape-differs", "embed_tokens.weight", "(2, 64)", "(203, 64)"),
    "out exists": (lambda b, a: (b.parent / "out" / "thesis").mkdir(parents=True), "merge-out-exists", "out"),
}  # fmt: skip

BREAKAGES |= {name: (partial(set_values, **values), *error) for name, (values, *error) in SETTINGS.items()}
BREAKAGES |= {name: (partial(set_tensors, tensors=values), *error) for name, (values, *error) in TENSORS.items()}
BREAKAGES |= {name: (write(file, content), *error) for name, (file, content, *error) in FILES.items()}


@pytest.mark.parametrize("name", BREAKAGES)
def test_errors_say_what_was_found(copied, name):
    base, adapter, recipe = copied
    breaks, code, *quoted = BREAKAGES[name]
    breaks(base, adapter)
    with raises(code, *quoted):
        merge(recipe)
    assert not (Path(recipe.out) / "manifest.json").exists()


@pytest.mark.processes
def test_neither_peft_nor_transformers_is_imported():
    code = "import sys, nsllm_lite.merge.write_model; print([m for m in ('peft', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("proof", ["trust_base", "fingerprint"])
def test_a_base_under_another_name_needs_trust_or_its_fingerprint(copied, proof):
    base, adapter, chosen = copied
    moved = base.rename(base.parent / "elsewhere")
    chosen = chosen.model_copy(update={"base": str(moved)})
    with raises("merge-base-name-differs", "/base", moved):
        merge(chosen)
    if proof == "fingerprint":
        write_json(adapter / "training.json", {"base_fingerprint": fingerprint_weights(moved)})
    assert merge(chosen.model_copy(update={"trust_base": proof == "trust_base"}))["num_merged"] == 14


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
    with raises("merge-tied-weights-differ", "lm_head.weight", "model.embed_tokens.weight"):
        merge(make_recipe(base, adapter, tmp_path / "out"))


def test_nf4_means_of_unknown_modules_are_refused(copied):
    _, adapter, chosen = copied
    (adapter / "nf4.json").write_text('{"model.layers.7.mlp.up_proj": 0.1}')
    chosen = chosen.model_copy(update={"base_weights": "dequantized", "double_quantisation": True})
    with raises("merge-nf4-names-unknown", adapter / "nf4.json", "model.layers.7.mlp.up_proj.weight"):
        merge(chosen)


def test_a_slice_that_is_not_what_it_should_be_stops_the_merge(copied, monkeypatch):
    _, _, chosen = copied
    add = arithmetic.add_update

    def wrong(total, before, step, update, A, first, *rest):
        add(total, before, step, update, A, first, *rest)
        if first == 0:  # of all slices the first is looked at in any case
            total[0] += 1

    monkeypatch.setattr(arithmetic, "add_update", wrong)
    with raises("merge-slice-wrong"):
        merge(chosen)
    assert not Path(chosen.out + ".partial").exists()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_copied_must_be_finite_too(tmp_path, dtype, value):
    save_file({"w": torch.tensor([1.0, value, 2.0], dtype=dtype)}, tmp_path / "w.safetensors")
    stored = read_header(tmp_path / "w.safetensors")["w"]
    with raises("weights-not-finite", "w holds", tmp_path / "w.safetensors"):
        arithmetic.copy_bytes("w", stored, 0, stored.num_bytes, arithmetic.Buffers(3, 12))


def test_a_file_that_becomes_shorter_stops_the_run(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(8))
    with raises("file-shrank", path):
        TensorOnDisk(path, "F32", (4,), 0, 16).read(0, 16)
