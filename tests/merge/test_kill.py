"""A merge that is killed with kill -9 goes on where it was. More kills, of this and of other verbs: tests/faults."""

import pytest

from tests.faults import cases
from tests.faults.kills import killed


@pytest.mark.slow
def test_a_killed_merge_goes_on_and_does_not_begin_anew(tmp_path):
    kills = [[{"event": 0.4, "half": True}], [{"event": 0.8, "half": True}]]
    [result] = killed([cases.make("merge", tmp_path / "case", tmp_path, kills)], tmp_path / "kills")
    for one in result["tries"]:
        assert one["kills"][0]["left"] == "weights"
        assert not one["wrong"]
    early, late = (one["share_again"] for one in result["tries"])
    assert late < early < 1
    assert late < 0.6
