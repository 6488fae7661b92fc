"""The GPU bench runs on a pico model here, so that it is ready where there is a card."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_gpu_bench_on_the_cpu(tmp_path):
    script = Path(__file__).parent / "bench/gpu.py"
    out = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--tiny", "--only", "step", "agreement", "--base", str(tmp_path / "base")]
    done = subprocess.run([sys.executable, script, *words, "--json", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(out.read_text())["entries"]
    chosen = [entry for entry in entries if entry["what"].startswith("chosen, ")]
    assert len(chosen) == 3
    assert all(entry["tokens_per_s"] > 0 for entry in chosen)
    plain = next(entry for entry in entries if entry["what"].startswith("transformers and PEFT"))
    assert plain["note"].startswith("agrees: smallest cosine 0.999") or "cosine 1.0" in plain["note"]
