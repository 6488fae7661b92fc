"""Micro-batches made ahead: the same in the same order, no more of them than said, and no thread left behind."""

import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from nsllm_lite.formats.rows import Row, in_groups
from nsllm_lite.models import causal
from nsllm_lite.models.causal import collate
from nsllm_lite.train import cpt, prefetch
from tests.train.test_cpt import step_losses


def read(step: int) -> list[Row]:
    """Three rows of a step."""
    rng = np.random.default_rng(step)
    return [Row(rng.integers(0, 9, 4).astype(np.int32), [1, 3], [f"{step}-{n}", "b"], ["s"] * 2, [4] * 2)
            for n in range(3)]  # fmt: skip


def cut(rows: list[Row]) -> list[list[Row]]:
    return list(in_groups(rows, 2))


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_same_batches_in_the_same_order():
    with closing(prefetch.steps_ahead(range(3, 8), read, cut, "cpu")) as ahead:
        for step in range(3, 8):
            rows, batches = next(ahead)
            assert [row.doc_ids[0] for row in rows] == [f"{step}-{n}" for n in range(3)]
            for batch, part in zip(batches, cut(read(step)), strict=True):
                expected = collate(part, "cpu")
                assert torch.equal(batch.input_ids, expected.input_ids)
                assert torch.equal(batch.targets, expected.targets)
                assert batch.layout.bounds == expected.layout.bounds
                assert batch.doc_ids == expected.doc_ids
        assert next(ahead, None) is None
    assert not threads()


def test_two_are_ready_also_of_the_next_step_and_no_more(monkeypatch):
    made = []
    monkeypatch.setattr(prefetch, "lay_out", lambda rows, pinned: made.append(rows[0].doc_ids[0]))

    def settled(count: int) -> bool:
        deadline = time.monotonic() + 10
        while len(made) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        return len(made) == count

    with closing(prefetch.steps_ahead(range(9), read, cut, "cpu")) as ahead:
        _, batches = next(ahead)
        assert settled(3)
        assert made == ["0-0", "0-2", "1-0"], "the first of the next step is ready before this one's second is taken"
        next(batches)
        next(batches)
        assert settled(4)
        assert len(threads()) == 1
    assert not threads()


def test_an_exception_comes_where_its_batch_was_due():
    def damaged(step: int) -> list[Row]:
        if step == 1:
            raise OSError("a bad sector")
        return read(step)

    with closing(prefetch.steps_ahead(range(5), damaged, cut, "cpu")) as ahead:
        assert len(list(next(ahead)[1])) == 2
        with pytest.raises(OSError, match="a bad sector") as caught:
            next(ahead)
    assert "damaged" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not threads()


def test_batches_left_out_are_noticed():
    """Else the next step would begin with them."""
    with closing(prefetch.steps_ahead(range(5), read, cut, "cpu")) as ahead:
        next(next(ahead)[1])
        with pytest.raises(AssertionError, match="not all taken"):
            next(ahead)


def test_a_run_reads_ahead_and_leaves_no_thread(pico_recipe, tmp_path, monkeypatch, stop_before):
    """Also where it is interrupted, or where reading fails; then it continues as if nothing had been."""
    by, lay_out = [], causal.lay_out

    def watched(rows, pinned):
        by.append(threading.current_thread().name)
        return lay_out(rows, pinned)

    def unreadable(rows, pinned):
        if len(by) == 4:
            raise OSError("a bad sector")
        return watched(rows, pinned)

    whole, broken = (pico_recipe(out=str(tmp_path / name)) for name in ("whole", "broken"))
    with monkeypatch.context() as patched:
        patched.setattr(prefetch, "lay_out", watched)
        cpt.train(whole)
        assert [name.startswith("prefetch") for name in by] == [True] * 12 * 2
        assert not threads()
        by.clear()
        patched.setattr(prefetch, "lay_out", unreadable)
        with pytest.raises(OSError, match="a bad sector"):
            cpt.train(broken)
    assert not threads()
    stop_before(cpt.train, broken, 6)
    assert not threads()
    cpt.train(broken)
    assert step_losses(broken.out) == step_losses(whole.out)


@pytest.mark.processes
def test_a_process_ends_whose_iterator_was_not_closed():
    script = "from nsllm_lite.train import prefetch; from threading import active_count\n"
    script += "prefetch.lay_out = lambda rows, pinned: rows\n"
    script += "kept = prefetch.steps_ahead(range(9), lambda step: [step], lambda rows: [rows, rows], 'cpu')\n"
    script += "next(kept); raise SystemExit(active_count())"
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
