"""Into which base: what `auto` and --compare measure; --verify, which no broken merge passes."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.merge import write, write_model
from nsllm_lite.merge.compare import lowest
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train.cpt import train
from tests.conftest import pico_values
from tests.merge.make import edit_adapter, make_recipe
from tests.models.make import load_plain
from tests.raising import fails, raises


@pytest.fixture(scope="module")
def trained(pico, tmp_path_factory):
    """A folder with an adapter trained on the pico base in NF4."""
    out = tmp_path_factory.mktemp("trained")
    train(recipes.validate(pico_values(pico, out), "pico recipe"))
    return out / "adapter"


@pytest.fixture
def choosing(pico, trained, tmp_path):
    def make(**changes):
        rows = str(pico / "rows/papers/heldout")
        return make_recipe(pico / "base", trained, tmp_path / "out", heldout_rows=rows, max_rows=4, **changes)

    return make


def loss_of(pico, directory, adapter=None, quantisation="none"):
    loaded = load_plain(directory, quantisation)
    lm = PackedLM(load_adapter(loaded, adapter) if adapter else loaded)
    rows = heldout.sample_rows(Rows(pico / "rows/papers/heldout"), 4)
    return heldout.score(lm, rows, 1, "cpu")["all"].loss


@pytest.mark.parametrize("then_requantize", [False, True])
def test_auto_writes_the_choice_with_the_lowest_measured_loss(pico, trained, choosing, tmp_path, then_requantize):
    results = merge(choosing(base_weights="auto", then_requantize=then_requantize))
    table = results["comparison"]
    assert results["base_weights"] == lowest(table, then_requantize)
    merged = {}
    for choice in ("original", "dequantized"):
        merge(choosing(base_weights=choice).model_copy(update={"out": str(tmp_path / choice)}))
        merged[choice] = load_file(tmp_path / choice / "model.safetensors")
        assert table[choice]["loss"] == pytest.approx(loss_of(pico, tmp_path / choice), abs=1e-6)
        in_nf4 = loss_of(pico, tmp_path / choice, quantisation="nf4")
        assert table[f"NF4({choice})"]["loss"] == pytest.approx(in_nf4, abs=1e-5)
    seen = loss_of(pico, pico / "base", trained, quantisation="nf4")
    assert table["adapter on NF4(base)"]["loss"] == pytest.approx(seen, abs=1e-6)
    assert table["adapter on NF4(base)"]["kl"] == pytest.approx(0, abs=1e-6)
    assert table["dequantized"]["loss"] == pytest.approx(seen, abs=1e-4)  # it reproduces training
    assert table["base"]["loss"] == pytest.approx(loss_of(pico, pico / "base"), abs=1e-6)
    written = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(weight, merged[results["base_weights"]][name]) for name, weight in written.items())
    card, manifest = (tmp_path / "out/README.md").read_text(), read_manifest(trained.parent)
    after = manifest["results"]["heldout"]["after"]["domain"]["all"]["loss"]
    for words in (manifest["inputs"]["rows"][:12], f"-> {after:.4f}", "| base |"):
        assert words in card, words


def test_compare_prints_the_table_and_writes_nothing(pico, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = str(pico / "rows/papers/heldout")
    words = ["--base", str(pico / "base"), "--adapter", str(trained), "--heldout-rows", rows, "--max-rows", "2"]
    assert cli.main(["merge", "--compare", *words]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 7
    assert "merged into dequantized" in printed
    assert "Lowest loss" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_that_training_resized_is_compared_too(pico, trained, tmp_path):
    adapter = shutil.copytree(trained, tmp_path / "adapter", ignore=lambda *_: ["files.json"])
    rows = load_file(pico / "base/model.safetensors")["model.embed_tokens.weight"]
    grown = {
        f"base_model.model.{name}.weight": torch.cat([rows, rows[:5]]) for name in ("model.embed_tokens", "lm_head")
    }
    edit_adapter(adapter, lambda held: held.update(grown))
    changes = {"heldout_rows": str(pico / "rows/papers/heldout"), "max_rows": 1, "base_weights": "auto"}
    table = merge(make_recipe(pico / "base", adapter, tmp_path / "out", **changes))["comparison"]
    assert abs(table["dequantized"]["loss"] - table["adapter on NF4(base)"]["loss"]) < 1e-4
    assert read_json(tmp_path / "out/config.json")["vocab_size"] == len(rows) + 5


def test_choosing_needs_rows_one_adapter_and_a_training_in_nf4(pico, trained, choosing, tmp_path, capsys):
    fails(capsys, "compare-no-rows", "merge", "--compare", "--base", str(pico / "base"), "--adapter", str(trained))
    several = [{"path": str(trained)}, {"path": str(trained)}]
    chosen = choosing(base_weights="auto").model_copy(update={"adapter": make_recipe("b", several, "o").adapter})
    with raises("compare-several-adapters", 2):
        merge(chosen)
    for training, code in (
        ({"quantisation": "none"}, "merge-not-trained-in-nf4"),
        ({"quantisation": "nf4"}, "merge-quantisation-not-stated"),
    ):
        copy = shutil.copytree(trained, tmp_path / training["quantisation"], ignore=lambda *_: ["files.json"])
        write_json(copy / "training.json", training | {"base_fingerprint": fingerprint_weights(pico / "base")})
        with raises(code, copy):
            merge(make_recipe(pico / "base", copy, tmp_path / "out", base_weights="dequantized"))
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("choice", ["original", "dequantized"])
def test_verify_accepts_what_answers_as_base_and_adapter_do(choosing, choice):
    chosen = choosing(base_weights=choice, execution={"verify": True})
    figures = merge(chosen)["verified"]
    assert figures["kl"] < 1e-5 < figures["kl_of_adapter"]
    assert figures["top1"] == 1
    assert "Loaded again" in (Path(chosen.out) / "README.md").read_text()


def test_verify_leaves_nothing_of_a_merge_that_lost_its_update(choosing, monkeypatch):
    merge_rows = write.merge_rows

    def lose(name, planned, operands, first, last, slot, sampled):
        data, figures = merge_rows(name, planned, operands, first, last, slot, sampled)
        if name.endswith(("self_attn.q_proj.weight", "self_attn.o_proj.weight")):  # 64 x 64 in 32 bits, as in the base
            data = planned.source.read_into(slot.read, first * 256, last * 256)
        return data, figures

    chosen = choosing(execution={"verify": True})
    monkeypatch.setattr(write, "merge_rows", lose)
    monkeypatch.setattr("nsllm_lite.merge.verify.MAX_KL", 1e-9)
    with raises("merge-verify-failed", chosen.out):
        merge(chosen)
    assert not Path(chosen.out).exists()
    assert not Path(chosen.out + ".partial").exists()


def test_verify_reads_the_files_again(choosing, monkeypatch):
    finish = write.write_weights

    def then_flip(folder, *rest):
        written = finish(folder, *rest)
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        return written

    monkeypatch.setattr(write_model, "write_weights", then_flip)
    with raises("merge-file-differs", "model.safetensors"):
        merge(choosing(execution={"verify": True}))
