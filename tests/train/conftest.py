"""Runs that are stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nsllm_lite.recipe.train import Training
from nsllm_lite.train import guards


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
