"""What a run leaves and continues from, when it is not what was left."""

import shutil
from pathlib import Path

import torch

from nsllm_lite.train import checkpoint, outputs
from tests.merge.make import edit_tensors
from tests.raising import raises


def test_a_log_that_ends_before_the_checkpoint(tmp_path):
    log = outputs.Log(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        log.write({"step": step, "loss": 2.0})
    log.keep_until(2)
    log.path.write_bytes(log.path.read_bytes().replace(b'"step": 1', b'"step": \xff') + b'{"step": 3, "loss": 2.0}\n')
    before = log.path.read_bytes()
    with raises("log-behind-checkpoint", log.path, "step 3"):
        log.keep_until(3)
    assert log.path.read_bytes() == before


def test_a_base_that_changed_since_the_run_began(pico, tmp_path):
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    outputs.keep_base(tmp_path / "out", base)
    outputs.keep_base(tmp_path / "out", base)
    edit_tensors(base / "model.safetensors", lambda tensors: tensors["model.norm.weight"][0].add_(1))
    with raises("base-changed-in-run", base / "model.safetensors", tmp_path / "out"):
        outputs.keep_base(tmp_path / "out", base)


def test_a_checkpoint_of_another_model(tmp_path):
    one, other = torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2))
    path = checkpoint.save(tmp_path, 1, one, torch.optim.SGD(one.parameters()), {})
    with raises("checkpoint-of-another-model", path, "0.bias"):
        checkpoint.load(path, other, torch.optim.SGD(other.parameters()))
