"""The benches of encoders: what they compare is what they say, on a model that is made in the test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsllm_lite.models.encoder import build_encoder
from nsllm_lite.recipe.mlm import EncoderShape

ROOT = Path(__file__).parents[1]
SHAPE = {"architecture": "bert", "hidden_size": 48, "intermediate_size": 96, "num_layers": 3, "num_heads": 4}


@pytest.fixture(scope="module")
def distill():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        import distill
    return distill


def test_who_wins_is_told_by_the_interval(distill):
    """Student's t of two degrees of freedom is 4.3027 at 97.5 %."""
    found = {
        "relations": {"masked loss": [1.0, 1.1, 1.2], "F1": [0.5, 0.6, 0.7], "top-1": [0.2, 0.2, 0.3]},
        "masked tokens": {"masked loss": [2.0, 2.0, 2.0], "F1": [0.9, 1.0, 1.1], "top-1": [0.3, 0.2, 0.1]},
    }
    told, words = distill.intervals(found)
    half = 4.3027 * 0.1 / 3**0.5
    assert told["masked loss"] == pytest.approx([-0.9, -0.9 - half, -0.9 + half], rel=1e-4)
    ends = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in words.splitlines()[2:]}
    assert ends == {
        "masked loss": "relations win", "F1": "relations lose", "top-1": "no difference beyond chance",
    }  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    from nsllm_lite.corpus.tokenizer import train_for_encoder

    folder = tmp_path_factory.mktemp("teacher")
    text = (ROOT / "nsllm_lite/sample/papers/physics.jsonl").read_text()
    train_for_encoder([text], 800, folder)
    shape = EncoderShape(**SHAPE, max_positions=512, tokenizer=str(folder))
    build_encoder(shape, 0).save_pretrained(folder)
    return folder


def run(script: str, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, ROOT / "bench" / script, *words], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_bench_of_students_ends_and_makes_nothing_twice(teacher, tmp_path):
    words = ["--teacher", str(teacher), "--layers", "1", "3", "--seconds", "1", "--seeds", "2", "--max-rows", "4",
             "--without-ner", "stage.budget.steps=2", "--out", str(tmp_path / "out")]  # fmt: skip
    assert "| relations |" in run("distill.py", *words)
    found = json.loads((tmp_path / "out/distill.json").read_text())["found"]
    assert found.keys() == {"relations", "masked tokens", "cut", "teacher, all layers"}
    assert all(len(values) == 2 for of in found.values() for values in of.values())
    cut = found["cut"]
    assert cut["masked loss"] == cut["masked loss, head anew"]
    assert found["masked tokens"]["masked loss"] != found["masked tokens"]["masked loss, head anew"]
    again = run("distill.py", *words)
    assert "tokens/s" not in again, "every figure stands in units.jsonl"
    assert json.loads((tmp_path / "out/distill.json").read_text())["found"] == found


@pytest.mark.slow
def test_the_bench_of_masked_tokens_ends(teacher, tmp_path):
    corpus = ["corpus", "recipes/nano/corpus.yaml", f"tokenizer={teacher}", "train_tokenizer=null",
              "end_of_text=</s>", "row_tokens=256", f"out={tmp_path}/corpus"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "nsllm_lite.cli", *corpus], cwd=ROOT, check=True, capture_output=True)
    rows = f"{tmp_path}/corpus/rows/phase1"
    words = ["build=null", f"model={teacher}", f"rows={rows}/train", f"evaluation.domain_rows={rows}/heldout"]
    told = run("mlm.py", *words, "--rounds", "1", "--steps", "2")
    assert [line.split("|")[1].strip() for line in told.splitlines()[-3:]] == ["ours", "bare", "padded"]
