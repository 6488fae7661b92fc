"""Crystals as text: the cell's lengths and angles, then element and fractional coordinates of each site in turn.

    4.05 4.05 4.05
    90.0 90.0 90.0
    Ti
    0.500 0.500 0.500

The reader is strict, since it judges what models write: one blank between numbers, all coordinates with the same number
of decimals (a last one that is cut off would be another number), no other text. It takes either layout.
Source: Gruver et al., "Fine-tuned language models generate stable inorganic materials as text", 2024, as LLaMat has it.

Letters: S sites.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nsllm_lite.errors import not_installed

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru
Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At
Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
ELEMENTS = tuple(SYMBOLS.split())
"""By atomic number, from 1."""
KNOWN = frozenset(ELEMENTS)
MAX_SITES = 500
MAX_LENGTH = 1000  # Å
MIN_FLATNESS = 1e-6  # square of the cell's volume over that of a box with its lengths
REACH = 0.5  # Å; atoms nearer than it are no crystal
MAX_IMAGES = 5  # cells to each side in which a neighbour is looked for; one that needs more is flatter than 0.1 Å
LENGTH = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,8})?")
COORDINATE = re.compile(r"-?[0-9]{1,3}(?:\.([0-9]{1,8}))?")
LINE = re.compile(r"[0-9. -]*")


class Layout(NamedTuple):
    """Decimals of lengths (Å), angles (degrees) and fractional coordinates."""

    lengths: int
    angles: int
    coordinates: int


LAYOUTS = {"default": Layout(2, 1, 3), "llamat": Layout(1, 0, 2)}
"""`llamat` is that of the paper, but for angles: they are rounded, where its code cuts 119.99999999999999 to 119."""

Triple = tuple[float, float, float]


class CrystalError(Exception):
    """Why there is no crystal; the message is one of a few reasons, to be counted."""


@dataclass(frozen=True, slots=True)
class Crystal:
    """A cell and what stands in it; `coordinates` are fractional, one triple for each of `elements`."""

    lengths: Triple  # Å
    angles: Triple  # degrees: between b and c, a and c, a and b
    elements: tuple[str, ...]
    coordinates: tuple[Triple, ...]

    @property
    def volume(self) -> float:
        """Å³ of the cell."""
        return math.prod(self.lengths) * math.sqrt(max(flatness(self.angles), 0))

    @property
    def counts(self) -> dict[str, int]:
        """{element: its atoms in the cell}"""
        return dict(Counter(self.elements))

    def matrix(self) -> np.ndarray:
        """The cell's vectors as rows (3, 3), Å: a along x, b in the plane of x and y."""
        (a, b, c), (cos_bc, cos_ac, cos_ab) = self.lengths, (math.cos(math.radians(one)) for one in self.angles)
        sin_ab = math.sqrt(1 - cos_ab**2)
        y = (cos_bc - cos_ac * cos_ab) / sin_ab
        z = math.sqrt(max(1 - cos_ac**2 - y**2, 0))
        return np.array([[a, 0, 0], [b * cos_ab, b * sin_ab, 0], [c * cos_ac, c * y, c * z]])


class Decoded(NamedTuple):
    """A crystal or, where `reason` is not empty, why the text is none."""

    crystal: Crystal | None
    reason: str = ""


def encode(crystal: Crystal, layout: str = "default") -> str:
    """The text of a crystal, coordinates brought into [0, 1). Raises CrystalError where rounded it is none."""
    decimals = LAYOUTS[layout]
    rows = [_row(crystal.lengths, decimals.lengths), _row(crystal.angles, decimals.angles)]
    for element, place in zip(crystal.elements, crystal.coordinates, strict=True):
        rows += [element, " ".join(_wrapped(value, decimals.coordinates) for value in place)]
    text = "\n".join(rows)
    _read(text)
    return text


def decode(text: str) -> Decoded:
    """The crystal that a text is, in whatever layout; never raises."""
    try:
        return Decoded(_read(text))
    except CrystalError as error:
        return Decoded(None, str(error))


