"""NSLLM's own training curve, as it is drawn over one of ours."""

import pytest

from nsllm_lite.train.plot import read_curve


def test_the_curve_of_nsllm(real_data):
    curve = read_curve(real_data / "nsllm/trainer_log.jsonl")
    assert not curve.in_tokens
    assert curve.label.startswith("nsllm/trainer_log.jsonl, 2,178 steps ")
    assert curve.places[0] == pytest.approx(5 / 2178)
    assert curve.losses[0] == 2.3475
    assert sum(curve.losses[-40:]) / 40 == pytest.approx(1.970, abs=5e-4)  # of the last 200 steps
