"""Runs that are stopped, or go wrong."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from nsllm_lite.recipe.train import Training
from nsllm_lite.train import guards
from nsllm_lite.train.training_run import TrainingRun


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
