"""Whether a crystal is possible at all: no two atoms too near each other, and a composition that can be neutral.

Both are weak: a cell of a known crystal with other elements in it passes the first, and four times in five the second.
The rules are those of CDVAE, so that figures compare; what they let pass has a figure of its own beside them.
Source: Xie et al., "Crystal diffusion variational autoencoder for periodic material generation", 2022; Davies et al.,
"SMACT: semiconducting materials by analogy and chemical theory", 2019.
"""

import warnings
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nsllm_lite.errors import not_installed

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure

REACH = 1.0  # Å; distances beyond it are not looked for
MIN_VOLUME = 0.1  # Å³ of a cell, as in CDVAE
MAX_SITES = 500  # of a crystal that is judged: the metrics cost seconds beyond it
MAX_ELEMENTS = 8  # of a composition: smact tries every combination of oxidation states, 10⁶ of 8 elements
SMACT_SETS = ("smact14", "icsd24")
"""Sets of oxidation states by their names in smact 4.0: the published figures of CDVAE and its kin used the first."""


class Closest(NamedTuple):
    """Å, infinite beyond REACH: the least distance of two atoms, and of an atom from an image of its own."""

    pair: float
    own_image: float


def require_materials() -> None:
    """Raises UserError where pymatgen or smact is not installed: once, before anything is measured."""
    try:
        import pymatgen.core  # noqa: F401
        import smact.screening  # noqa: F401
    except ModuleNotFoundError as error:
        raise not_installed(error, "materials") from None


def fault(structure: "Structure") -> str:
    """Why a crystal cannot be judged; "" of one that can be."""
    from pymatgen.core import Element

    if not len(structure):
        return "no sites"
    if len(structure) > MAX_SITES:
        return f"more than {MAX_SITES} sites"
    if not structure.is_ordered:
        return "disordered sites"
    if not all(isinstance(kind, Element) for kind in structure.composition.element_composition):
        return "an unknown element"
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        return "coordinates that are no numbers"
    return ""


def closest(structure: "Structure") -> Closest:
    """Of a crystal without `fault`; 0 of one whose cell is below MIN_VOLUME. CDVAE looks at pairs only: an atom 0.3 Å
    from its own image passes there."""
    if not structure.volume >= MIN_VOLUME:
        return Closest(0, 0)
    one, other, _, distances = structure.get_neighbor_list(REACH)
    of_pairs, of_images = distances[one != other], distances[one == other]
    return Closest(float(min(of_pairs, default=np.inf)), float(min(of_images, default=np.inf)))


def is_neutral(composition: "Composition", oxidation_states: str) -> bool | None:
    """Whether charges of a named set can balance, with the more electronegative elements negative; None where smact
    cannot tell: it lacks an element, or there are more than MAX_ELEMENTS. One element and metals alone pass always."""
    reduced = composition.element_composition.reduced_composition
    return _is_neutral(tuple(sorted((kind.symbol, int(count)) for kind, count in reduced.items())), oxidation_states)


@lru_cache(maxsize=100_000)
def _is_neutral(counts: tuple[tuple[str, int], ...], oxidation_states: str) -> bool | None:
    from pymatgen.core import Composition

    if len(counts) > MAX_ELEMENTS or not all(symbol in _known() for symbol, _ in counts):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases have no electronegativity
        from smact.screening import smact_validity

        try:
            return bool(smact_validity(Composition(dict(counts)), oxidation_states_set=oxidation_states))
        except (KeyError, NameError, TypeError):  # elements without states: helium and neon gave a TypeError
            return None


@cache
def _known() -> frozenset[str]:
    """Symbols of the elements that smact has data of; not its dummy Xx, which it calls valid."""
    from pymatgen.core import Element
    from smact.data_loader import lookup_element_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frozenset(kind.symbol for kind in Element if lookup_element_data(kind.symbol, copy=False))
