"""The GPU bench runs on a pico model here, so that it is ready where there is a card."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bench import gpu, gpu_short
from nsllm_lite.formats.rows import RowTotals, write_rows
from tests.conftest import text_like_row


@pytest.mark.slow
def test_the_gpu_bench_on_the_cpu(tmp_path):
    script = Path(__file__).parents[1] / "bench/gpu.py"
    out = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--tiny", "--only", "step", "head", "agreement", "--base", str(tmp_path / "base")]
    done = subprocess.run([sys.executable, script, *words, "--json", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(out.read_text())["entries"]
    chosen = [entry for entry in entries if entry["what"].startswith("chosen, ")]
    assert len(chosen) == 3
    assert all(entry["tokens_per_s"] > 0 for entry in chosen)
    plain = next(entry for entry in entries if entry["what"].startswith("transformers and PEFT"))
    assert plain["note"].startswith("agrees: smallest cosine 0.999") or "cosine 1.0" in plain["note"]
    assert plain["losses"][-1] < plain["losses"][0] - 1, "60 steps on 8 rows"
    compiled = {entry["section"]: entry for entry in entries if "compiled" in entry["what"]}
    assert compiled["agreement"]["ends_apart"] < 1e-3
    assert compiled["step"]["of_not_compiled"] == pytest.approx(
        compiled["step"]["tokens_per_s"] / compiled["step"]["not_compiled"]["tokens_per_s"]
    )
    heads = [entry for entry in entries if entry["section"] == "head" and "ms" in entry]
    assert len(heads) == 4
    assert all(entry["cosine"] > 0.9999 and 0 < entry["of_step"] < 1 for entry in heads)


@pytest.mark.slow
def test_the_short_gpu_bench_on_the_cpu(tmp_path):
    """From end to end: what differs on a card is the size of the model and what only a card can compute."""
    script, out = Path(gpu.__file__), tmp_path / "gpu.json"
    words = ["--short", "--device", "cpu", "--json", out]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(out.read_text())["entries"]
    parts = ["base", "checks", "checks", "checks", "ceilings", "step", "profile", "caps", "peers"]
    assert [entry["section"] for entry in entries] == parts
    doctor, tests, merged = (entry["note"] for entry in entries[1:4])
    assert (doctor.endswith(" pass"), tests.endswith(" skipped"), merged) == (True, True, "2 passed, 2 skipped")
    step, profile, capped, peer = entries[5:]
    assert "4 of 4 steps" in step["note"]
    assert "4 of 4 steps" in capped["note"]
    assert all(each["tokens_per_s"] > 0 and each["of_ceiling"] > 0 for each in (step, capped, peer))
    assert len(profile["kernels"]) >= 10


def test_the_short_gpu_bench_runs_every_test_for_a_card():
    files = {str(path.relative_to(gpu_short.TESTS)) for path in gpu_short.TESTS.glob("**/test_*.py")}
    marked = {name for name in files if "mark.gpu" in (gpu_short.TESTS / name).read_text()} - {Path(__file__).name}
    assert marked == {job["files"] for job in gpu_short.CHECKS.values() if "files" in job}


def test_a_part_that_takes_too_long_is_stopped_and_one_that_would_is_left_out(make):
    report = gpu.Report(make())
    report.add("step", "slow", lambda: time.sleep(5), 0.2)
    report.add("caps", "late", dict, 61)
    report.add("peers", "in time", dict, 9)
    notes = [(entry.get("note"), entry.get("failed")) for entry in report.found["entries"]]
    assert notes[0] == ("TimeoutError: not done in its time", True)
    assert notes[1] == ("left out: may take 61 s, 60 are left", True)
    assert notes[2] == (None, None)


@pytest.mark.processes
def test_what_runs_in_a_process_of_its_own_is_killed_at_its_end(make):
    found = gpu.run_fresh(make(), {"function": "run_doctor"}, time.monotonic() + 1)
    assert found == {"note": "not done in 1 s", "failed": True}


@pytest.fixture
def make(tmp_path):
    """A function from a rows folder to the small bench."""
    base = tmp_path / "base/small"
    base.mkdir(parents=True)
    bytes_as_numbers = Tokenizer(models.BPE({f"<{n}>": n for n in range(256)}, []))
    bytes_as_numbers.save(str(base / "tokenizer.json"))

    def make(rows=None, tiny=True):
        options = argparse.Namespace(base=tmp_path / "base", rows=rows, device="cpu", tiny=tiny, minutes=1, steps=1)
        options.json = None
        return gpu.make_bench(options, small=True)

    return make


def test_rows_of_sample_papers(make, tmp_path):
    bench = make(tiny=False)
    rows = bench.real_rows()
    assert len(rows) == gpu.STEP_ROWS
    assert all(sum(row.doc_lengths) == len(row.input_ids) == bench.row_tokens for row in rows)
    ids = np.concatenate([row.input_ids for row in rows])
    assert ids.max() < bench.size.vocab
    shares = np.sort(np.unique(ids, return_counts=True)[1])[::-1] / len(ids)
    assert shares[:20].sum() > 0.2, "twenty words are a good part of any English text"
    assert all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(rows, bench.real_rows(), strict=True))

    knowing = Tokenizer(models.WordLevel({"?": 0, "the": 5000, "of": 9}, unk_token="?"))
    knowing.pre_tokenizer = pre_tokenizers.Whitespace()
    knowing.save(str(bench.base / "tokenizer.json"))
    ids = np.concatenate([row.input_ids for row in bench.real_rows()])
    assert set(ids) == {0, 9, 5000 % bench.size.vocab}


def test_rows_of_a_folder(make, tmp_path):
    rows = [text_like_row(np.random.default_rng(n), [40, 23, 30], "papers", n) for n in range(20)]
    write_rows(tmp_path / "rows", rows, RowTotals(93, 0, "hash"))
    found = make(tmp_path / "rows").real_rows()
    assert len(found) == gpu.STEP_ROWS
    for row in found:
        assert row.doc_lengths == [40, 23], "of 64 tokens the third document would have one"
        assert len(row.input_ids) == 63
    assert np.array_equal(found[0].input_ids, rows[0].input_ids[:63])
    assert np.array_equal(found[-1].input_ids, rows[-1].input_ids[:63])
    write_rows(tmp_path / "few", rows[:3], RowTotals(93, 0, "hash"))
    with pytest.raises(ValueError, match=r"holds 3 rows; 8 are needed\. Name another --rows"):
        make(tmp_path / "few").real_rows()
