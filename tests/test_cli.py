"""The door, as a user meets it."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from nsllm_lite import cli
from nsllm_lite.run import GIB

ROOT = Path(__file__).parents[1]


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def fails(capsys, *words: str, code: int = 2) -> str:
    assert cli.main(list(words)) == code
    return capsys.readouterr().err


def test_help_is_quick():
    command = [sys.executable, "-m", "nsllm_lite.cli", "--help"]
    fastest = 9.0
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 0.3


VERBS = ["phase1", "phase2", "two-phase", "instruct", "plan", "corpus", "train", "tasks", "sft", "merge", "report"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    assert verb in capsys.readouterr().out


def test_unknown_recipe_key(capsys, at_root):
    text = fails(capsys, "train", "recipes/nano/phase1.yaml", "optimizer.lerning_rate=1e-4")
    assert "optimizer.lerning_rate: unknown key; did you mean `learning_rate`?" in text


def test_recipe_of_another_kind(capsys, at_root):
    assert "is a recipe of kind train: run `nsllm-lite train`" in fails(capsys, "corpus", "recipes/nano/phase1.yaml")


def test_missing_corpus(capsys, at_root):
    text = fails(capsys, "phase1", "--corpus", "no/such/papers", "--recipes", "recipes/nano")
    assert "CORPUS=no/such/papers: no such file or folder" in text


def test_corpus_without_a_card(capsys, at_root, tmp_path):
    text = fails(capsys, "phase1", "--corpus", str(tmp_path))
    assert "needs an NVIDIA card" in text
    assert "RECIPES=recipes/nano" in text


def test_a_large_model_is_not_started_on_a_cpu(capsys, at_root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * GIB))
    text = fails(capsys, "phase1", "--recipes", "recipes/qwen3-8b", "--out", str(tmp_path))
    assert "A model of 8.2 B parameters needs an NVIDIA card" in text
    assert cli.main(["plan", "--recipes", "recipes/qwen3-8b", "--out", str(tmp_path)]) == 0
    assert "Download   15.3 GiB" in capsys.readouterr().out


def test_settings_that_would_change_nothing_are_refused(capsys, at_root, tmp_path):
    text = fails(capsys, "phase1", "--out", str(tmp_path), "phase_1.budget.steps=5")
    assert "there is no step 'phase_1' here; did you mean phase1?" in text
    assert "in a whole run this path follows" in fails(capsys, "phase1", "--out", str(tmp_path), "phase1.out=x")
    text = fails(capsys, "instruct", "--out", str(tmp_path), "sft.heldout=[]")
    assert "Setting sft.heldout=[]: in a whole run this path follows" in text
    text = fails(capsys, "plan", "--model", str(tmp_path), "--out", str(tmp_path), "base.seed=1")
    assert "there is no step 'base' here" in text
    text = fails(capsys, "phase1", "--out", str(tmp_path), "--only", "report")
    assert "phase1 has no step of that kind" in text
    assert not list(tmp_path.iterdir())


def test_phase_2_without_phase_1(capsys, at_root, tmp_path):
    text = fails(capsys, "phase2", "--out", str(tmp_path / "run"))
    assert "Phase 2 starts from phase 1's merged model" in text
    assert "make phase1" in text


def test_instruct_without_phase_2(capsys, at_root, tmp_path):
    text = fails(capsys, "instruct", "--out", str(tmp_path / "run"))
    assert "This starts from phase 2's merged model" in text
    assert "make two-phase" in text
    for path in (ROOT / "recipes/nano").glob("*.yaml"):
        if path.stem != "sft":
            (tmp_path / path.name).write_text(path.read_text())
    text = fails(capsys, "instruct", "--recipes", str(tmp_path), "--out", str(tmp_path / "run"))
    assert f"No tasks.yaml, eval.yaml and sft.yaml in {tmp_path}" in text


def test_no_recipes_here(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "No recipes in recipes/nano" in fails(capsys, "phase1")


def test_merge_asks_for_its_folders(capsys):
    text = fails(capsys, "merge", "--base", "x")
    assert "adapter: is missing" in text
    assert "out: is missing" in text


def test_a_stopped_run_exits_with_3(capsys, monkeypatch, tmp_path, pico_recipe):
    from nsllm_lite.train import cpt

    def stops(recipe):
        raise RuntimeError("Step 7: loss nan")

    def runs_out(recipe):
        raise torch.OutOfMemoryError("CUDA out of memory")

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(pico_recipe().model_dump(mode="json")))
    monkeypatch.setattr(cpt, "train", stops)
    assert "Step 7: loss nan" in fails(capsys, "train", str(path), code=3)
    monkeypatch.setattr(cpt, "train", runs_out)
    assert "execution.micro_batch_rows=1" in fails(capsys, "train", str(path), code=3)


def test_two_hops_from_the_makefile_to_the_optimizer_step():
    """Makefile -> cli.py -> train(), whose body holds the step."""
    import inspect

    from nsllm_lite.train.cpt import train

    assert "@$(NSLLM) phase1" in (ROOT / "Makefile").read_text()
    assert "from nsllm_lite.train.cpt import train" in inspect.getsource(cli)
    assert "scaler.step(optimizer)" in inspect.getsource(train)
