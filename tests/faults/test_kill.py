"""A run of any verb that is killed with kill -9, again and again, ends in what a run leaves that was never killed.

After every kill all that has its final name is whole; after the re-run all files are the same, byte for byte, but for
what tells of time. NSLLM_FAULTS_OUT=FILE adds a line of JSON to FILE for each verb: how many tries, and how many of
them were killed between the first byte and the last rename.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import cases
from tests.faults.kills import killed, random_kills
from tests.test_two_phase import FEW, ROOT

# Where two steps of the writing must not come apart: a run is killed at the first, its re-run at the second, and so on.
WINDOWS = {
    "train": [
        "rename checkpoints/step-000003",  # all is written under another name, which is not to be taken for it
        "rename checkpoints/step-000003.old",
        "unlink checkpoints/step-000003.old/.*",
        "rename metrics.jsonl",
        "rename checkpoints/step-000018.old",  # after the last checkpoint: no later step tidies up
        "rename samples.md",
        "rename manifest.json",
        "rename adapter.old",  # the result is there, and made again
        "rename adapter",
        "unlink adapter.old/.*",
    ],
    "corpus": [
        "write work/read/.*", "rename work/settled/.*", "rename rows/phase1/train/state.json", "rename manifest.json",
        "rmdir work/.*",
    ],
    "eval": ["rename predictions/one/modes.json", "write predictions/one/.*"],
    "merge": [
        r"write \.\./out.partial/model-00002.*", r"unlink \.\./out.partial/progress.jsonl",
        r"unlink \.\./out.partial/merging.json", r"rename \.",
    ],
}  # fmt: skip
TRIES = {  # of two kinds: at a write, rename or deletion, and at a moment
    "corpus": (16, 14), "corpus, two processes": (5, 10), "train": (14, 18), "sft": (7, 8), "eval": (14, 14),
    "merge": (18, 14),
}  # fmt: skip


def require_unharmed(result: dict) -> None:
    for one in result["tries"]:
        assert not one["wrong"], (result["name"], one)
    assert not result["lingering"], f"{result['name']}: {result['lingering']} processes outlive the killed one"


@pytest.mark.slow
@pytest.mark.parametrize("names", [("train", "merge"), ("corpus", "eval")], ids=" ".join)
def test_kills_where_two_steps_of_the_writing_could_come_apart(pico, tmp_path, names):
    kills = {name: [{"named": pattern, "half": True} for pattern in WINDOWS[name]] for name in names}
    asked = [cases.make(name, tmp_path / name, pico, [kills[name]]) for name in names]
    for result in killed(asked, tmp_path / "kills"):
        require_unharmed(result)
        came = [kill["named"] for kill in result["tries"][0]["kills"]]
        assert came == WINDOWS[result["name"]], "a kill did not come: has what it waits for another name now?"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIES)
def test_kills_at_random(pico, tmp_path, name):
    num_events, num_moments = TRIES[name]
    seed = list(TRIES).index(name)
    case = cases.make(name, tmp_path / "case", pico, random_kills(seed, num_events, num_moments))
    [result] = killed([case], tmp_path / "kills")
    tries = [one for one in result["tries"] if one["kills"]]
    firsts = [one["kills"][0] for one in tries]
    told = {
        "verb": name,
        "tries": len(tries),
        "between first byte and last rename": sum(kill["is_between"] for kill in firsts),
        "at a moment": sum("moment" in kill for kill in firsts),
        "amid the lines of the log": sum(0 < kill["log_lines"] < result["log_lines"] for kill in firsts),
        "kills of re-runs": sum(len(one["kills"]) - 1 for one in tries),
        "identical": sum(not one["wrong"] for one in tries),
        "seconds": result["seconds"],
    }
    print(told)
    if path := os.environ.get("NSLLM_FAULTS_OUT"):
        with open(path, "a") as file:
            file.write(json.dumps(told) + "\n")
    require_unharmed(result)
    least = min(25, num_events + num_moments)
    assert told["tries"] >= least
    assert told["between first byte and last rename"] >= 0.6 * least
    assert told["kills of re-runs"] >= 0.15 * least


@pytest.mark.slow
def test_kills_of_the_chain_at_random_moments(tmp_path):
    """`phase1` killed eight times, wherever it happens to be; then the same command ends as if undisturbed."""
    command = [sys.executable, "-m", "nsllm_lite.cli", "phase1", *FEW, "phase1.checkpoint_steps=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, "--out", str(out)], cwd=ROOT, env=environment, **quiet)

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - began
    moments = random.Random(0)
    for _ in range(8):
        process = start(tmp_path / "killed")
        time.sleep(moments.uniform(0.15, 1.0) * seconds)
        process.kill()
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    compared = 0
    for path in sorted((tmp_path / "whole").rglob("*")):
        name = path.relative_to(tmp_path / "whole")
        tells_time = path.name == "trainer_log.jsonl"
        if path.suffix in (".arrow", ".safetensors", ".jsonl", ".parquet") and not tells_time:
            assert path.read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
            compared += 1
    assert compared >= 14
