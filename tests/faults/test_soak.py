"""The nano chain in a loop for half an hour, on the real files where NSLLM_REAL_DATA names them."""

import os
import re
import subprocess
import sys

import pytest

from bench.soak import ROOT, Loop, verdict
from tests.faults.kills import tell


def loops(**changes) -> list[Loop]:
    """Ten of the same."""
    return [Loop(**{"seconds": 6.0, "resident_mib": 900.0, "files": 9, "threads": 2, "digest": "a"} | changes)] * 10


def test_what_does_not_stay_flat_is_seen():
    assert verdict(loops())["passed"]
    for changes in ({"digest": "b"}, {"files": 12}, {"threads": 3}):
        assert not verdict([*loops()[:-1], *loops(**changes)[:1]])["passed"], changes
    growing = [loop._replace(resident_mib=900 + 6.0 * number) for number, loop in enumerate(loops())]
    assert verdict(growing)["mib_a_loop"] == pytest.approx(6)
    assert not verdict(growing)["passed"]
    filling = [loop._replace(resident_mib=900 + 50 * min(number, 4)) for number, loop in enumerate(loops())]
    assert verdict(filling)["passed"]  # caches fill at first


@pytest.mark.slow
def test_half_an_hour_of_the_chain_stays_flat():
    data = os.environ.get("NSLLM_REAL_DATA")
    minutes = os.environ.get("NSLLM_SOAK_MINUTES", "30")
    words = [sys.executable, "-m", "bench.soak", "--minutes", minutes, *(["--data", data] if data else [])]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    tell("soak", int(re.match(r"\d+", last)[0]), last)
