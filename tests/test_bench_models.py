"""The benches of merges and of prompts: what they measure is what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nsllm_lite.formats.rows import Rows
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks.sets import load_sets
from tests.evals.conftest import SMALL_TASKS
from tests.test_ablations import FEW

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        import fp8
        import prompts
        import rounding
        import tuned
    return {"fp8": fp8, "prompts": prompts, "rounding": rounding, "tuned": tuned}


def test_the_divergence_is_that_of_all_logits(bench, pico):
    rounding = bench["rounding"]
    rows = Rows(pico / "rows/general/heldout")
    sets = {"general": [rows[n] for n in range(min(3, len(rows)))]}
    lm = rounding.load(pico / "base", "none")
    reference = rounding.Reference(lm, sets)
    assert reference.divergence(lm, "general", sets["general"]) == pytest.approx(0, abs=1e-9)
    other = PackedLM(rounding.load(pico / "base", "none").model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    batch = collate(sets["general"], "cpu")
    right, told = (model.logits(batch).log_softmax(-1) for model in (lm, other))
    by_hand = torch.nn.functional.kl_div(told, right, log_target=True, reduction="batchmean").item()
    assert by_hand > 1e-6
    found = reference.divergence(other, "general", sets["general"])
    assert found == pytest.approx(by_hand, rel=1e-3, abs=1e-9)


def task_set(tmp_path, task: str):
    records = [{"instruction": "", "input": text, "output": answer} for text, answer in SMALL_TASKS[task]]
    path = tmp_path / f"{task}.json"
    path.write_text(json.dumps(records))
    file = {"name": task, "task": task, "path": str(path)}
    values = {"kind": "eval", "out": "x", "models": [{"name": "m", "path": "y"}], "tasks": None, "files": [file]}
    return load_sets(recipes.validate(values | {"seed": 0}, "test"))[0]


def test_rankings_take_out_what_they_say(bench, tmp_path):
    prompts = bench["prompts"]
    of = prompts.split(task_set(tmp_path, "moves"), 4)
    assert len(of.items) == 4
    assert not {item.input for item in of.items} & {item.input for item in of.pool}
    found = dict(prompts.ways(of, prompts.choose(of, 2)))
    assert list(found) == ["as eval asks", "bare"]
    rng = np.random.default_rng(0)
    raw = [rng.normal(size=len(row)) for row in found["bare"].answers]
    priors = [rng.normal(size=len(row)) for row in found["bare"].answers]
    ranked = dict(prompts.rankings(found["bare"], raw, priors))
    np.testing.assert_allclose(ranked["calibrated"][1], raw[1] - priors[1])
    shares = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(ranked["batch"]).argmax(1), (shares / shares.mean(0)).argmax(1))


def test_choices_are_asked_by_their_words_and_bytes(bench, tmp_path):
    prompts = bench["prompts"]
    of = prompts.split(task_set(tmp_path, "multiple_choice"), 5)
    found = dict(prompts.ways(of, ()))
    way = found["by text"]
    assert way.answers[0] == [f" {text}" for text in of.items[0].choices.values()]
    assert not any(text in prompt for row, prompt in zip(way.answers, way.prompts, strict=True) for text in row)
    raw = [np.full(3, -6.0)] * 5
    per_byte = dict(prompts.rankings(way, raw, raw))["per byte"]
    np.testing.assert_allclose(per_byte[0], [-6 / len(answer.encode()) for answer in way.answers[0]])


@pytest.mark.slow
def test_whole_runs(bench, tmp_path, capsys):
    """On the smallest chain: all ways and models are there, and nothing is done again."""
    bench["rounding"].main(["--seeds", "2", "--max-rows", "4", "--out", str(tmp_path), *FEW])
    told = (tmp_path / "rounding.md").read_text()
    for words in (
        "| phase 1, fp32, 16 bits |",
        "| phase 2, stochastic, NF4 |",
        "| phase 2, dequantized, nearest, NF4 |",
    ):
        assert words in told
    assert (tmp_path / "rounding.png").is_file()
    assert not list((tmp_path / "rounding").rglob("*.safetensors"))
    few = ["sft.steps=2", "sft.checkpoint_steps=2", "sft.evaluate_steps=2", "sft.schedule.warmup_steps=1",
           "sft.max_heldout_examples=8", "eval.max_items=2"]  # fmt: skip
    capsys.readouterr()
    bench["tuned"].main(["--seeds", "2", "--out", str(tmp_path), *FEW, *few])
    assert "phase2: finished, skipped" in capsys.readouterr().out
    told = (tmp_path / "tuned.md").read_text()
    assert "| moves, macro_f1 | instruction | 2 |" in told
    assert "| tuned from | loss of held-out answers before | after |" in told


@pytest.mark.slow
def test_float8_against_what_is_without_it(bench, tmp_path, capsys):
    bench["fp8"].main(["--seeds", "2", "--out", str(tmp_path), *FEW])
    told = json.loads((tmp_path / "fp8.json").read_text())
    plain, fp8 = (told["losses"][arm] for arm in ("as it stands", "products=fp8"))
    assert fp8["abstracts, before"] == plain["abstracts, before"]
    assert fp8["abstracts, after"] != plain["abstracts, after"]
    assert fp8["abstracts, after"] == pytest.approx(plain["abstracts, after"], rel=1e-2)
    assert told["cosines"].keys() == {f"{way}, {moment}" for way in ("bf16", "fp8") for moment in ("start", "end")}
    assert all(0.99 < cosine < 1 for by_layer in told["cosines"].values() for of in by_layer.values() for cosine in of)
    assert (tmp_path / "fp8.png").is_file()
    capsys.readouterr()
    bench["fp8"].main(["--seeds", "2", "--out", str(tmp_path), *FEW])
    assert "held-out" not in capsys.readouterr().out.partition("## ")[0], "not trained again"
