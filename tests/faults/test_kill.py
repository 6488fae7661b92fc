"""A run of any verb that is killed with kill -9, again and again, ends in what a run leaves that was never killed.

After every kill all that has its final name is whole; after the re-run all files are the same, byte for byte, but for
what tells of time. The whole chain is killed in test_signals.py.
"""

import tomllib
from pathlib import Path

import pytest

from tests.faults import cases
from tests.faults.kills import killed, random_kills, tell

WINDOWS = tomllib.loads((Path(__file__).parents[1] / "data/faults/kill_windows.toml").read_text())
TRIES = {  # of two kinds: at a write, rename or deletion, and at a moment
    "corpus": (16, 14), "corpus, two processes": (5, 10), "train": (14, 18), "sft": (7, 8), "eval": (14, 14),
    "merge": (18, 14), "convert": (12, 14),
}  # fmt: skip


def require_unharmed(result: dict) -> None:
    for one in result["tries"]:
        assert not one["wrong"], (result["name"], one)
    assert not result["lingering"], f"{result['name']}: {result['lingering']} processes outlive the killed one"


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("train", "merge"), marks=pytest.mark.processes),
        pytest.param(("corpus", "eval"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
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
    between = sum(kill["is_between"] for kill in firsts)
    amid_log = sum(0 < kill["log_lines"] < result["log_lines"] for kill in firsts)
    killed_again = sum(len(one["kills"]) - 1 for one in tries)
    words = f"{between} between the first byte and the last rename, {amid_log} amid the lines of the log"
    tell(f"kill -9, {name}", len(tries), f"{words}; {killed_again} re-runs killed; {result['seconds']} s")
    require_unharmed(result)
    least = min(25, num_events + num_moments)
    assert len(tries) >= least
    assert between >= 0.6 * least
    assert killed_again >= 0.15 * least


@pytest.mark.slow
def test_a_killed_merge_goes_on_and_does_not_begin_anew(tmp_path):
    kills = [[{"event": 0.4, "half": True}], [{"event": 0.8, "half": True}]]
    [result] = killed([cases.make("merge", tmp_path / "case", tmp_path, kills)], tmp_path / "kills")
    require_unharmed(result)
    assert [one["kills"][0]["left"] for one in result["tries"]] == ["weights", "weights"]
    early, late = (one["share_again"] for one in result["tries"])
    assert late < early < 1
    assert late < 0.6
