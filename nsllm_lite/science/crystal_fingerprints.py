"""The two vectors of a crystal by which coverage tells whether another is like it: 61 numbers of how its atoms are
coordinated, 132 of what elements it has.

Coordination: for each number of neighbours its weight in CrystalNN, and how well they form the motifs of that number
(order parameters), averaged over sites. Composition: minimum, maximum, range, mean, mean deviation and mode of 22
properties of its elements. matminer computes the same ("ops" of CrystalNNFingerprint, "magpie" of ElementProperty); it
needs pandas below 3, so tests compare with its numbers. Letters: S sites.
Source: Zimmermann and Jain, "Local structure order parameters and site fingerprints", 2020 (CrystalNN); Ward et al., "A
general-purpose machine learning framework for predicting properties of inorganic materials", 2016 (Magpie).
"""

import hashlib
import json
import warnings
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nsllm_lite.artifact.json_files import cut_lines, read_json

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure
    from pymatgen.core.local_env import CrystalNN, LocalStructOrderParams

MAX_NEIGHBOURS = 24
BONDS = {1: ("sgl_bd",), 9: ("q2", "q4", "q6"), 10: ("q2", "q4", "q6"), 11: ("q2", "q4", "q6"), 12: ("q2", "q4", "q6")}
"""Order parameters of these numbers of neighbours, behind pymatgen's motifs of them."""

STRUCTURE_NUMBERS, COMPOSITION_NUMBERS = 61, 132


class Fingerprint(NamedTuple):
    """(61,) and (132,)"""

    structure: np.ndarray
    composition: np.ndarray


class Fingerprints:
    """Makes fingerprints, each once: 27 ms a site. `folder` keeps them for other runs; one by another version of
    pymatgen is made anew."""

    def __init__(self, folder: Path | None = None):
        self.path = folder / "fingerprints.jsonl" if folder else None
        self.made: dict[str, np.ndarray | None] = {}
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for line in cut_lines(self.path):
                self.made[line["crystal"]] = None if line["numbers"] is None else np.array(line["numbers"])

    def of(self, structure: "Structure") -> Fingerprint | None:
        """None where an element has no properties, or CrystalNN finds no neighbours of a site."""
        composition = of_composition(structure.composition)
        if composition is None:
            return None
        key = _key(structure)
        if key not in self.made:
            self.made[key] = of_structure(structure)
            self._keep(key)
        numbers = self.made[key]
        return None if numbers is None else Fingerprint(numbers, composition)

    def _keep(self, key: str) -> None:
        if self.path:
            numbers = self.made[key]
            line = {"crystal": key, "numbers": None if numbers is None else numbers.tolist()}
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")


def of_structure(structure: "Structure") -> np.ndarray | None:
    """(61,), the mean over the sites; None where a site has no neighbours that CrystalNN can tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oxidation states, which these crystals do not state
        try:
            return np.mean([_of_site(structure, site) for site in range(len(structure))], axis=0)
        except (ValueError, RuntimeError, IndexError, ZeroDivisionError):  # by Voronoi cells that are none
            return None


def _of_site(structure: "Structure", site: int) -> list[float]:
    crystal_nn, orders = _coordination()
    found, numbers = crystal_nn.get_nn_data(structure, site), []
    for count in range(1, MAX_NEIGHBOURS + 1):
        weight = found.cn_weights.get(count, 0)
        numbers.append(weight)
        if not weight:
            numbers += [0] * len(orders[count])
            continue
        around = [structure[site], *(neighbour["site"] for neighbour in found.cn_nninfo[count])]
        places = list(range(1, len(around)))
        for order in orders[count]:
            (value,) = order.get_order_parameters(around, 0, indices_neighs=places)
            numbers.append(weight * (value or 0))
    return numbers


@cache
def _coordination() -> tuple["CrystalNN", dict[int, list["LocalStructOrderParams"]]]:
    from pymatgen.core.local_env import CN_OPT_PARAMS, CrystalNN, LocalStructOrderParams

    orders = {}
    for count in range(1, MAX_NEIGHBOURS + 1):
        named = [(kind, *rest) for kind, *rest in CN_OPT_PARAMS.get(count, {}).values()]
        named += [(kind,) for kind in BONDS.get(count, ())]
        orders[count] = [LocalStructOrderParams([kind], parameters=[*rest, None][:1]) for kind, *rest in named]
    assert MAX_NEIGHBOURS + sum(map(len, orders.values())) == STRUCTURE_NUMBERS
    return CrystalNN(), orders


def of_composition(composition: "Composition") -> np.ndarray | None:
    """(132,), NaN where the table lacks a property of an element; None where it lacks an element."""
    amounts = composition.element_composition
    if not amounts or not all(kind.symbol in _properties() for kind in amounts):
        return None
    shares_E = np.array([amounts.get_atomic_fraction(kind) for kind in amounts])
    values_EP = np.array([_properties()[kind.symbol] for kind in amounts])
    low, high, mean = values_EP.min(0), values_EP.max(0), shares_E @ values_EP
    deviation = shares_E @ np.abs(values_EP - mean)
    mode = values_EP[np.isclose(shares_E, shares_E.max())].min(0)  # of equally frequent elements the least value
    return np.stack([low, high, high - low, mean, deviation, mode], axis=1).ravel()


@cache
def _properties() -> dict[str, np.ndarray]:
    """{symbol: (22,)}, up to element 112."""
    table = read_json(Path(__file__).with_name("element_properties.json"))["elements"]
    return {symbol: np.array(row, dtype=float) for symbol, row in table.items()}


def _key(structure: "Structure") -> str:
    """A hash of a crystal as it is written: of the same one in another cell or order it is another."""
    rows: Iterable = (structure.lattice.matrix, structure.frac_coords % 1)
    parts = [[kind.symbol for kind in structure.species], *(np.round(row, 6).tolist() for row in rows)]
    return hashlib.sha256(json.dumps([version("pymatgen-core"), *parts]).encode()).hexdigest()
