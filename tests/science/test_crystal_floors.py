"""Floors are drawn from a seed, keep cells and places, and are no copies."""

import numpy as np

from nsllm_lite.science.crystal_floors import draw, random_elements, shuffled, wanted_in_training_cells
from nsllm_lite.science.crystal_matching import formula_of
from tests.science.crystals import pair, perovskite

TRAINING = [perovskite(), perovskite("Ba Zr N", 4.2), pair("Na Cl", 3.5)]


def test_random_elements_in_training_cells():
    made = random_elements(TRAINING, 9, seed=1)
    assert [one.species for one in made] == [one.species for one in random_elements(TRAINING, 9, seed=1)]
    assert [one.species for one in made] != [one.species for one in random_elements(TRAINING, 9, seed=2)]
    lengths = sorted(one.lattice.a for one in made)
    np.testing.assert_allclose(lengths, [3.5] * 3 + [3.9] * 3 + [4.2] * 3)  # each cell in turn
    elements = {kind.symbol for one in made for kind in one.composition}
    assert elements <= {"Sr", "Ti", "O", "Ba", "Zr", "N", "Na", "Cl"}
    assert all(len(one.composition) == (3 if len(one) == 5 else 2) for one in made)


def test_wanted_elements_in_training_cells():
    made = wanted_in_training_cells(["KMgF3", "LiF", "Li2O"], TRAINING, seed=0)
    assert [one and formula_of(one) for one in made] == ["KMgF3", "LiF", None]
    assert [kind.symbol for kind in made[0].species[2:]] == ["F"] * 3


def test_shuffled_prompts_are_those_of_others():
    wanted = [f"formula {number}" for number in range(20)]
    given = shuffled(wanted, seed=0)
    assert sorted(given) == sorted(wanted)
    assert not any(one == other for one, other in zip(wanted, given, strict=True))


def test_none_is_drawn_twice():
    assert sorted(draw(range(5), 9, seed=0)) == [0, 1, 2, 3, 4]
    assert len(set(draw(range(50), 9, seed=0))) == 9
