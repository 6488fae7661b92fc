"""Runs that are stopped, or go wrong; rows for encoders."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nsllm_lite.corpus.tokenizer import train_for_encoder
from nsllm_lite.formats.rows import Row, RowTotals, write_rows
from nsllm_lite.recipe.train import Training
from nsllm_lite.train import guards
from nsllm_lite.train.training_run import TrainingRun

VOCAB, ROW_TOKENS, FIRST, NUM = 300, 64, 20, 12


def row_of(rng, name) -> Row:
    """Two documents <s> ... </s> in which every third token repeats the one two places on: only the right tells it."""
    documents = []
    for _ in range(2):
        ids = rng.integers(FIRST, FIRST + NUM, ROW_TOKENS // 2 - 2)
        ids[: len(ids) - 2 : 3] = ids[2::3][: len(ids[: len(ids) - 2 : 3])]
        documents.append([0, *ids, 2])
    names = [f"{name}-{n}" for n in range(2)]
    ids = np.concatenate(documents).astype(np.int32)
    return Row(ids, [len(d) for d in documents], names, ["a", "b"], [60, 60])


@pytest.fixture(scope="session")
def encoder_rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    train_for_encoder(["tin whiskers grow under compressive stress at 25 degrees"] * 3, VOCAB, folder / "tokenizer")
    for split, count, seed in (("train", 96, 1), ("heldout", 8, 2)):
        rng = np.random.default_rng(seed)
        rows = [row_of(rng, f"{split}-{n}") for n in range(count)]
        write_rows(folder / "rows" / split, rows, RowTotals(ROW_TOKENS, 2, "hash"))
    return folder


def few_steps(rows: Path, out: Path, steps: int) -> dict:
    """What a recipe of rows for encoders states, so that it takes `steps` steps with two evaluations."""
    return {
        "out": str(out),
        "rows": str(rows / "rows/train"),
        "evaluation": {"domain_rows": str(rows / "rows/heldout"), "every_steps": 3, "max_rows": 8},
        "budget": {"steps": steps, "tokens_per_step": 512, "tokens": steps * 512},
        "schedule": {"shape": "constant", "warmup_steps": 1},
        "checkpoint_steps": 2,
    }


@pytest.fixture
def stop_before(monkeypatch):
    """A function that runs a training of a recipe and stops it when `step` (from 1) is computed, but not logged."""
    real = guards.require_finite

    def run(train: Callable, recipe: Training, step: int) -> None:
        def stop(number, *args):
            if number == step:
                raise KeyboardInterrupt
            real(number, *args)

        with monkeypatch.context() as patch:
            patch.setattr(guards, "require_finite", stop)
            with pytest.raises(KeyboardInterrupt):
                train(recipe)
        assert not (Path(recipe.out) / "manifest.json").exists()

    return run


@pytest.fixture
def spoil_in(monkeypatch):
    """A function that makes a trained tensor NaN when `step` (from 1) begins."""
    begin_step = TrainingRun.begin_step

    def spoil(step: int) -> None:
        def begin(run: TrainingRun) -> None:
            if run.done + 1 == step:
                next(tensor for tensor in run._lm.parameters() if tensor.requires_grad).data.fill_(math.nan)
            begin_step(run)

        monkeypatch.setattr(TrainingRun, "begin_step", begin)

    return spoil
