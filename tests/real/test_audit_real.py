"""The auditor on NSLLM's own evaluation files: known counts, none of the text."""

import operator
import tomllib
from functools import reduce
from pathlib import Path

import pytest

from nsllm_lite.evals import audit
from nsllm_lite.tasks.items import read_items

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
