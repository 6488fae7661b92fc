"""The same crystal in another cell, order or with other elements; what was wanted."""

import numpy as np
import pytest

from nsllm_lite.science.crystal_matching import by_formula, distances, first_of_kind, is_novel
from tests.science.crystals import crystal, pair, perovskite


def moved():
    one = perovskite().copy()
    one.translate_sites(range(5), [0.3, 0.1, 0.2])
    return one


def doubled():
    one = perovskite().copy()
    one.make_supercell([2, 1, 1])
    return one


def test_copies_in_other_cells_are_counted_once():
    given = [perovskite(), moved(), None, doubled(), perovskite("Ba Ti O"), pair()]
    assert first_of_kind(given).tolist() == [True, False, False, False, True, True]


def test_the_same_formula_in_another_structure_is_another_crystal():
    chain = crystal([3.9, 3.9, 20, 90, 90, 90], "Sr Ti O O O", [[0, 0, place / 5] for place in range(5)])
    assert first_of_kind([perovskite(), chain]).tolist() == [True, True]
    assert is_novel([perovskite(), chain, doubled(), None], by_formula([moved()])).tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_oxidation_states_make_no_other_crystal():
    stated = perovskite().copy()
    stated.add_oxidation_state_by_element({"Sr": 2, "Ti": 4, "O": -2})
    assert is_novel([stated], by_formula([perovskite()])).tolist() == [False]


def test_comparisons_that_are_spent_end_the_array():
    chain = crystal([3.9, 3.9, 20, 90, 90, 90], "Sr Ti O O O", [[0, 0, place / 5] for place in range(5)])
    assert len(first_of_kind([perovskite(), chain, moved(), moved()], limit=3)) == 3
    assert len(is_novel([moved(), moved()], by_formula([perovskite()]), limit=1)) == 1


def test_distances_to_what_was_wanted():
    bent = perovskite().copy()
    bent.translate_sites([0], [0.05, 0, 0])
    reference = by_formula([perovskite(), pair()])
    wanted = ["SrTiO3", "SrTiO3", "CsCl", "BaTiO3", "SrTiO3"]
    found = distances([perovskite(), bent, perovskite(), perovskite("Ba Ti O"), None], wanted, reference)
    assert found[0] == pytest.approx(0, abs=1e-6)
    # one of five sites by 0.195 Å; matched after the mean shift is taken off: sqrt(0.16 * 0.195**2) Å
    assert found[1] == pytest.approx(np.sqrt(0.16) * 0.195 / (3.9**3 / 5) ** (1 / 3), rel=0.01)
    assert np.isnan(found[2:]).all()
