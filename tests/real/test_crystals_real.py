"""Published figures of crystals: coverage of perov_5, LLaMat's conditional crystals, floors of random elements."""

import ast
import csv
import sys
from itertools import islice

import numpy as np
import pytest

from nsllm_lite.science import crystal_validity
from nsllm_lite.science.crystal_coverage import CUTOFFS, coverage, read_scale, scale_of
from nsllm_lite.science.crystal_fingerprints import Fingerprints
from nsllm_lite.science.crystal_floors import random_elements, wanted_in_training_cells
from nsllm_lite.science.crystal_matching import by_formula, distances, first_of_kind, formula_of

Structure = pytest.importorskip("pymatgen.core").Structure


def crystals(real_data, name, count):
    csv.field_size_limit(sys.maxsize)
    with open(real_data / f"crystals_cdvae/data/{name}.csv", newline="") as file:
        return [Structure.from_str(row["cif"], "cif") for row in islice(csv.DictReader(file), count)]


@pytest.fixture(scope="module")
def prints(real_data):
    """Of the first 180 test crystals of perov_5; some 25 seconds."""
    made = Fingerprints()
    return [made.of(one) for one in crystals(real_data, "perov_5/test", 180)]


def test_a_test_set_covers_itself(prints):
    found = coverage(prints, prints, CUTOFFS["perov_5"], scale_of(prints))
    assert [rows.mean() for rows in found[:4]] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("scale", "recall", "precision", "strict"), [("CDVAE", 0.183, 0.367, 0.117), ("reference", 0.083, 0.183, 0.050)]
)
def test_coverage_of_real_crystals_by_others(real_data, prints, scale, recall, precision, strict):
    path = real_data / "crystals_cdvae/constants.py"  # cdvae/common/constants.py of CDVAE's repository
    if scale == "CDVAE" and not path.is_file():
        pytest.skip(f"{path} is not there")
    reference = prints[:120]
    by = read_scale(path) if scale == "CDVAE" else scale_of(reference)
    found = coverage(prints[120:], reference, CUTOFFS["perov_5"], by)
    assert found.recall.mean() == pytest.approx(recall, abs=0.02)
    assert found.precision.mean() == pytest.approx(precision, abs=0.02)
    assert found.precision_strict.mean() == pytest.approx(strict, abs=0.02)


def test_published_crystals_of_llamat(real_data):
    """The first 2,000 of 9,046; what cannot be built counts as invalid."""
    with open(real_data / "llamat/llamat2_9046_parsed.csv", newline="") as file:
        given = [published(row) for row in islice(csv.DictReader(file), 2000)]
    assert sum(one is not None for one in given) == 1937
    given = [None if one is None or crystal_validity.fault(one) else one for one in given]
    nearest = [None if one is None else crystal_validity.closest(one) for one in given]

    def share(distance):
        return np.mean([near is not None and near.pair >= distance for near in nearest])

    assert [share(distance) for distance in (0.5, 0.7, 1.0)] == pytest.approx([0.915, 0.903, 0.873], abs=0.002)
    own_too = np.mean([near is not None and min(near) >= 0.5 for near in nearest])
    assert own_too == pytest.approx(0.910, abs=0.001)  # nine more have an atom that near its own image
    for name, expected in (("smact14", 0.851), ("icsd24", 0.857)):
        neutral = [one is not None and crystal_validity.is_neutral(one.composition, name) is True for one in given]
        assert np.mean(neutral) == pytest.approx(expected, abs=0.001), name


def published(row):
    """The crystal of a row, or None: as strict as the reader of model output."""
    lengths, angles, species, coords = (
        ast.literal_eval(row[name]) if row[name] else [] for name in ("lengths", "angles", "species", "coords")
    )
    if not species or len(lengths) != 3 or len(angles) != 3 or not all(0 < angle < 180 for angle in angles):
        return None
    cosines = np.cos(np.radians(angles))
    if min(lengths) <= 0 or 1 - (cosines**2).sum() + 2 * cosines.prod() <= 1e-4:
        return None
    from pymatgen.core import Element, Lattice

    if not all(Element.is_valid_symbol(symbol) for symbol in species):
        return None
    return Structure(Lattice.from_parameters(*lengths, *angles), species, coords)


def test_random_elements_are_valid_already(real_data):
    """0.805 of 200 drawn once; four seeds."""
    training = crystals(real_data, "perov_5/val", 1000)
    shares = []
    for seed in range(4):
        made = random_elements(training, 200, seed)
        assert all(crystal_validity.closest(one).pair >= 0.5 for one in made)
        shares.append(np.mean([crystal_validity.is_neutral(one.composition, "smact14") is True for one in made]))
    assert np.mean(shares) == pytest.approx(0.805, abs=0.03)


def test_wanted_elements_in_training_cells_match_nearly_half(real_data):
    """Without a model: each formula as wanted, 0.445 of the structures."""
    test, training = crystals(real_data, "perov_5/test", 200), crystals(real_data, "perov_5/val", 1000)
    wanted = [formula_of(one) for one in test]
    made = wanted_in_training_cells(wanted, training, seed=0)
    assert [one and formula_of(one) for one in made] == wanted
    assert np.isfinite(distances(made, wanted, by_formula(test))).mean() == pytest.approx(0.445, abs=0.08)


def test_distinct_crystals_of_one_formula(real_data):
    """All of carbon_24 is C: only their structures tell them apart, and two in five are one that was there before."""
    carbon = crystals(real_data, "carbon_24/val", 60)
    assert first_of_kind(carbon).mean() == pytest.approx(0.6, abs=0.02)
    assert first_of_kind([*carbon, *carbon])[60:].sum() == 0
