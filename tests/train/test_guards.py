"""What stops a run, apart from the run; the runs that are stopped are in test_cpt.py."""

import math

import pytest
import torch

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.train import guards
from tests.raising import raises


def test_a_gradient_of_nothing_but_zeros_reaches_nobody():
    still, moved = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    still.grad, moved.grad = torch.zeros(2), torch.tensor([0.0, 1e-9])
    left = guards.check_gradients_reach({"still": still, "moved": moved}, first_step=5, step=5)
    assert list(left) == ["still"], "LoRA's A has such a gradient in the first step"
    with raises("train-no-gradient", "still (1 "):
        guards.check_gradients_reach(left, first_step=5, step=6)


@pytest.mark.parametrize(("loss", "grad_norm"), [(math.nan, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_either_loss_or_gradient_stops_the_run_where_it_is_not_finite(tmp_path, loss, grad_norm):
    write_json(tmp_path / "run.json", {"recipe": {"optimizer": {"learning_rate": 0.25}}})
    guards.require_finite(2, 1.0, 1.0, "documents", ["arxiv:1"], tmp_path)
    with raises("train-loss-not-finite", f"loss {loss}, gradient norm {grad_norm}", "arxiv:1", "0.25"):
        guards.require_finite(3, loss, grad_norm, "documents", ["arxiv:1"], tmp_path)
