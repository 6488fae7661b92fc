"""The canaries of bench: written as often as they should be, ranked among what nobody has seen."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nsllm_lite.artifact.json_files import write_json
from tests.test_ablations import FEW

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def canaries():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        import canaries
    return canaries


def test_each_is_written_into_its_number_of_papers(canaries, tmp_path):
    drawn = canaries.Canaries.drawn(3)
    texts = [text for group in drawn.by_copies.values() for text in group]
    assert len({*texts, *drawn.others}) == 4 * canaries.EACH + 4095
    ids = [f"sample:biology-{number:02d}" for number in range(1, 21)]
    canaries.write_papers(drawn, ids, 3, tmp_path)
    papers = [json.loads(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert len(papers) == 100
    found = Counter(sentence for paper in papers for _, sentence in paper["abstract"])
    for copies, group in drawn.by_copies.items():
        assert [found[text] for text in group] == [copies] * canaries.EACH
    assert not any(found[text] for text in drawn.others)
    assert all(paper["id"] in ids for paper in papers if {one for _, one in paper["abstract"]} & {*texts})


def test_exposure_follows_from_the_rank_and_chance_has_its_floor(canaries, tmp_path, monkeypatch):
    drawn, cache = canaries.Canaries.drawn(0), tmp_path / "scores.json"
    monkeypatch.setattr(canaries, "fingerprint_weights", lambda model: "weights")
    others = np.random.default_rng(0).permutation(np.arange(1.0, 4096))
    mine = np.repeat([5000.0, 2047.5, 1.5, 0.5], canaries.EACH)  # above all, in the middle, above one, below all
    monkeypatch.setattr(canaries, "losses_of", lambda model, texts: np.concatenate([mine, others]))
    bits = canaries.exposures(tmp_path, drawn, cache)
    assert {copies: set(found) for copies, found in bits.items()} == {0: {0.0}, 1: {1.0}, 4: {11.0}, 16: {12.0}}
    monkeypatch.setattr(canaries, "losses_of", None)
    assert canaries.exposures(tmp_path, drawn, cache) == bits  # of the same weights they are not scored again
    write_json(cache, {"key": "of other weights"})
    with pytest.raises(TypeError):
        canaries.exposures(tmp_path, drawn, cache)
    expected, low, high = canaries.floor(4095)
    assert expected == pytest.approx(1 / np.log(2), abs=0.02)
    assert 0 < low < expected < high < 4


@pytest.mark.slow
def test_a_whole_run_and_again(canaries, tmp_path, capsys):
    few = [word.replace("phase2.budget.steps=3", "phase2.budget.steps=8").replace("tokens=3072", "tokens=8192")
           for word in FEW]  # fmt: skip
    canaries.main([*few, "--out", str(tmp_path)])
    table = (tmp_path / "canaries.md").read_text()
    assert table.count("\n| ") == 4
    written = (tmp_path / "phase 2.json").stat().st_mtime_ns
    canaries.main([*few, "--out", str(tmp_path)])
    assert (tmp_path / "canaries.md").read_text() == table
    assert (tmp_path / "phase 2.json").stat().st_mtime_ns == written
    assert "phase1: finished" in capsys.readouterr().out
