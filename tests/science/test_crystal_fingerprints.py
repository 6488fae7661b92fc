"""Both featurisers against matminer's numbers, and fingerprints that are kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Composition

from nsllm_lite.science import crystal_fingerprints
from nsllm_lite.science.crystal_fingerprints import Fingerprints, of_composition, of_structure
from tests.science.crystals import crystal, perovskite

DATA = Path(__file__).parents[1] / "data/science/fingerprints.json"
KNOWN = json.loads(DATA.read_text())["crystals"]


@pytest.mark.parametrize("known", [one for one in KNOWN if "cell" in one], ids=lambda one: one["name"])
def test_as_matminer(known):
    structure = crystal(known["cell"], " ".join(known["species"]), known["coords"])
    np.testing.assert_allclose(of_structure(structure), known["structure"], atol=1e-6)
    np.testing.assert_allclose(of_composition(structure.composition), known["composition"], atol=1e-6)


@pytest.mark.parametrize("known", [one for one in KNOWN if "cell" not in one], ids=lambda one: one["name"])
def test_unknown_properties_as_matminer(known):
    given = of_composition(Composition(known["name"]))
    assert np.isnan(given).any()
    np.testing.assert_allclose(given, np.array(known["composition"], float), atol=1e-6)


def test_an_element_without_properties_has_no_fingerprint():
    assert of_composition(Composition("OgO2")) is None
    assert Fingerprints().of(perovskite("Sr Og O")) is None


def test_each_is_made_once(tmp_path, monkeypatch):
    one, made = perovskite(), Fingerprints(tmp_path / "cache")
    first = made.of(one)
    with open(made.path, "a") as file:
        file.write('{"crystal": "cut o')
    made = Fingerprints(tmp_path / "cache")
    monkeypatch.setattr(crystal_fingerprints, "of_structure", lambda structure: None)
    np.testing.assert_array_equal(made.of(one).structure, first.structure)
    assert made.of(perovskite(length=4.0)) is None
    assert len(made.path.read_text().splitlines()) == 2
    assert Fingerprints(tmp_path / "cache").made.keys() == made.made.keys()
    monkeypatch.setattr(crystal_fingerprints, "version", lambda package: "another")
    assert made.of(one) is None