def flatness(angles: Sequence[float]) -> float:
    """Square of the volume of a cell with lengths 1; 0 and less of angles that no cell has."""
    one, two, three = (math.cos(math.radians(angle)) for angle in angles)
    return 1 - one**2 - two**2 - three**2 + 2 * one * two * three


def require_cell(lengths: Sequence[float], angles: Sequence[float]) -> None:
    """Raises CrystalError where there is no such cell."""
    if not all(0 < length < MAX_LENGTH for length in lengths):
        raise CrystalError("a length out of range")
    if not all(0 < angle < 180 for angle in angles):
        raise CrystalError("an angle out of range")
    if flatness(angles) <= MIN_FLATNESS:
        raise CrystalError("an impossible cell")


def require_sites(elements: Sequence[str]) -> None:
    """Raises CrystalError where there are none, too many, or an unknown element."""
    if not elements:
        raise CrystalError("no sites")
    if len(elements) > MAX_SITES:
        raise CrystalError(f"more than {MAX_SITES} sites")
    if not KNOWN.issuperset(elements):
        isotopes = {"D", "T"} & set(elements)
        raise CrystalError("an isotope in place of an element" if isotopes else "an unknown element")


def closest(crystal: Crystal) -> float:
    """Å, the least distance of two atoms, or of one from an image of its own; infinite beyond REACH, and 0 of a cell
    that is flatter than REACH / MAX_IMAGES.

    A neighbour within REACH differs along each axis by at most REACH over the distance of that axis' planes.
    """
    matrix = crystal.matrix()
    spacing = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=0) if np.linalg.det(matrix) > 0 else np.zeros(3)
    if (spacing < REACH / MAX_IMAGES).any():
        return 0.0
    reach_3 = np.floor(REACH / spacing + 0.5).astype(int)
    images_I3 = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach_3), indexing="ij"), -1).reshape(-1, 3)
    places_S3, least = np.array(crystal.coordinates), math.inf
    for number, place in enumerate(places_S3):
        apart_S3 = places_S3[number:] - place
        apart_S3 -= np.round(apart_S3)
        vectors_SI3 = (apart_S3[:, None] + images_I3) @ matrix
        distances_SI = np.linalg.norm(vectors_SI3, axis=-1)
        distances_SI[0, (images_I3 == 0).all(axis=1)] = math.inf  # the atom itself
        least = min(least, float(distances_SI.min()))
    return least if least <= REACH else math.inf


