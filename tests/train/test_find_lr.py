"""The learning-rate range test: what it proposes, where it ends, what it leaves alone."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import yaml

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.train import cpt, find_lr
from tests.conftest import ROW_TOKENS, make_rows
from tests.raising import fails, raises
from tests.train.test_cpt import step_losses
from tests.train.test_fallback import LAYERS, small_card  # noqa: F401  (a fixture)
from tests.train.test_sft import asked, home  # noqa: F401  (fixtures)

STEP = 2 * ROW_TOKENS
NAMES = ["find_lr.json", "find_lr.png", "manifest.json", "times.json"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows") / "rows", 200, "papers", 9)


@pytest.fixture
def recipe(pico_recipe, rows):
    """A function from changes to a recipe with rows enough."""
    budget = {"steps": 30, "tokens_per_step": STEP, "tokens": 30 * STEP}
    return lambda **changes: pico_recipe(**{"rows": str(rows), "budget": budget, "quantisation": "none", **changes})


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr(find_lr, "STEPS", 50)


def words_of(recipe, tmp_path) -> list[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    return [recipe.kind, str(path)]


def losses_of(results: dict) -> list[float]:
    return [point["loss"] for point in results["curve"]]


def test_training_with_the_proposal_learns_and_the_run_s_folder_is_not_touched(recipe, tmp_path, capsys):
    chosen = recipe(schedule={"shape": "constant", "warmup_steps": 0})
    out, beside = Path(chosen.out), Path(f"{chosen.out}-find-lr")
    out.mkdir()
    (out / "mine").write_text("x")
    words = words_of(chosen, tmp_path)
    assert cli.main([*words, "--find-lr"]) == 0
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert sorted(path.name for path in beside.iterdir()) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-find-lr", "recipe.yaml"]
    found, printed = read_json(beside / "find_lr.json"), capsys.readouterr().out
    (word,) = found["words"]
    assert word == f"optimizer.learning_rate={found['proposal']:.2g}"
    assert f"add: {word}\n" in printed
    rates = [point["learning_rate"] for point in found["curve"]]
    assert rates[0] == pytest.approx(1e-6)
    assert np.allclose(np.diff(np.log(rates)), math.log(1e5) / 49)
    (out / "mine").unlink()
    assert cli.main([*words, word, "budget.steps=80"]) == 0
    trained = step_losses(out)
    noise = statistics.stdev(losses_of(found)[:20])  # of rates at which nothing is learnt
    assert np.mean(trained[-10:]) < np.mean(trained[:10]) - noise
    # the same test is not made again, another is not written over it
    capsys.readouterr()
    written = (beside / "find_lr.json").stat().st_mtime_ns
    assert cli.main([*words, "--find-lr", "optimizer.learning_rate=1e-5", "schedule.warmup_steps=3"]) == 0
    assert f"add: {word}\n" in capsys.readouterr().out
    assert (beside / "find_lr.json").stat().st_mtime_ns == written
    fails(capsys, "finished-result-differs", *words, "--find-lr", "seed=4")


def test_its_steps_are_those_of_the_training(recipe, monkeypatch, tmp_path):
    """Where the rate does not rise, the losses are the same to the last bit."""
    monkeypatch.setattr(find_lr, "STEPS", 30)
    monkeypatch.setattr(find_lr, "LOWEST", 5e-3)
    monkeypatch.setattr(find_lr, "HIGHEST", 5e-3)
    chosen = recipe(quantisation="nf4", schedule={"shape": "constant", "warmup_steps": 0})
    cpt.train(chosen)
    found = find_lr.find_lr(chosen.model_copy(update={"out": str(tmp_path / "test")}))
    assert losses_of(found) == step_losses(chosen.out)


def test_a_diverging_end_is_cut(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(find_lr, "HIGHEST", 1.0)
    monkeypatch.setattr(find_lr, "DIVERGED", 1.3)
    found = find_lr.find_lr(recipe(adapter=None, out=str(tmp_path / "test")))
    losses = losses_of(found)
    assert len(losses) == found["steps"] < 50
    assert "1.3 times" in found["ended"]
    assert losses[-1] > 1.3 * min(losses)
    assert found["proposal"] < found["lowest"] < found["curve"][-1]["learning_rate"]


@pytest.mark.parametrize("step", [5, 35])
def test_a_loss_that_is_not_finite_ends_it(recipe, monkeypatch, tmp_path, step):
    calls, add = [], cpt.add_gradients

    def spoilt(*args):
        calls.append(0)
        return add(*args) * (math.nan if len(calls) == step else 1)

    monkeypatch.setattr(cpt, "add_gradients", spoilt)
    chosen = recipe(out=str(tmp_path / "test"))
    if step < find_lr.LEAST_STEPS:
        with raises("find-lr-no-curve", 4):
            find_lr.find_lr(chosen)
        assert not list(tmp_path.iterdir())
        return
    found = find_lr.find_lr(chosen)
    assert (found["steps"], found["proposal"]) == (step - 1, None)  # at so low rates nothing is learnt
    assert f"step {step}" in found["ended"]


RATES = find_lr.LOWEST * 1e5 ** (np.arange(100) / 99)


@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_a_curve_is_read(sigma):
    noise = sigma * np.random.default_rng(0).standard_normal(100)
    falls = -1 / (1 + (1e-4 / RATES) ** 2)  # fastest at 1e-4
    rises = np.where(RATES > 3e-3, np.log10(RATES / 3e-3), 0)
    seen = find_lr.read(RATES, 3 + falls + rises + noise)
    assert 0.5e-4 < seen.steepest < 2e-4
    assert 0.5e-3 < seen.lowest < 4e-3
    assert seen.proposal == pytest.approx((seen.steepest * seen.lowest / 10) ** 0.5)
    falling = find_lr.read(RATES, 3 + falls + noise - 0.1 * np.log10(RATES))
    assert "at the highest rate" in falling.why
    assert "at the highest rate" not in seen.why
    flat = find_lr.read(RATES, 3 + 5 * noise + rises)
    assert (flat.proposal, flat.steepest, flat.lowest) == (None, None, None)


def test_the_rates_of_embeddings_rise_with_the_others(recipe, tmp_path):
    adapter = recipe().adapter.model_dump() | {"modules_to_save": ["embed_tokens"]}
    optimizer = recipe().optimizer.model_dump() | {"learning_rate": 1e-3, "embedding_learning_rate": 1e-4}
    found = find_lr.find_lr(recipe(adapter=adapter, optimizer=optimizer, out=str(tmp_path / "test")))
    rate, of_embeddings = (float(word.partition("=")[2]) for word in found["words"])
    assert of_embeddings == pytest.approx(rate / 10, rel=0.06)


def test_instruction_tuning_has_it_too(asked, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(find_lr, "STEPS", 25)
    words = words_of(asked(), tmp_path)
    fails(capsys, "find-lr-too-few-rows", *words, "--find-lr", "examples_per_step=16")
    assert cli.main([*words, "--find-lr"]) == 0
    found = read_json(tmp_path / "out-find-lr/find_lr.json")
    assert found["steps"] == 25
    assert 1e-5 < found["proposal"] < 1e-2
    assert not (tmp_path / "out").exists()


def test_what_it_cannot_do_is_refused_and_leaves_nothing(recipe, tmp_path, capsys, monkeypatch):
    words = [*words_of(recipe(), tmp_path), "--find-lr"]
    steps = f"budget={{steps: 30, tokens_per_step: {32 * ROW_TOKENS}, tokens: {30 * 32 * ROW_TOKENS}}}"
    fails(capsys, "find-lr-too-few-rows", *words, steps)
    fails(capsys, "find-lr-saves-nothing", *words, "--save-on-signal", "USR1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    fails(capsys, "verb-not-distributed", *words)
    monkeypatch.delenv("WORLD_SIZE")
    mine = tmp_path / "out-find-lr/mine"
    mine.parent.mkdir()
    mine.write_text("x")
    fails(capsys, "find-lr-out-taken", *words)
    assert {path.name for path in tmp_path.rglob("*")} == {"recipe.yaml", "out-find-lr", "mine"}


def test_it_goes_on_with_a_leaner_execution(pico, recipe, tmp_path, small_card, monkeypatch):  # noqa: F811
    chosen = recipe(model=str(pico / "deep"), out=str(tmp_path / "test"))
    monkeypatch.setattr(find_lr, "STEPS", find_lr.LEAST_STEPS)
    assert find_lr.find_lr(chosen)["steps"] == find_lr.LEAST_STEPS
    assert len(small_card["planned"]) == 1 + LAYERS
