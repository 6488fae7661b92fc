"""Two processes on one CPU train as one does."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.train import cpt
from nsllm_lite.train.processes import Processes
from tests.raising import raises
from tests.train.test_cpt import metrics, step_losses

# What `accelerate launch` does on a machine with two cards; on a CPU it would want MPI.
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCH += ["-m", "nsllm_lite.cli", "train"]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(pico_recipe, tmp_path):
    one, two = (pico_recipe(out=str(tmp_path / name), replay=None) for name in ("one", "two"))
    cpt.train(one)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two.model_dump(mode="json")))
    done = subprocess.run([*LAUNCH, str(tmp_path / "two.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("held-out domain") == 1, "one process speaks"
    assert step_losses(Path(two.out)) == pytest.approx(step_losses(Path(one.out)), rel=2e-5)
    assert step_losses(Path(two.out)) != step_losses(Path(one.out)), "they really were computed differently"
    assert read_json(Path(two.out) / "times.json")["processes"] == 2
    last = [metrics(Path(recipe.out))[-1] for recipe in (one, two)]
    assert last[0]["tokens"] == last[1]["tokens"]
    adapters = [load_file(Path(recipe.out) / "adapter/adapter_model.safetensors") for recipe in (one, two)]
    assert all(torch.allclose(adapters[0][n], adapters[1][n], rtol=1e-2, atol=2e-4) for n in adapters[0])
    results = read_manifest(Path(two.out))["results"]
    assert results["tokens"] == read_manifest(Path(one.out))["results"]["tokens"]
    assert [line["step"] for line in metrics(two.out) if "heldout" in line] == [0, 4, 8, 12]


@pytest.mark.slow
def test_two_processes_agree_on_where_to_stop(pico_recipe, tmp_path):
    """Each has its own clock; both leave after the same step, and the next launch goes on from it."""
    budget = {"steps": 5000, "tokens_per_step": 256, "tokens": 5000 * 256}
    asked = pico_recipe(out=str(tmp_path / "two"), replay=None, budget=budget, checkpoint_steps=1000)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(asked.model_dump(mode="json")))
    words = [*LAUNCH, str(tmp_path / "two.yaml"), "--max-hours", str(20 / 3600)]
    for launch in (1, 2):
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode != 0
        assert done.stderr.count("the time of --max-hours is up; the same command continues") == 2, done.stderr[-3000:]
        steps = [line["step"] for line in metrics(Path(asked.out))]
        newest = max(path.name for path in (tmp_path / "two/checkpoints").iterdir())
        assert newest == f"step-{max(steps):06d}"
        assert 0 < max(steps) < 5000
        assert ("continuing after step" in done.stdout) == (launch == 2)


def team_of(rank, size):
    return Processes(SimpleNamespace(process_index=rank, num_processes=size))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_row_goes_to_exactly_one_process(size):
    rows = list(range(8))
    shares = [team_of(rank, size).share(rows) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == rows
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_rows_are_refused(pico_recipe, monkeypatch):
    monkeypatch.setattr(cpt, "Processes", lambda accelerator: team_of(0, 5))
    with raises("train-too-many-processes", 64, 5):
        cpt.train(pico_recipe())


def test_only_training_is_started_in_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["phase1"]) == 2
    assert "[verb-not-distributed]" in capsys.readouterr().err
