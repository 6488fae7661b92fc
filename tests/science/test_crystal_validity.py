"""Distances with images of the cell, and compositions that smact judges, or cannot."""

import sys

import numpy as np
import pytest
from pymatgen.core import Composition, DummySpecies, Lattice, Structure

from nsllm_lite.science.crystal_validity import MAX_SITES, closest, fault, is_neutral, require_materials
from tests.raising import raises
from tests.science.crystals import crystal, pair, perovskite


@pytest.mark.parametrize(
    ("cell", "coords", "near"),
    [
        ([4], [[0, 0, 0], [0, 0, 0.1]], (0.4, np.inf)),
        ([4], [[0, 0, 0.05], [0, 0, 0.9]], (0.6, np.inf)),  # through the wall of the cell
        ([4], [[0.3, 0, 0], [0.3, 0, 0]], (0, np.inf)),
        ([4], [[0, 0, 0], [0.5, 0.5, 0.5]], (np.inf, np.inf)),
        ([0.4, 5, 5, 90, 90, 90], [[0, 0, 0], [0.5, 0.5, 0]], (np.inf, 0.4)),
        ([0.1, 0.9, 1, 90, 90, 90], [[0, 0, 0], [0.5, 0.5, 0.5]], (0, 0)),  # below 0.1 Å³
        ([50, 50, 8, 90, 90, 1], [[0, 0, 0], [0.5, 0.5, 0.5]], (np.inf, 2 * 50 * np.sin(np.radians(0.5)))),
        ([100, 100, 10, 90, 90, 0.01], [[0, 0, 0], [0.5, 0.5, 0.5]], (np.inf, 2 * 100 * np.sin(np.radians(0.005)))),
    ],
)
def test_closest(cell, coords, near):
    assert closest(crystal(cell, "H O", coords)) == pytest.approx(near, abs=1e-6)


def test_faults():
    many = Structure(Lattice.cubic(100), ["H"] * (MAX_SITES + 1), np.zeros((MAX_SITES + 1, 3)))
    lost = crystal([4], "H", [[0, 0, float("nan")]])
    dummy = Structure(Lattice.cubic(4), [DummySpecies("Xx")], [[0, 0, 0]])
    disordered = Structure(Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    reasons = [fault(one) for one in (many, lost, dummy, disordered, Structure(Lattice.cubic(4), [], []))]
    assert all(reasons)
    assert len(set(reasons)) == 5
    assert [fault(one) for one in (perovskite(), pair())] == ["", ""]


@pytest.mark.parametrize(
    ("formula", "smact14", "icsd24"),
    [
        ("SrTiO3", True, True),
        ("Sr2Ti2O6", True, True),
        ("NaCl2", False, False),
        ("NeF2", False, False),  # a noble gas: no states
        ("FeNi3", True, True),  # metals alone
        ("Fe3O4", False, False),  # of two valences
        ("PtF6", True, False),
        ("SbO2", False, True),
        ("Og2O", None, None),  # not in smact's table
        ("HHeLiBeBCNOF", None, None),  # nine elements
    ],
)
def test_sets_of_oxidation_states(formula, smact14, icsd24):
    composition = Composition(formula)
    assert (is_neutral(composition, "smact14"), is_neutral(composition, "icsd24")) == (smact14, icsd24)


def test_what_smact_calls_valid_and_is_no_element():
    assert is_neutral(Composition({DummySpecies("Xx"): 1}), "smact14") is None


def test_oxidation_states_of_a_file_change_nothing():
    assert is_neutral(Composition({"Na+": 1, "Cl-": 1}), "smact14") is True


def test_without_pymatgen(monkeypatch):
    monkeypatch.setitem(sys.modules, "smact.screening", None)
    with raises("extra-not-installed", "materials"):
        require_materials()
