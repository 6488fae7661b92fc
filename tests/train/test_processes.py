"""Two processes on one CPU train as one does."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.train import cpt
from nsllm_lite.train.processes import Processes
from tests.raising import raises
from tests.train.test_cpt import metrics, step_losses


def launch(recipe, *words: str) -> subprocess.CompletedProcess:
    """What `accelerate launch` does on a machine with two cards; on a CPU it would want MPI."""
    path = Path(f"{recipe.out}.yaml")
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "nsllm_lite.cli", "train", str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(pico_recipe, tmp_path):
    one, two = (pico_recipe(out=str(tmp_path / name), replay=None) for name in ("one", "two"))
    cpt.train(one)
    done = launch(two)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("held-out domain") == 1, "one process speaks"
    assert step_losses(two.out) == pytest.approx(step_losses(one.out), rel=2e-5)
    assert step_losses(two.out) != step_losses(one.out), "they really were computed differently"
    times = read_json(Path(two.out) / "times.json")
    trained = load_file(Path(two.out) / "adapter/adapter_model.safetensors")
    assert times["processes"] == 2
    assert times["all_reduced_bytes_a_step"] == 4 * sum(tensor.numel() for tensor in trained.values())
    before = [metrics(recipe.out, "heldout")[0]["heldout"] for recipe in (one, two)]
    assert before[0] == before[1], "the same batches, added up in the same order"
    assert metrics(two.out)[-1]["tokens"] == metrics(one.out)[-1]["tokens"]
    adapters = [load_file(Path(recipe.out) / "adapter/adapter_model.safetensors") for recipe in (one, two)]
    assert all(torch.allclose(adapters[0][n], adapters[1][n], rtol=1e-2, atol=2e-4) for n in adapters[0])
    assert [line["step"] for line in metrics(two.out, "heldout")] == [0, 4, 8, 12]


@pytest.mark.slow
def test_two_processes_agree_on_where_to_stop(pico_recipe, tmp_path):
    """Each has its own clock; both leave after the same step, and the next launch goes on from it."""
    budget = {"steps": 5000, "tokens_per_step": 256, "tokens": 5000 * 256}
    asked = pico_recipe(out=str(tmp_path / "two"), replay=None, budget=budget, checkpoint_steps=1000)
    for start in (1, 2):
        done = launch(asked, "--max-hours", str(20 / 3600))
        assert done.returncode != 0
        assert done.stderr.count("the time of --max-hours is up; the same command continues") == 2, done.stderr[-3000:]
        steps = [line["step"] for line in metrics(asked.out)]
        assert max(path.name for path in (tmp_path / "two/checkpoints").iterdir()) == f"step-{max(steps):06d}"
        assert 0 < max(steps) < 5000
        assert ("continuing after step" in done.stdout) == (start == 2)


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
