"""Numbers that are not finite, token ids that no model has, losses that stand out, and a learning rate too high."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train import checkpoint, cpt, spikes
from tests.conftest import pico_values
from tests.merge.make import edit_adapter, edit_tensors, make_adapter, make_recipe
from tests.models.make import load_plain
from tests.raising import raises
from tests.train import conftest as train_conftest

stop_before = train_conftest.stop_before
STEPS = {"steps": 30, "tokens_per_step": 64, "tokens": 30 * 64}


# ------------------------------------------------------------------------------------------------------ not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_base_that_is_not_finite_is_refused_and_its_tensor_named(pico, pico_recipe, tmp_path, value):
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(base / "model.safetensors", lambda tensors: tensors[name][100, 3].fill_(value))
    with raises("weights-not-finite", "layers.0.mlp.up_proj.weight", base / "model.safetensors"):
        cpt.train(pico_recipe(model=str(base)))
    assert not (tmp_path / "out").exists(), "nothing is begun that could not be continued with another base"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_adapter_that_is_not_finite_is_neither_merged_nor_scored(pico, tmp_path, dtype):
    adapter = make_adapter(pico / "base", tmp_path / "adapter", dtype=dtype)
    name = next(name for name in load_file(adapter / "adapter_model.safetensors") if "v_proj.lora_B" in name)
    edit_adapter(adapter, lambda tensors: tensors[name].view(-1)[5].fill_(math.nan))
    with raises("weights-not-finite", "v_proj.lora_B.weight", adapter / "adapter_model"):
        merge(make_recipe(pico / "base", adapter, tmp_path / "merged"))
    with raises("weights-not-finite", "v_proj.lora_B.weight", adapter / "adapter_model"):
        load_adapter(load_plain(pico / "base"), adapter)


def test_a_checkpoint_is_not_made_of_what_is_not_finite(pico_recipe, monkeypatch):
    """An optimizer step that overflows after a finite gradient: the checkpoint before stays the newest."""
    step = torch.optim.AdamW.step
    calls = []

    def overflow(self, *args):
        step(self, *args)
        calls.append(1)
        if len(calls) == 8:
            self.param_groups[0]["params"][3].data.view(-1)[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    asked = pico_recipe()
    with raises("checkpoint-not-finite", "Step 8", "lora_", "step-000004"):
        cpt.train(asked)
    assert checkpoint.newest(Path(asked.out) / "checkpoints").name == "step-000004"


def test_a_checkpoint_that_holds_what_is_not_finite_is_passed_over(tmp_path, capsys, monkeypatch):
    """As an earlier version could write it: whole, and of no use."""
    lm = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(lm.parameters(), lr=0.1)
    checkpoint.save(tmp_path, 1, lm, optimizer, {})
    lm.weight.data[1, 1] = math.nan
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_not_finite", lambda tensors: "")
        checkpoint.save(tmp_path, 2, lm, optimizer, {})
    assert checkpoint.newest(tmp_path).name == "step-000001"
    assert "step-000002: damaged (trained.safetensors: weight" in capsys.readouterr().out
    checkpoint.rotate(tmp_path, 2, 1)
    assert checkpoint.newest(tmp_path).name == "step-000001"


# ------------------------------------------------------------------------------------------------------- token ids


@pytest.mark.parametrize("token", [300, 2**31 - 1, -1])
def test_a_token_that_the_model_has_not_is_named_with_its_document(pico, pico_recipe, tmp_path, token):
    """One token of thousands, in rows that are trained on."""
    opened = Rows(pico / "rows/papers/train")
    rows = [opened[i] for i in range(len(opened))]
    rows[31].input_ids[rows[31].doc_lengths[0]] = token  # the first of its second document
    write_rows(tmp_path / "rows", rows, RowTotals(64, 0, "tokenizer-hash"))
    place = f"knows 300 (row 31, document {rows[31].doc_ids[1]})"
    with raises("rows-token-unknown", f"token {token}, ", place):
        cpt.train(pico_recipe(rows=str(tmp_path / "rows")))


def test_held_out_rows_of_another_vocabulary_are_refused(pico):
    lm = PackedLM(load_plain(pico / "base"))
    row = Row(np.array([5, 300, 0], np.int32), [3], ["arxiv:1"], ["papers"], [9])
    with raises("heldout-token-unknown", "arxiv:1", "token 300", "knows 300"):
        heldout.score(lm, [row], 1, "cpu")


# ------------------------------------------------------------------------------------------ spikes, learning rate


def judged(losses) -> spikes.SpikeDetector:
    return spikes.judge({"loss": float(loss)} for loss in losses)


def falling(rng: np.random.Generator, count: int, noise: float) -> np.ndarray:
    return (2 + 0.4 * np.exp(-np.arange(count) / 300)) * (1 + noise * rng.standard_normal(count))


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.1])
def test_noise_is_no_spike_and_no_sign_of_a_high_rate(noise):
    found = judged(falling(np.random.default_rng(7), 1_000, noise))
    assert (found.spikes, found.too_high) == ([], "")


@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_a_spike_is_found_wherever_it_stands(noise):
    losses = falling(np.random.default_rng(8), 400, noise)
    for place in (25, 133, 399):
        losses[place] *= 1.5
    found = judged(losses)
    assert (found.spikes, found.too_high) == ([26, 134, 400], "")


def test_a_rate_that_is_too_high_is_recognised():
    losses = falling(np.random.default_rng(9), 300, 0.03)
    rises = losses * np.where(np.arange(300) > 200, 1 + (np.arange(300) - 200) / 100, 1)
    assert "has risen to" in judged(rises).too_high
    assert 210 < judged(rises).too_high_step < 225, "a level is that of 10 steps"
    spiky = losses.copy()
    spiky[[150, 160, 170]] *= 2
    assert judged(spiky).too_high == "3 spikes of the loss within 50 steps"
    assert judged(spiky).too_high_step == 171
    jump = losses.copy()
    jump[2:] += 2.9
    assert judged(jump).too_high_step <= 12
    hump = losses.copy()
    hump[2:6] *= [1.2, 1.9, 1.7, 1.1]
    assert "began with" in judged(hump).too_high
    assert judged(hump).too_high_step <= 20


def test_a_spike_is_reported_once_and_the_same_after_a_resume(pico_recipe, tmp_path, monkeypatch, capsys, stop_before):
    """Steps 25 and 27 stand out; the run is killed at 29, after its checkpoint at 25, and continued."""

    def change(step, loss):
        return loss * (2.0 if step in (25, 27) else 1.0)

    write, see = cpt.outputs.Log.write, spikes.SpikeLog.see

    def write_changed(self, line):
        write(self, line | {"loss": change(line["step"], line["loss"])} if "loss" in line else line)

    def see_changed(self, step, loss, documents):
        see(self, step, change(step, loss), documents)

    monkeypatch.setattr(cpt.outputs.Log, "write", write_changed)
    monkeypatch.setattr(spikes.SpikeLog, "see", see_changed)
    evaluation = pico_recipe().evaluation.model_dump() | {"every_steps": 30}
    changes = {"budget": STEPS, "checkpoint_steps": 5, "evaluation": evaluation}
    whole = pico_recipe(out=str(tmp_path / "whole"), **changes)
    results = cpt.train(whole)
    said = capsys.readouterr().out
    assert results["spikes"] == 2
    assert results["learning_rate_too_high"] is None
    assert said.count("a spike, loss 1") == 2
    assert "2 spikes" in said
    lines = [json.loads(line) for line in (tmp_path / "whole/spikes.jsonl").read_text().splitlines()]
    order = cpt.step_order(whole, cpt.read_inputs(whole))
    for line, step in zip(lines, (25, 27), strict=True):
        documents = [name for row in order.rows(step - 1) for name in row.doc_ids]
        assert (line["step"], line["documents"], line["num_documents"]) == (step, documents, len(documents))
        assert line["usual"][0] < line["usual"][1] < line["loss"]

    killed = recipes.update(whole, out=str(tmp_path / "killed"))

    stop_before(cpt.train, killed, 29)
    capsys.readouterr()
    assert cpt.train(killed) == results
    assert capsys.readouterr().out.count("a spike") == 1, "that of step 27, which is done again"
    for name in ("spikes.jsonl", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_kept_and_said_of_spikes_is_bounded(pico_recipe, tmp_path, capsys):
    watch = spikes.SpikeLog(tmp_path, pico_recipe(), [])
    for step in range(1, 3_001):
        watch.see(step, 9.0 if step > 30 and step % 10 == 0 else 2.0 + 0.01 * (step % 7), ["name"] * 5_000)
    lines = (tmp_path / "spikes.jsonl").read_text().splitlines()
    assert len(lines) == spikes.MAX_LINES
    assert {len(json.loads(line)["documents"]) for line in lines} == {spikes.MAX_DOCUMENTS}
    said = capsys.readouterr().out
    assert said.count("a spike") == spikes.MAX_SAID
    assert said.count("too high: 3 spikes") == 1
    assert "later ones" in said


@pytest.mark.slow
def test_a_real_run_says_that_its_rate_is_too_high_and_one_at_the_right_rate_does_not(pico, tmp_path, capsys):
    """A model that has learned its rows, tuned on at the rate it was made with and at a thousand times that."""

    def recipe(out: str, steps: int, rate: float, **changes):
        values = {**pico_values(pico, tmp_path / out), "checkpoint_steps": 60, "replay": "none", **changes}
        values["budget"] = {"steps": steps, "tokens_per_step": 256, "tokens": steps * 256}
        values["optimizer"]["learning_rate"] = rate
        values["evaluation"]["every_steps"] = steps
        return recipes.validate(values, out)

    learned = cpt.train(recipe("learned", 60, 1e-2, adapter="none", quantisation="none"))
    assert learned["last_loss"] < learned["first_loss"] - 1.5
    for rate, too_high in ((1e-3, False), (1.0, True)):
        capsys.readouterr()
        results = cpt.train(recipe(str(rate), 16, rate, model=str(tmp_path / "learned/model")))
        said = capsys.readouterr().out
        assert bool(results["learning_rate_too_high"]) == too_high, said
        assert ("seems too high: " in said) == too_high
        if too_high:
            assert "learning_rate is 1, after 2 steps of warm-up: try 0.3 or 0.1" in said
            assert "(optimizer.learning_rate=1)" in said, "in the summary too"
