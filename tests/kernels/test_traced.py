"""The plan's arithmetic against a dry run of the step on fake tensors, at true sizes; no card is needed."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Of a layer; each only falls. Held dequantised it has fewer, and a recomputed layer is launched again in part
LAUNCHES = {"plain": 121, "restored": 42, "recomputed": 48}
FLOAT8_LAUNCHES = {"plain": 42, "restored": 21, "recomputed": 11}  # more than these
LARGEST_SHARE = 1.10

pytestmark = pytest.mark.skipif(find_spec("liger_kernel") is None, reason="make test-kernels has Liger's kernels")


@pytest.fixture(scope="module")
def traced():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])
    command, root = [sys.executable, Path(__file__).with_name("traced.py")], Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) >= 8
    return cases


def test_memory_is_predicted_within_a_tenth_and_never_below(traced):
    shares = {case["case"]: case["predicted"] / case["peak"] for case in traced}
    assert not {case: share for case, share in shares.items() if not 1 <= share <= LARGEST_SHARE}


def test_a_few_layers_say_what_all_would(traced):
    (case,) = [case for case in traced if case["whole"]]
    for name, value in case["whole"].items():
        found = case["traced"][name]
        assert found == pytest.approx(value, rel=1e-3), name


def test_flops_follow_from_the_architecture(traced):
    for case in traced:
        counted, computed = (sum(case[key]["flops"].values()) for key in ("traced", "computed"))
        assert computed == pytest.approx(counted, rel=0.01), case["case"]
        for kind, flops in case["computed"]["flops"].items():
            assert flops == pytest.approx(case["traced"]["flops"][kind], rel=0.01), (case["case"], kind)


def test_bytes_and_launches_are_those_counted(traced):
    for case in traced:
        if "T4" in case["case"] or "own" in case["case"]:  # their attention and head move more than is computed
            continue
        counted, computed = (sum(case[key]["moved"].values()) for key in ("traced", "computed"))
        assert computed == pytest.approx(counted, rel=0.1), case["case"]
        assert case["computed"]["launches"] == pytest.approx(sum(case["traced"]["launches"].values()), rel=0.1)


def test_the_host_waits_twice_a_micro_batch_at_most(traced):
    for case in traced:
        waits = case["traced"]["waits"]
        assert sum(waits.values()) <= 2.001, waits
        assert {place.split(":")[0] for place in waits} <= {"fused_linear_cross_entropy.py"}


def test_no_layer_launches_more_than_it_did(traced):
    for case in traced:
        if "T4" in case["case"] or "own" in case["case"]:
            continue
        budgets = [LAUNCHES, FLOAT8_LAUNCHES] if "fp8" in case["case"] else [LAUNCHES]
        plain, restored, recomputed = (sum(one[key] for one in budgets) for key in LAUNCHES)
        budget = 100 + case["layers"] * (plain + 3) + case["recomputed"] * recomputed
        if "dequantise" not in case["traced"]["moved"]:
            budget -= case["layers"] * restored
        launches = {kind: count for kind, count in case["traced"]["launches"].items() if kind != "head"}
        assert sum(launches.values()) <= budget, case["case"]
