"""The GPU bench runs on a pico model here, so that it is ready where there is a card."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bench import gpu
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


@pytest.fixture
def make(tmp_path):
    """A function from a rows folder to the small bench."""
    base = tmp_path / "base/small"
    base.mkdir(parents=True)
    bytes_as_numbers = Tokenizer(models.BPE({f"<{n}>": n for n in range(256)}, []))
    bytes_as_numbers.save(str(base / "tokenizer.json"))

    def make(rows=None, tiny=True):
        options = argparse.Namespace(base=tmp_path / "base", rows=rows, device="cpu", tiny=tiny, minutes=1)
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
