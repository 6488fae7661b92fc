"""The codec: both layouts to the letter, what comes back, and a reason for each text that is no crystal."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.science.crystal import (
    ELEMENTS,
    LAYOUTS,
    MAX_SITES,
    Crystal,
    CrystalError,
    as_structure,
    closest,
    counts_of,
    decode,
    encode,
    flatness,
    formula_of,
    of_structure,
    reduced,
)  # fmt: skip
from nsllm_lite.science.crystal_symmetry import symmetry_of

TITANATE = Crystal(
    (3.905, 3.9051, 3.9), (90.0, 89.96, 119.99999999999999), ("Sr", "Ti", "O", "O", "O"),
    ((0, 0, 0), (0.5, 0.5, 0.5), (-0.0004, 0.5, 1.49996), (0.5, -0.25, 0.5), (0.33333, 2.5, 0)),
)  # fmt: skip
TEXT = """3.90 3.91 3.90
90.0 90.0 120.0
Sr
0.000 0.000 0.000
Ti
0.500 0.500 0.500
O
0.000 0.500 0.500
O
0.500 0.750 0.500
O
0.333 0.500 0.000"""
GOOD = "4.0 4.0 4.0\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"


def test_both_layouts_to_the_letter():
    assert encode(TITANATE) == TEXT.replace("3.90 3.91", f"{3.905:.2f} 3.91")
    assert encode(TITANATE, "llamat").splitlines()[:6] == [
        "3.9 3.9 3.9", "90 90 120", "Sr", "0.00 0.00 0.00", "Ti", "0.50 0.50 0.50",
    ]  # fmt: skip


def test_what_is_read_is_what_was_written():
    found, reason = decode(f" {TEXT}\n")
    assert reason == ""
    assert found.lengths == (3.9, 3.91, 3.9)
    assert found.angles == (90, 90, 120)
    assert found.elements == TITANATE.elements
    assert found.coordinates[3] == (0.5, 0.75, 0.5)


REFUSED = {
    "": "empty",
    " \n\n": "empty",
    "Here is a crystal:\n" + GOOD: "no lengths in the first line",
    "4.0 4.0  4.0" + GOOD[11:]: "no lengths in the first line",
    "nan 4.0 4.0" + GOOD[11:]: "no lengths in the first line",
    "1e9 4.0 4.0" + GOOD[11:]: "no lengths in the first line",
    "-4.0 4.0 4.0" + GOOD[11:]: "no lengths in the first line",
    "٤.0 4.0 4.0" + GOOD[11:]: "no lengths in the first line",
    "0.0 4.0 4.0" + GOOD[11:]: "a length out of range",
    "1000.0 4.0 4.0" + GOOD[11:]: "a length out of range",
    "4.0 4.0 4.0\ncubic\nNa\n0.00 0.00 0.00": "no angles in the second line",
    "4.0 4.0 4.0\n90 90": "cut off",
    "4.0 4.0 4.0": "cut off",
    GOOD.replace("90 90 90", "90 90 180"): "an angle out of range",
    GOOD.replace("90 90 90", "0 90 90"): "an angle out of range",
    GOOD.replace("90 90 90", "30 30 170"): "an impossible cell",
    GOOD.replace("90 90 90", "60 60 120"): "an impossible cell",  # flat
    GOOD.replace("Na", "Xx"): "an unknown element",
    GOOD.replace("Na", "na"): "an unknown element",
    GOOD.replace("Na", "Na+"): "an unknown element",
    GOOD.replace("Na", "D"): "an isotope in place of an element",
    GOOD.replace("0.00 0.00 0.00", "0.00 0.00 nan"): "a line that is no coordinates",
    GOOD + "\n\nThis is salt.": "an unknown element",
    GOOD + "\n": "",
    GOOD[:-14]: "cut off",
    GOOD[:-16]: "cut off",
    GOOD[:-4]: "cut off",
    GOOD[:-1]: "cut off",
    GOOD.replace("0.00 0.00 0.00", "0.0 0.00 0.00"): "coordinates with unequal decimals",
    "4.0 4.0 4.0\n90 90 90": "no sites",
    "4.0 4.0 4.0\n90 90 90" + "\nNa\n0.00 0.00 0.00" * (MAX_SITES + 1): f"more than {MAX_SITES} sites",
    "4.0 4.0 4.0\n90 90 90" + "\nNa\n0.00 0.00 0.00" * 10_000: f"more than {MAX_SITES} sites",
    "4.0 4.0 4.0\n90 90 90" + "\nNa\n0.00 0.00 0.00" * MAX_SITES: "",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_no_crystal_is_refused_with_its_reason(text, reason):
    found = decode(text)
    assert found.reason == reason
    assert (found.crystal is None) == bool(reason)


@st.composite
def texts(draw) -> str:
    """Texts as `encode` writes them, of random crystals in either layout."""
    layout, rng = draw(st.sampled_from(sorted(LAYOUTS))), random.Random(draw(st.integers(0, 2**32)))
    angles = (0.0, 0.0, 0.0)
    while flatness(angles) < 0.1:  # rounding by half a degree leaves it a cell
        angles = tuple(rng.uniform(10, 170) for _ in range(3))
    lengths = tuple(rng.uniform(0.5, 99) for _ in range(3))
    size = rng.choice([1, 2, 5, 40])
    places = tuple(tuple(rng.uniform(-2, 2) for _ in range(3)) for _ in range(size))
    return encode(Crystal(lengths, angles, tuple(rng.choices(ELEMENTS, k=size)), places), layout)


@given(texts())
def test_a_text_comes_back_the_same(text):
    layout = "default" if len(text.split(" ", 1)[0].split(".")[1]) == 2 else "llamat"
    assert encode(decode(text).crystal, layout) == text


@given(texts())
def test_it_comes_back_the_same_through_pymatgen(text):
    layout = "default" if len(text.split(" ", 1)[0].split(".")[1]) == 2 else "llamat"
    structure = as_structure(decode(text).crystal)
    assert structure.volume == pytest.approx(decode(text).crystal.volume, rel=1e-6)
    assert encode(of_structure(structure), layout) == text


def test_no_text_makes_the_reader_fail():
    rng = random.Random(0)
    signs = [*GOOD, "\x00", "\u2028", "٣", "e", "-", "\r", "\t", "\ud800", "inf", "Uuo", "9" * 40]
    refused = 0
    for _ in range(2_000):
        letters = list(rng.choice([GOOD, TEXT]))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(letters))
            letters[place : place + rng.randint(0, 3)] = rng.choices(signs, k=rng.randint(0, 2))
        found = decode("".join(letters))
        assert (found.crystal is None) == bool(found.reason)
        refused += found.crystal is None
    assert 1_000 < refused < 2_000


def test_what_rounding_makes_impossible_is_not_written():
    for crystal, reason in (
        (replace(TITANATE, lengths=(0.004, 4, 4)), "a length out of range"),
        (replace(TITANATE, angles=(90, 90, 179.97)), "an angle out of range"),
        (replace(TITANATE, elements=("Xx",) * 5), "an unknown element"),
        (Crystal((4, 4, 4), (90, 90, 90), (), ()), "no sites"),
    ):
        with pytest.raises(CrystalError, match=reason):
            encode(crystal)


def test_the_structure_loses_its_charges_and_disorder_is_refused():
    from pymatgen.core import DummySpecies, Lattice, Structure

    box, places = Lattice.cubic(5.6), [[0, 0, 0], [0.5, 0.5, 0.5]]
    assert of_structure(Structure(box, ["Na+", "Cl-"], places)).elements == ("Na", "Cl")
    for species, reason in (
        ([{"Na": 0.5, "K": 0.5}, "Cl"], "disordered sites"),
        ([{"Na": 0.9}, "Cl"], "disordered sites"),
        ([DummySpecies("Xx"), "Cl"], "an unknown element"),
        (["D", "Cl"], "an isotope in place of an element"),
    ):
        with pytest.raises(CrystalError, match=reason):
            of_structure(Structure(box, species, places))
    with pytest.raises(CrystalError, match="finite"):
        of_structure(Structure(box, ["Na", "Cl"], [[0, 0, math.nan], [0, 0, 0]]))


def test_a_left_handed_cell_is_not_the_mirror_image():
    from pymatgen.core import Lattice, Structure

    places = [[0.47, 0, 1 / 3], [0.41, 0.27, 0.119]]
    quartz = Structure.from_spacegroup("P3_121", Lattice.hexagonal(4.9, 5.4), ["Si", "O"], places)
    cell, swapped = Lattice(quartz.lattice.matrix[[1, 0, 2]]), quartz.frac_coords[:, [1, 0, 2]]
    for structure in (quartz, Structure(cell, quartz.species, swapped)):
        crystal = of_structure(structure)
        assert symmetry_of(crystal).symbol == "P3_121"
        assert symmetry_of(decode(encode(crystal)).crystal).symbol == "P3_121"


def test_the_least_distance_by_hand():
    pair = Crystal((4, 5, 6), (90, 90, 90), ("Na", "Cl"), ((0.95, 0, 0), (0.05, 0, 0)))
    assert closest(pair) == pytest.approx(0.4)  # across the border of the cell
    assert closest(replace(pair, coordinates=((0.9, 0, 0), (0.05, 0, 0)))) == math.inf  # 0.6 Å
    assert closest(replace(pair, lengths=(0.4, 5, 6))) == pytest.approx(0.04)
    assert closest(Crystal((0.4, 5, 6), (90, 90, 90), ("Na",), ((0, 0, 0),))) == pytest.approx(0.4)  # its own image
    skew = Crystal((4, 4, 4), (90, 90, 10), ("Na", "Cl"), ((0, 0, 0), (0.5, 0.5, 0.5)))
    assert closest(skew) == math.inf
    skew = Crystal((4, 4, 4), (90, 90, 5), ("Na",), ((0, 0, 0),))  # a - b has 8 sin 2.5° = 0.349 Å
    assert closest(skew) == pytest.approx(8 * math.sin(math.radians(2.5)))
    assert closest(Crystal((4, 4, 4), (90, 90, 1), ("Na",), ((0, 0, 0),))) == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_least_distance_is_pymatgens(seed):
    rng = random.Random(seed)
    angles = (0.0, 0.0, 0.0)
    while flatness(angles) < 0.02:
        angles = tuple(rng.uniform(20, 160) for _ in range(3))
    places = tuple(tuple(rng.random() for _ in range(3)) for _ in range(12))
    crystal = Crystal(tuple(rng.uniform(0.9, 3) for _ in range(3)), angles, ("C",) * 12, places)
    *_, distances = as_structure(crystal).get_neighbor_list(0.5)
    assert closest(crystal) == pytest.approx(min(distances, default=math.inf), abs=1e-6)


def test_formulas():
    assert counts_of("Ba(TiO3)2") == {"Ba": 1, "Ti": 2, "O": 6}
    assert counts_of("Cl") == {"Cl": 1}
    for wrong in ("", "Xx2", "Na Cl", "NaCl)", "(NaCl", "na", "Na0", "H2O.", "1Na", "C" * 3 + "é"):
        assert counts_of(wrong) is None, wrong
    assert reduced({"O": 6, "Ti": 2}) == {"O": 3, "Ti": 1}
    assert formula_of(TITANATE) == "SrTiO3"
    assert TITANATE.counts == {"Sr": 1, "Ti": 1, "O": 3}
    assert replace(TITANATE, angles=(90, 90, 60), lengths=(2, 3, 4)).volume == pytest.approx(24 * math.sqrt(0.75))
