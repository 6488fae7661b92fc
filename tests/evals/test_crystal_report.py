"""Figures over all samples asked for, beside their floors and real crystals."""

import json

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nsllm_lite.evals import crystal_report
from nsllm_lite.evals.crystal_report import GENERATED, PLACED, RANDOM, REAL, SHUFFLED, Unread, measure, read, table
from tests.raising import raises
from tests.science.crystals import crystal, pair, perovskite

pytestmark = pytest.mark.slow  # 10 s of crystals; CI runs them

TRAINING = [perovskite(), perovskite("Ba Zr O", 4.2), pair("Na Cl", 3.5), perovskite("K Mg F", 4.0)]
REFERENCE = [perovskite("Ca Ti O", 3.8), pair("Cs Br", 4.2), perovskite("Na Mg F", 3.9)]
OVERLAPPING = crystal([4], "Sr O", [[0, 0, 0], [0, 0, 0.1]])
OWN_IMAGE = crystal([0.4, 5, 5, 90, 90, 90], "Sr O", [[0, 0, 0], [0.5, 0.5, 0.5]])
SAMPLES = [
    perovskite("Ca Ti O", 3.8),  # of the reference
    perovskite("Ca Ti O", 3.85),  # the same again
    perovskite(),  # of the training set
    pair("Ba F", 4.0),  # cannot be neutral
    OVERLAPPING,
    OWN_IMAGE,
    Unread("cut off"),
    Unread("cut off"),
]
WANTED = ["CaTiO3", "CaTiO3", "Ca2Ti2O6", "BaF", "SrO", "SrO", "CsBr", "CsBr"]


@pytest.fixture(scope="module")
def found():
    return measure(SAMPLES, REFERENCE, TRAINING, WANTED, seed=0, data_set="perov_5")


def value(found, figure, name=GENERATED):
    return found["figures"][figure][name]["value"]


def test_every_sample_asked_for_counts(found):
    expected = {
        "readable": 6 / 8,
        "structure, 0.5 Å": 5 / 8,
        "structure, 1.0 Å": 5 / 8,
        "structure, 0.5 Å, own images too": 4 / 8,
        "unique": 3 / 8,
        "novel": 3 / 8,  # both copies are not in the training set
        "novel formula": 3 / 8,
        "formula as wanted": 5 / 8,  # CaTiO3 twice, BaF and SrO twice; an overlapping SrO still has the formula
        "structure as wanted": 2 / 8,
        "displacement of matches": pytest.approx(0, abs=1e-6),
    }
    assert {figure: value(found, figure) for figure in expected} == expected
    assert found["unreadable"] == {"cut off": 2}
    ns = {figure: cells[GENERATED]["n"] for figure, cells in found["figures"].items()}
    assert ns["readable"] == ns["unique"] == ns["coverage, precision, strict"] == 8
    assert ns["coverage, recall"] == len(REFERENCE)
    assert ns["displacement of matches"] == 2


def test_valid_is_both(found):
    assert value(found, "composition, smact14") == value(found, "composition, icsd24") == 5 / 8
    assert value(found, "valid") == 4 / 8  # by the published rule, which passes an atom near its own image
    assert value(found, "valid, unique, novel") == 1 / 8


def test_figures_stand_between_floors_and_real_crystals(found):
    """Bounds that hold for every draw."""
    assert value(found, "structure, 1.0 Å", RANDOM) == 1
    assert value(found, "valid", REAL) == 1
    assert value(found, "novel", REAL) == 1  # of reference crystals against the training set
    assert value(found, "structure as wanted", RANDOM) == 0
    assert value(found, "formula as wanted", SHUFFLED) < value(found, "formula as wanted")
    assert value(found, "formula as wanted", PLACED) == 1
    for figure, cells in found["figures"].items():
        assert {GENERATED, RANDOM} <= cells.keys(), figure
        assert (REAL in cells) != (figure in crystal_report.CONDITIONAL)
        for cell in cells.values():
            assert cell["value"] is None or cell["low"] - 1e-9 <= cell["value"] <= cell["high"] + 1e-9
    assert any(RANDOM in words and "structure, 0.5 Å" in words for words in found["warnings"])


