"""What a run leaves and continues from, when it is not what was left."""

import shutil
from pathlib import Path

from nsllm_lite.train import outputs
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