def reduced(counts: Mapping[str, int]) -> dict[str, int]:
    """{element: atoms} of a formula, in the order of the alphabet, without a common divisor."""
    divisor = reduce(math.gcd, counts.values(), 0)
    return {element: counts[element] // divisor for element in sorted(counts)}


def counts_of(formula: str) -> dict[str, int] | None:
    """{element: atoms} of a formula such as Ba(TiO3)2; None where it is none."""
    stack: list[Counter[str]] = [Counter()]
    for found in re.finditer(r"([A-Z][a-z]?)([0-9]{0,5})|(\()|\)([0-9]{0,5})|(.)", formula, re.DOTALL):
        element, times, opening, closing, other = found.groups()
        if other or (element and element not in KNOWN) or (closing is not None and len(stack) == 1):
            return None
        if opening:
            stack.append(Counter())
        elif element:
            stack[-1][element] += int(times or 1)
        else:
            inner = stack.pop()
            stack[-1].update({name: count * int(closing or 1) for name, count in inner.items()})
    counts = dict(stack[0])
    return counts if len(stack) == 1 and counts and all(counts.values()) else None


def formula_of(crystal: Crystal) -> str:
    """The reduced formula as pymatgen writes it: SrTiO3, but O2 of oxygen alone."""
    from pymatgen.core import Composition

    return Composition(crystal.counts).reduced_formula


def as_structure(crystal: Crystal) -> "Structure":
    """Raises UserError where pymatgen is not installed."""
    try:
        from pymatgen.core import Lattice, Structure
    except ModuleNotFoundError as error:
        raise not_installed(error, "materials") from None
    return Structure(Lattice.from_parameters(*crystal.lengths, *crystal.angles), crystal.elements, crystal.coordinates)


def of_structure(structure: "Structure") -> Crystal:
    """The crystal of pymatgen's structure, without oxidation states. Raises CrystalError where it is none.

    Lengths and angles are those of a right-handed cell. A left-handed one has its vectors turned round, and with them
    the coordinates: else the crystal would become its mirror image, P3_121 P3_221.
    """
    if len(structure) > MAX_SITES:
        raise CrystalError(f"more than {MAX_SITES} sites")
    if not structure.is_ordered:
        raise CrystalError("disordered sites")
    kinds = [getattr(site.specie, "element", site.specie) for site in structure]
    elements = tuple(getattr(kind, "name", kind.symbol) for kind in kinds)  # its symbol of deuterium is H
    require_sites(elements)
    lengths, angles = (tuple(map(float, values)) for values in (structure.lattice.abc, structure.lattice.angles))
    if not np.isfinite([*lengths, *angles, *structure.frac_coords.ravel()]).all():
        raise CrystalError("numbers that are not finite")
    require_cell(lengths, angles)
    places = structure.frac_coords if np.linalg.det(structure.lattice.matrix) > 0 else 0 - structure.frac_coords
    return Crystal(lengths, angles, elements, tuple(tuple(map(float, place)) for place in places))


def _row(values: Sequence[float], decimals: int) -> str:
    return " ".join(f"{value:.{decimals}f}" for value in values)


def _wrapped(value: float, decimals: int) -> str:
    scale = 10**decimals
    return f"{round(value * scale) % scale / scale:.{decimals}f}"


def _read(text: str) -> Crystal:
    if not (text := text.strip()):
        raise CrystalError("empty")
    lines = text.split("\n", 2 * MAX_SITES + 3)
    if (lengths := _numbers(lines[0])) is None:
        raise CrystalError("no lengths in the first line")
    if len(lines) == 1 or (angles := _numbers(lines[1])) is None:
        is_cut = len(lines) < 3 and LINE.fullmatch(lines[-1])
        raise CrystalError("cut off" if is_cut else "no angles in the second line")
    require_cell(lengths, angles)
    elements, rows = lines[2::2], lines[3::2]
    if len(elements) > MAX_SITES:
        raise CrystalError(f"more than {MAX_SITES} sites")
    places = [_place(row) for row in rows]
    is_cut = bool(places) and places[-1] is None and LINE.fullmatch(rows[-1]) is not None
    whole = places[: len(places) - is_cut]
    if elements[: len(whole)]:
        wrong = whole.index(None) if None in whole else len(whole)
        require_sites(elements[: wrong + 1] if None in whole else elements[:wrong])
    if None in whole:
        raise CrystalError("a line that is no coordinates")
    if not elements:
        raise CrystalError("no sites")
    *before, last = [decimals for _, decimals in whole] or [()]
    is_cut |= len(elements) > len(rows) or (len(set(before)) == 1 and last < before[0])
    if is_cut:
        raise CrystalError("cut off")
    if len({count for decimals in (*before, last) for count in decimals}) > 1:
        raise CrystalError("coordinates with unequal decimals")
    return Crystal(lengths, angles, tuple(elements), tuple(values for values, _ in whole))


def _numbers(line: str) -> Triple | None:
    words = line.split(" ")
    if len(words) != 3 or not all(map(LENGTH.fullmatch, words)):
        return None
    return tuple(map(float, words))


def _place(line: str) -> tuple[Triple, tuple[int, ...]] | None:
    """(coordinates, their decimals)"""
    found = [COORDINATE.fullmatch(word) for word in line.split(" ")]
    if len(found) != 3 or None in found:
        return None
    return tuple(float(one[0]) for one in found), tuple(len(one[1] or "") for one in found)
