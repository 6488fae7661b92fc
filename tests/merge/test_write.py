"""What a merge leaves on the disk: whole, true, and the same after any kill."""

import errno
import json
import math
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from nsllm_lite import cli
from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.commands import typed
from nsllm_lite.formats.generation import stop_ids
from nsllm_lite.formats.weights import fingerprint_weights, read_header
from nsllm_lite.merge import write, write_model
from nsllm_lite.merge.write_model import merge
from tests.merge.make import assert_equals_peft, edit_adapter, edit_json, make_adapter, make_base, make_recipe
from tests.raising import raises


def test_directory_is_whole_and_the_manifest_true(copied, tmp_path):
    base, adapter, recipe = copied
    (base / "README.md").write_text("the base's own card")
    (base / "pytorch_model.bin").write_bytes(b"never copied")
    results = merge(recipe)
    out = tmp_path / "out"
    kept = ["README.md", "config.json", "files.json", "generation_config.json", "manifest.json", "model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == [*kept, "tensors.json", "times.json", "tokenizer.json"]
    manifest = read_manifest(out)
    assert manifest["results"] == results
    assert manifest["inputs"]["base"] == fingerprint_weights(base)
    assert manifest["inputs"]["adapter"] == sha256_file(adapter / "adapter_model.safetensors")
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
    results = merge(make_recipe(base, adapter, sharded, shard_bytes=50_000))
    shards = sorted(sharded.glob("*.safetensors"))
    assert results["sha256"] == {path.name: sha256_file(path) for path in shards}
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(sum(stored.num_bytes for stored in read_header(path).values()) <= 50_000 for path in shards)
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
    merge(recipe)
    merged = load_file(Path(recipe.out) / "model.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in extra.items())
    stored = read_header(Path(recipe.out) / "model.safetensors")
    assert all(tensor.start % merged[name].element_size() == 0 for name, tensor in stored.items())


def test_finished_is_skipped_and_other_inputs_are_refused(copied, capsys):
    _, adapter, recipe = copied
    results = merge(recipe)
    stamp = (Path(recipe.out) / "model.safetensors").stat().st_mtime_ns
    assert merge(recipe) == results
    assert capsys.readouterr().out.endswith("out: finished, skipped\n")
    assert (Path(recipe.out) / "model.safetensors").stat().st_mtime_ns == stamp
    edit_json(adapter / "adapter_config.json", lora_alpha=13)
    with raises("finished-result-differs", recipe.out, "adapter settings"):
        merge(recipe)


@pytest.fixture
def stopped(copied, monkeypatch):
    """A merge that is stopped when all but its manifest is written."""

    def stop(recipe):
        with monkeypatch.context() as patch:
            patch.setattr(write_model, "finish", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                merge(recipe)

    return stop


@pytest.mark.parametrize(("num_lines", "rounding"), [(1, None), (7, "stochastic")])
def test_merge_stopped_within_a_shard_goes_on_with_the_next_tensor(copied, stopped, monkeypatch, num_lines, rounding):
    recipe = copied[2].model_copy(update={"rounding": rounding})
    merge(recipe.model_copy(update={"out": recipe.out + ".whole"}))
    monkeypatch.setattr(write, "SYNC_BYTES", 1)
    stopped(recipe)
    progress = Path(recipe.out + ".partial") / write.PROGRESS
    progress.write_bytes(b"".join(progress.read_bytes().splitlines(keepends=True)[:num_lines]))
    merge(recipe)
    assert contents(Path(recipe.out)) == contents(Path(recipe.out + ".whole"))


def contents(folder):
    """All but the times, and the card's title, which is the folder's name."""
    return {
        path.name: path.read_bytes().replace(f"# {folder.name}\n".encode(), b"")
        for path in folder.iterdir() if path.name != "times.json"
    }  # fmt: skip


def test_a_partial_of_other_inputs_or_with_lost_files_is_not_gone_on_with(copied, stopped):
    _, adapter, recipe = copied
    partial = Path(recipe.out + ".partial")
    stopped(recipe)
    assert (partial / "model.safetensors").is_file()
    edit_json(adapter / "adapter_config.json", lora_alpha=13)
    merge(recipe)
    expected = contents(Path(recipe.out))
    Path(recipe.out).rename(recipe.out + ".before")
    stopped(recipe)
    (partial / "model.safetensors").write_bytes(b"cut")
    merge(recipe)
    assert contents(Path(recipe.out)) == expected


def test_neither_a_folder_of_the_user_s_nor_an_input_is_written_to(copied):
    base, _, recipe = copied
    mine = Path(recipe.out + ".partial") / "precious.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with raises("merge-partial-in-use", mine.parent, "precious.txt"):
        merge(recipe)
    assert mine.read_text() == "mine"
    with raises("merge-out-in-input", base / "merged"):
        merge(recipe.model_copy(update={"out": str(base / "merged")}))
    assert not (base / "merged.partial").exists()


def test_disk_is_checked_before_the_first_byte(copied, monkeypatch):
    recipe = copied[2]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Mock(free=0))
    with raises("disk-too-small", recipe.out):
        merge(recipe)
    assert not Path(recipe.out + ".partial").exists()


def test_the_words_of_the_command_line_reach_the_merge(pair, tmp_path, capsys):
    base, adapter = pair
    second = make_adapter(base, tmp_path / "second", seed=5)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    words = f"--base {base} --adapter {adapter}:0.5 --adapter {second} --out {tmp_path}/out"
    assert cli.main(f"merge {words} --dtype float32 --shard-bytes 1e5 --verify".split()) == 0
    recipe = read_manifest(tmp_path / "out")["recipe"]
    assert recipe["adapter"] == [{"path": str(adapter), "weight": 0.5}, {"path": str(second), "weight": 1.0}]
    assert (recipe["dtype"], recipe["shard_bytes"]) == ("float32", 100_000)
    assert (tmp_path / "out/chat_template.jinja").read_text() == "{{ messages }}"
    assert read_json(tmp_path / "out/config.json")["dtype"] == "float32"
    assert "verified: KL " in capsys.readouterr().out
    (base / "chat_template.jinja").unlink()
    assert typed.parse_adapter("C:/x") == {"path": "C:/x", "weight": 1.0}


def test_the_folder_is_loaded_as_any_other(copied):
    base, adapter, chosen = copied
    path = adapter / "training.json"
    write_json(path, (read_json(path) if path.is_file() else {}) | {"end_of_text_id": 7})
    (adapter / "files.json").unlink(missing_ok=True)
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "tin": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(base)
    merge(chosen)
    assert AutoTokenizer.from_pretrained(chosen.out)("tin").input_ids == [1]
    loaded, info = AutoModelForCausalLM.from_pretrained(chosen.out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.generation_config.pad_token_id == 0
    assert loaded.generation_config.eos_token_id == [*stop_ids(base)[:1], 7]  # where its answers end
    assert loaded.generate(torch.arange(1, 9)[None], max_new_tokens=2, do_sample=False).shape == (1, 10)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_merge_stopped_half_way_goes_on_to_the_same_bytes(pair, tmp_path, monkeypatch, error):
    recipe, whole = (make_recipe(*pair, tmp_path / name, shard_bytes=60_000) for name in ("out", "whole"))
    merge(whole)
    partial = tmp_path / "out.partial"
    written, put = [], write.put

    def stops(file, data):
        if sum(written) > 120_000:
            file.write(bytes(data)[: len(data) // 2])
            raise error
        written.append(len(data))
        return put(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(write, "put", stops)
        patch.setattr(write, "SYNC_BYTES", 10_000)
        with raises("disk-full", recipe.out) if isinstance(error, OSError) else pytest.raises(KeyboardInterrupt):
            cli.run_step(recipe)
    assert not (tmp_path / "out").exists()
    assert partial.is_dir()
    (partial / "model-00009-of-00009.safetensors").write_bytes(b"stale")
    num_bytes = sum(written)
    monkeypatch.setattr(write, "put", lambda file, data: written.append(len(data)) or put(file, data))
    merge(recipe)
    weights = (tmp_path / "out").glob("*.safetensors")
    assert sum(written) - num_bytes < 0.7 * sum(path.stat().st_size for path in weights)
    assert not partial.exists()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_update_that_no_entry_shows_is_told(copied, capsys):
    _, adapter, chosen = copied
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    edit_adapter(adapter, lambda tensors: tensors[name].mul_(1e-12))
    assert merge(chosen)["unchanged"] == ["model.layers.0.mlp.up_proj.weight"]
    assert "of model.layers.0.mlp.up_proj.weight" in capsys.readouterr().out
