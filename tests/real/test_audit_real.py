"""The auditor on NSLLM's own evaluation files: known counts, none of the text; and its own training curve."""

import operator
import tomllib
from functools import reduce
from pathlib import Path

import pytest

from nsllm_lite.evals import audit
from nsllm_lite.tasks.items import read_items
from nsllm_lite.train.plot import read_curve

EXPECTED = tomllib.loads((Path(__file__).parents[1] / "data" / "real" / "audit.toml").read_text())


@pytest.fixture(scope="module")
def files(real_data):
    return {name: read_items(real_data / f"nsllm/{name}.json") for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_counts_and_shares(files, name):
    report = audit.examine(files[name])
    for key, expected in EXPECTED[name].items():
        found = reduce(operator.getitem, key.split("."), report)
        value, tolerance = expected if isinstance(expected, list) else (expected, 0)
        found = len(found) if isinstance(found, list | tuple | set | dict) else found
        assert found == (pytest.approx(value, abs=tolerance) if tolerance else value), key
    if name == "Abstract-Classification":
        assert set(report["classes"]["labels"].values()) == {200}
    if name == "MMLU-stem":
        assert report["choices"]["equal_options"] == [1289, 1526, 2241, 2773]


def test_moves(files):
    leaks = audit.leaked(files["Move-Recognition"], files["Abstract-Classification"])
    assert (len(leaks), len({leak.other_row for leak in leaks})) == (987, 270)
    by_position = audit.by_position(files["Move-Recognition"], leaks)
    assert by_position["order"] == ["Background", "Objective", "Methods", "Results", "Conclusions"]
    assert by_position["accuracy"] > 0.536  # of four thresholds found otherwise
    assert by_position["macro_f1"] > 0.512


def test_the_curve_of_nsllm(real_data):
    curve = read_curve(real_data / "nsllm/trainer_log.jsonl")
    assert not curve.in_tokens
    assert curve.label.startswith("nsllm/trainer_log.jsonl, 2,178 steps ")
    assert curve.places[0] == pytest.approx(5 / 2178)
    assert curve.losses[0] == 2.3475
    assert sum(curve.losses[-40:]) / 40 == pytest.approx(1.970, abs=5e-4)  # of the last 200 steps
