"""What a checkpoint brings back; damage and rotation are in test_cpt.py and faults/test_damage.py."""

import torch

from nsllm_lite.train import checkpoint
from tests.raising import raises


def test_random_numbers_go_on_where_they_were_and_another_model_is_refused(tmp_path):
    lm = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(lm.parameters(), lr=0.1)
    path = checkpoint.save(tmp_path, 3, lm, optimizer, {"tokens": 7})
    drawn = torch.rand(4)
    assert checkpoint.load(path, lm, optimizer) == (3, {"tokens": 7})
    assert torch.equal(torch.rand(4), drawn)
    other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with raises("checkpoint-of-another-model", path, "0.bias"):
        checkpoint.load(path, other, torch.optim.SGD(other.parameters()))
