"""The space group of a crystal, by spglib at one tolerance, which every question states."""

import string
import warnings
from collections import Counter
from typing import NamedTuple

from nsllm_lite.errors import not_installed
from nsllm_lite.science.crystal import ELEMENTS, Crystal

SYMPREC = 0.1  # Å by which atoms may be off their symmetric places; crystals relaxed by DFT need about as much


class Symmetry(NamedTuple):
    """`prototype` is the same for crystals of one structure type: formula without names, group, Wyckoff letters."""

    number: int  # of the space group, from 1 to 230
    symbol: str  # its international one, such as Pm-3m
    prototype: str


def symmetry_of(crystal: Crystal) -> Symmetry | None:
    """None where spglib finds none. Raises UserError where it is not installed."""
    try:
        from spglib import get_symmetry_dataset
    except ModuleNotFoundError as error:
        raise not_installed(error, "materials") from None
    numbers = [ELEMENTS.index(element) + 1 for element in crystal.elements]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how it will tell failures
        try:
            found = get_symmetry_dataset((crystal.matrix(), crystal.coordinates, numbers), symprec=SYMPREC)
        except Exception:  # noqa: BLE001 (spglib's own error came with version 2.7)
            return None
    if found is None:
        return None
    orbits: dict[str, Counter[str]] = {}
    for element, letter in zip(crystal.elements, found.wyckoffs, strict=True):
        orbits.setdefault(element, Counter())[letter] += 1
    ranked = sorted(
        (sorted(letters.items()) for letters in orbits.values()), key=lambda row: (sum(n for _, n in row), row)
    )
    kinds = (f"{name}:{_written(row)}" for name, row in zip(string.ascii_uppercase, ranked, strict=False))
    return Symmetry(found.number, found.international, f"{found.number} {' '.join(kinds)}")


def _written(row: list[tuple[str, int]]) -> str:
    return "".join(f"{letter}{count}" for letter, count in row)