def test_coverage_is_on_the_scale_that_is_named(found, tmp_path):
    assert value(found, "coverage, precision, strict") == 2 / 8
    assert "reference set" in found["settings"]["coverage"]
    path = tmp_path / "constants.py"
    path.write_text(f"CompScalerMeans = {[0.0] * 132}\nCompScalerStds = {[1e9] * 132}\n")
    other = measure(SAMPLES, REFERENCE, TRAINING, data_set="perov_5", scale=path, coverage_n=5)
    assert value(other, "coverage, precision, strict") == 3 / 5  # SrTiO3 too: no composition is far
    assert "CDVAE" in other["settings"]["coverage"]


def test_recall_states_by_how_many_samples(found):
    cells = found["figures"]["coverage, recall, strict"]
    assert {name: cell["by"] for name, cell in cells.items()} == {GENERATED: 8, RANDOM: 8, PLACED: 8, REAL: 4}
    assert any(note.startswith(f"{REAL}: only 4 ") for note in found["notes"])
    assert "n 3 by 8 |" in table(found)


def test_the_table(found):
    drawn = table(json.loads(json.dumps(found)))
    row = next(line for line in drawn.splitlines() if line.startswith("| unique"))
    assert "0.375 [" in row
    assert drawn.index(GENERATED) < drawn.index(RANDOM) < drawn.index(f" {REAL} ")
    assert "cut off: 2" in drawn


def test_a_distance_of_distributions_lies_within_its_interval():
    alike = crystal_report._estimate(np.arange(40.0), np.arange(40.0), seed=0)
    assert alike["value"] == alike["low"] == 0 < alike["high"]
    apart = crystal_report._estimate(np.arange(40.0) + 100, np.arange(40.0), seed=0)
    assert apart["value"] == pytest.approx(100)
    assert 90 < apart["low"] < 100 < apart["high"] < 110


def test_the_same_seed_gives_the_same(found):
    assert measure(SAMPLES, REFERENCE, TRAINING, WANTED, seed=0, data_set="perov_5") == found


def test_crystals_to_compare_with_that_cannot_be_used():
    mixed = Structure(Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    found = measure([pair()], [*REFERENCE, mixed], [*TRAINING, mixed, mixed, OVERLAPPING])
    assert [list(found["left_out"][name].values()) for name in ("reference", "training")] == [[1], [2, 1]]
    assert "coverage, recall" not in found["figures"]
    assert "formula as wanted" not in found["figures"]
    with raises("crystals-nothing-to-compare", "training"):
        measure([pair()], REFERENCE, [mixed])


def test_nothing_readable():
    found = measure([Unread("empty")] * 3, REFERENCE, TRAINING, data_set="perov_5")
    assert value(found, "valid") == value(found, "coverage, precision") == value(found, "unique") == 0
    assert found["figures"]["density, Wasserstein"][GENERATED] == {"value": None, "low": None, "high": None, "n": 0}
    assert "| - |" in table(found)


def test_comparisons_that_are_spent_are_told(monkeypatch):
    monkeypatch.setattr(crystal_report.crystal_matching.first_of_kind, "__defaults__", (0,))
    found = measure([perovskite()] * 3, REFERENCE, TRAINING)
    assert found["figures"]["unique"][GENERATED]["n"] == found["figures"]["valid, unique, novel"][GENERATED]["n"] == 1
    assert any(note.startswith(f"{GENERATED}: unique") for note in found["notes"])


def test_texts_are_read_or_counted():
    def decode(text):
        if text != "good":
            raise ValueError(f"not {text}")
        return pair()

    given = read(["good", "bad"], decode)
    assert given[0] == pair()
    assert given[1] == Unread("not bad")


@pytest.mark.parametrize(
    ("samples", "options", "code"),
    [
        ([], {}, "crystals-none-asked"),
        ([Unread("")], {"wanted": []}, "crystals-wanted-differ"),
        ([Unread("")], {"wanted": ["no formula"]}, "crystals-formula-unread"),
        ([Unread("")], {"wanted": ["XxO2"]}, "crystals-formula-unread"),
        ([Unread("")], {"wanted": [""]}, "crystals-formula-unread"),
        ([Unread("")], {"data_set": "oqmd"}, "crystals-cutoffs-unknown"),
    ],
)
def test_refused(samples, options, code):
    with raises(code):
        measure(samples, REFERENCE, TRAINING, **options)
