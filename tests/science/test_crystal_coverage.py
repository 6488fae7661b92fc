"""Coverage on vectors of hand, by both rules."""

import numpy as np
import pytest

from nsllm_lite.science.crystal_coverage import CHUNK, Cutoffs, Scale, coverage, read_scale, scale_of
from nsllm_lite.science.crystal_fingerprints import Fingerprint
from tests.raising import raises

PLAIN = Scale("plain", np.zeros(132), np.ones(132))
CUTOFFS = Cutoffs(0.2, 4)


def at(structure: float, composition: float) -> Fingerprint:
    """A fingerprint that is that far from one at 0, 0."""
    return Fingerprint(np.eye(61)[0] * structure, np.eye(132)[0] * composition)


def test_itself():
    crystals = [at(0, 0), at(1, 9), at(2, 18)]
    found = coverage(crystals, crystals, CUTOFFS, PLAIN)
    assert all(rows.all() for rows in found[:4])
    assert not np.any(found[4:])


def test_two_neighbours_are_one_by_the_loose_rule_only():
    reference = [at(0, 0), at(1, 9)]
    samples = [at(0.1, 8), None, at(0.9, 3), at(0.2, 4), at(0.5, 0)]
    found = coverage(samples, reference, CUTOFFS, PLAIN)
    assert found.precision.tolist() == [True, False, True, True, False]
    assert found.precision_strict.tolist() == [False, False, False, True, False]
    assert found.recall.tolist() == [True, True]
    assert found.recall_strict.tolist() == [True, False]
    assert found.structure_distance.tolist() == pytest.approx([0.1, np.inf, 0.1, 0.2, 0.5])
    assert found.composition_distance.tolist() == [1, np.inf, 3, 4, 0]


def test_no_sample_has_a_fingerprint():
    found = coverage([None, None], [at(0, 0)], CUTOFFS, PLAIN)
    assert [rows.tolist() for rows in found[:4]] == [[False, False], [False, False], [False], [False]]


def test_more_samples_than_are_compared_at_once():
    samples = [at(0, 0), *[at(9, 99)] * CHUNK, at(1, 9)]
    found = coverage(samples, [at(0, 0), at(1, 9)], CUTOFFS, PLAIN)
    assert found.precision.tolist() == [True] + [False] * CHUNK + [True]
    assert found.recall.tolist() == found.recall_strict.tolist() == [True, True]


def test_without_a_reference():
    with raises("crystal-reference-empty"):
        coverage([at(0, 0)], [], CUTOFFS, PLAIN)


def test_the_scale_of_a_reference():
    rows = np.zeros((4, 132))
    rows[:, 0] = [1, 3, 1, 3]
    rows[:, 1] = [5, np.nan, 5, 5]  # never varies: its unit is kept
    scale = scale_of([Fingerprint(np.zeros(61), row) for row in rows])
    given = scale.apply(np.array([[4, 7, *[0] * 130], [np.nan, 5, *[0] * 130]]))
    assert given[:, :3].tolist() == [[2, 2, 0], [0, 0, 0]]


def test_a_scale_from_its_file(tmp_path):
    path = tmp_path / "constants.py"
    path.write_text(f"import nothing\nCompScalerMeans = {[2.0] * 132}\nCompScalerStds = {[4.0] * 132}\nOTHER = run()\n")
    scale = read_scale(path)
    assert scale.name == "CDVAE"
    assert scale.apply(np.full((1, 132), 10.0)).tolist() == [[2.0] * 132]


@pytest.mark.parametrize(
    "text",
    [
        "version https://git-lfs.github.com/spec/v1",
        "CompScalerMeans = [1.0]\nCompScalerStds = [1.0]",
        f"CompScalerMeans = {[1.0] * 132}",
        f"CompScalerMeans = {[1.0] * 132}\nCompScalerStds = {[0.0] * 132}",
        "CompScalerMeans = print(1)",
    ],
)
def test_no_scale(tmp_path, text):
    path = tmp_path / "constants.py"
    path.write_text(text)
    with raises("crystal-scale-unread", path):
        read_scale(path)
