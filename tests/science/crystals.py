"""Small crystals, made in the tests."""

from collections.abc import Sequence

from pymatgen.core import Lattice, Structure

PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def crystal(cell: Sequence[float], species: str, coords: Sequence[Sequence[float]]) -> Structure:
    """`cell` is a, or a, b, c, alpha, beta, gamma; `species` are symbols with blanks between."""
    lengths = list(cell) if len(cell) == 6 else [cell[0]] * 3 + [90] * 3
    return Structure(Lattice.from_parameters(*lengths), species.split(), coords)


def perovskite(symbols: str = "Sr Ti O", length: float = 3.9) -> Structure:
    one, other, third = symbols.split()
    return crystal([length], f"{one} {other} {third} {third} {third}", PEROVSKITE)


def pair(symbols: str = "Cs Cl", length: float = 4.1, shift: float = 0.5) -> Structure:
    return crystal([length], symbols, [[0, 0, 0], [shift] * 3])
