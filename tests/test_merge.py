"""`merge` against PEFT's `merge_and_unload`, bit for bit, on pico models; its errors; a merge killed half-way."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from nsllm_lite import merge as merging
from nsllm_lite import recipe as recipes
from nsllm_lite import run, weights

# 130 rows leave a remainder behind slices of 64; 96 x 64 head rows are whole slices.
SHAPE = {"hidden_size": 64, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 203, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(folder: Path, dtype=torch.bfloat16, config=Qwen3Config, tied=False, **save) -> Path:
    torch.manual_seed(0)
    heads = {"head_dim": 16} if config is Qwen3Config else {}
    model = AutoModelForCausalLM.from_config(config(**SHAPE, **heads, tie_word_embeddings=tied), dtype=dtype)
    model.save_pretrained(folder, **save)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def make_adapter(base: Path, folder: Path, dtype=None, **lora) -> Path:
    """A LoRA adapter whose every trained tensor is random and non-zero."""
    torch.manual_seed(1)
    settings = {"r": 8, "lora_alpha": 12, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"} | lora
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder)
    if dtype is not None:
        path = folder / "adapter_model.safetensors"
        save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    return folder


def make_recipe(base: Path, adapter: Path, out: Path, max_shard_gib: float = 4.0) -> recipes.Merge:
    paths = {"base": str(base), "adapter": str(adapter), "out": str(out)}
    return recipes.Merge(kind="merge", base_weights="original", max_shard_gib=max_shard_gib, **paths)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A bf16 Qwen3 base and a plain adapter; tests that change them work on copies."""
    folder = tmp_path_factory.mktemp("pair")
    base = make_base(folder / "base")
    return base, make_adapter(base, folder / "adapter")


@pytest.fixture
def copied(pair, tmp_path) -> tuple[Path, Path, recipes.Merge]:
    base, adapter = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in pair)
    return base, adapter, make_recipe(base, adapter, tmp_path / "out")


@pytest.fixture(autouse=True)
def pico_sized(monkeypatch):
    """The least slices, so that pico tensors are cut too; one thread, because more only wait for each other here."""
    monkeypatch.setattr(weights, "SLICE_BYTES", 1)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def assert_equals_peft(base: Path, adapter: Path, out: Path) -> dict:
    """Merges and compares the files, the reloaded weights and the logits with PEFT's; returns the results."""
    results = merging.merge(make_recipe(base, adapter, out))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
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


KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True, "init_lora_weights": "gaussian"},
    "patterns": {
        "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.down_proj": 5, "proj": 100},
        "alpha_pattern": {"^model.layers.0.self_attn.k_proj": 7, "mlp.gate_proj": 33},
    },
    "some_layers": {"layers_to_transform": [1], "target_modules": ["q_proj", "up_proj"]},
    "dora": {"use_dora": True, "use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "saved_both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved_head": {"modules_to_save": ["lm_head"]},
    "saved_embeddings": {"modules_to_save": ["embed_tokens"]},
    "saved_and_tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "lora_head": {"target_modules": ["lm_head", "o_proj"]},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_equals_peft(tmp_path, kind, tied):
    base = make_base(tmp_path / "base", tied=tied)
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    if kind == "lora_head" and tied:
        with pytest.raises(ValueError, match="holds LoRA on tied embeddings: lm_head"):
            merging.merge(make_recipe(base, adapter, tmp_path / "out"))
        return
    results = assert_equals_peft(base, adapter, tmp_path / "out")
    num_saved = {"saved_both": 2, "saved_head": 1, "saved_embeddings": 1, "saved_and_tied": 1}.get(kind, 0)
    assert results["num_replaced"] == num_saved
    assert results["num_merged"] == {"some_layers": 2, "lora_head": 3}.get(kind, 14)
    assert results["untied_embeddings"] == (tied and kind in ("saved_both", "saved_head", "saved_embeddings"))


@pytest.mark.parametrize("config", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_base_dtype_equals_peft(tmp_path, dtype, config):
    torch.set_num_threads(2)
    base = make_base(tmp_path / "base", dtype, config)
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    path = adapter / "adapter_model.safetensors"  # a head saved in fp32 is cast to the base's dtype
    save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path)
    results = assert_equals_peft(base, adapter, tmp_path / "out")
    assert (results["absorbed_share"] < 1e-4) == (dtype == torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapter_stored_in_16_bits_equals_peft(pair, tmp_path, dtype):
    adapter = make_adapter(pair[0], tmp_path / "adapter", dtype)
    assert_equals_peft(pair[0], adapter, tmp_path / "out")


def test_embedding_saved_without_being_asked_for_is_loaded_as_peft_does(copied, tmp_path):
    base, adapter, _ = copied
    path = adapter / "adapter_model.safetensors"
    weight = torch.randn(203, 64).bfloat16()
    save_file(load_file(path) | {"base_model.model.model.embed_tokens.weight": weight}, path)
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


def test_directory_is_whole_and_the_manifest_true(copied, tmp_path):
    base, adapter, recipe = copied
    (base / "README.md").write_text("the base's own card")
    (base / "pytorch_model.bin").write_bytes(b"never copied")
    results = merging.merge(recipe)
    out = tmp_path / "out"
    kept = ["config.json", "generation_config.json", "manifest.json", "model.safetensors", "times.json"]
    assert sorted(path.name for path in out.iterdir()) == [*kept, "tokenizer.json"]
    manifest = run.read_manifest(out)
    assert manifest["results"] == results
    assert manifest["inputs"]["base"] == run.fingerprint_weights(base)
    assert manifest["inputs"]["adapter"] == run.sha256_file(adapter / "adapter_model.safetensors")
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    deltas, same, entries = [], 0, 0
    for name, weight in before.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if prefix + "A.weight" not in lora:
            assert torch.equal(weight, after[name])
            continue
        deltas.append((lora[prefix + "B.weight"] @ lora[prefix + "A.weight"]).abs().max().item() * 12 / 8)
        same += (weight == after[name]).sum().item()
        entries += weight.numel()
    assert (results["num_merged"], results["num_copied"]) == (14, len(before) - 14)
    assert results["num_bytes"] == sum(weight.nbytes for weight in before.values())
    assert math.isclose(results["max_abs_delta"], max(deltas), rel_tol=1e-6)
    assert results["absorbed_share"] == same / entries > 0


def test_sharded_in_and_out(tmp_path):
    base = make_base(tmp_path / "base", max_shard_size="60KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    adapter = make_adapter(base, tmp_path / "adapter")
    assert_equals_peft(base, adapter, tmp_path / "whole")
    sharded = tmp_path / "sharded"
    merging.merge(make_recipe(base, adapter, sharded, max_shard_gib=50_000 / 2**30))
    shards = sorted(sharded.glob("*.safetensors"))
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(path.stat().st_size < 60_000 for path in shards)
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    many = AutoModelForCausalLM.from_pretrained(sharded).state_dict()
    assert all(torch.equal(one[name], many[name]) for name in one | many)
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())


def test_tensors_of_mixed_width_stay_aligned(copied):
    """Two shards become one: the odd bytes that end the first must not come before the wide entries of the second."""
    base, _, recipe = copied
    extra = {"odd": torch.ones(3, dtype=torch.uint8), "wide": torch.ones(5, dtype=torch.float64)}
    weights = load_file(base / "model.safetensors")
    save_file({"odd": extra["odd"]} | weights, base / "model-00001-of-00002.safetensors")
    save_file({"wide": extra["wide"]}, base / "model-00002-of-00002.safetensors")
    (base / "model.safetensors").unlink()
    weight_map = dict.fromkeys(["odd", *weights], "model-00001-of-00002.safetensors")
    weight_map["wide"] = "model-00002-of-00002.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    merging.merge(recipe)
    merged = load_file(Path(recipe.out) / "model.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in extra.items())
    stored = merging.read_header(Path(recipe.out) / "model.safetensors")
    assert all(tensor.start % merged[name].element_size() == 0 for name, tensor in stored.items())


def test_finished_is_skipped_and_other_inputs_are_refused(copied, capsys):
    _, adapter, recipe = copied
    results = merging.merge(recipe)
    stamp = (Path(recipe.out) / "model.safetensors").stat().st_mtime_ns
    assert merging.merge(recipe) == results
    assert capsys.readouterr().out.endswith("out: finished, skipped\n")
    assert (Path(recipe.out) / "model.safetensors").stat().st_mtime_ns == stamp
    edit_json(adapter / "adapter_config.json", lora_alpha=13)
    with pytest.raises(ValueError, match=r"made differently .*adapter_scales"):
        merging.merge(recipe)


def test_merge_stopped_half_way_leaves_no_result_and_runs_again(copied, monkeypatch):
    _, _, recipe = copied
    out, partial = Path(recipe.out), Path(recipe.out + ".partial")
    whole, calls = merging.pieces, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(merging, "pieces", stops)
    with pytest.raises(KeyboardInterrupt):
        merging.merge(recipe)
    assert not out.exists()
    assert partial.is_dir()
    (partial / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    monkeypatch.setattr(merging, "pieces", whole)
    merging.merge(recipe)
    assert not partial.exists()
    assert len(list(out.glob("*.safetensors"))) == 1
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generate(torch.arange(1, 9)[None], max_new_tokens=2, do_sample=False).shape == (1, 10)


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_adapter(adapter: Path, change) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
BREAKAGES = {
    "no base": (lambda b, a: shutil.rmtree(b), "No model at .* Hugging Face model directory or a hub id"),
    "no safetensors": (
        lambda b, a: (b / "model.safetensors").unlink(),
        "No model.safetensors nor its index .* convert",
    ),
    "cut short": (
        lambda b, a: (b / "model.safetensors").write_bytes((b / "model.safetensors").read_bytes()[:-9]),
        "cut short at .* fetch or copy it again",
    ),
    "not safetensors": (
        lambda b, a: (a / "adapter_model.safetensors").write_bytes(b"PK pickled, in truth"),
        "adapter_model.safetensors is not a safetensors file.* fetch or copy",
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
        r"NaN or infinity in model.layers.0.self_attn.q_proj.lora_B.weight\. .* earlier checkpoint",
    ),
    "saved module absent": (
        lambda b, a: edit_json(a / "adapter_config.json", modules_to_save=["lm_head"]),
        "has 'lm_head' in modules_to_save, but the adapter holds no such tensor.* save the adapter again",
    ),
    "embedding": (
        lambda b, a: edit_adapter(a, lambda t: t.update({Q + "embedding_A": torch.ones(8, 64)})),
        "holds LoRA on embeddings: .*modules_to_save",
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
    "bias": (lambda b, a: edit_json(a / "adapter_config.json", bias="all"), "with bias='all'"),
    "pissa": (lambda b, a: edit_json(a / "adapter_config.json", init_lora_weights="pissa"), "weights='pissa'"),
    "tokens": (
        lambda b, a: edit_json(a / "adapter_config.json", trainable_token_indices=[1]),
        "with trainable_token_i",
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
        merging.merge(recipe)
    assert not (Path(recipe.out) / "manifest.json").exists()


def test_disk_is_checked_before_the_first_byte(copied, monkeypatch):
    _, _, recipe = copied
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ValueError, match="Not enough disk for the merged model"):
        merging.merge(recipe)
    assert not Path(recipe.out + ".partial").exists()


def test_training_on_this_base_is_accepted(copied):
    base, adapter, recipe = copied
    fingerprint = run.fingerprint_weights(base)
    (adapter / "training.json").write_text(json.dumps({"base": "somewhere else", "base_fingerprint": fingerprint}))
    assert merging.merge(recipe)["num_merged"] == 14


def test_neither_peft_nor_transformers_is_imported():
    code = "import sys, nsllm_lite.merge; print([m for m in ('peft', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
