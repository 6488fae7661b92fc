"""Whether two crystals are the same: which generated ones are new, which repeat each other, which were wanted.

Only crystals of one reduced formula are compared, 4 to 40 ms a pair. A set that would need more than MAX_COMPARISONS is
judged in its order until they are spent: the array that comes back is then shorter than the set.
Source: Ong et al., "Python Materials Genomics (pymatgen)", 2013; the tolerances are CDVAE's.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.core.structure_matcher import StructureMatcher

TOLERANCES = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10}  # shares of length, of (volume / sites) ** (1/3); degrees
MAX_COMPARISONS = 100_000  # some ten minutes

Buckets = dict[str, list["Structure"]]


def formula_of(structure: "Structure") -> str:
    return structure.composition.element_composition.reduced_formula


def by_formula(structures: Sequence["Structure"]) -> Buckets:
    found: Buckets = defaultdict(list)
    for one in structures:
        found[formula_of(one)].append(one)
    return found


def first_of_kind(structures: Sequence["Structure | None"], limit: int = MAX_COMPARISONS) -> np.ndarray:
    """Whether each is a crystal that none before it is, booleans (N,); False of None. Their mean is the share of
    distinct crystals among all asked for."""
    known: Buckets = defaultdict(list)
    first = []
    for one in structures:
        same = known[formula_of(one)] if one is not None else []
        if len(same) > limit:
            break
        compared, is_known = _find(one, same) if one is not None else (0, True)
        limit -= compared
        if one is not None and not is_known:
            same.append(one)
        first.append(not is_known)
    return np.array(first, bool)


def is_novel(structures: Sequence["Structure | None"], training: Buckets, limit: int = MAX_COMPARISONS) -> np.ndarray:
    """Whether each is a crystal, and none of the training set, booleans (N,); False of None."""
    novel = []
    for one in structures:
        same = training.get(formula_of(one), []) if one is not None else []
        if len(same) > limit:
            break
        compared, is_known = _find(one, same) if one is not None else (0, True)
        limit -= compared
        novel.append(not is_known)
    return np.array(novel, bool)


def distances(structures: Sequence["Structure | None"], wanted: Sequence[str], reference: Buckets) -> np.ndarray:
    """Root mean square displacement (N,) to the nearest reference crystal of the wanted reduced formula, in units of
    (volume / sites) ** (1/3); NaN where none matches."""
    found = []
    for one, formula in zip(structures, wanted, strict=True):
        compared = reference.get(formula, []) if one is not None and formula_of(one) == formula else []
        matched = [pair[0] for other in compared if (pair := _matcher().get_rms_dist(one, other)) is not None]
        found.append(min(matched, default=np.nan))
    return np.array(found, float)


def _find(one: "Structure", others: Sequence["Structure"]) -> tuple[int, bool]:
    """(number compared, whether one of them is the same crystal)"""
    for number, other in enumerate(others, 1):
        if _matcher().fit(one, other):
            return number, True
    return len(others), False


@cache
def _matcher() -> "StructureMatcher":
    from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

    return StructureMatcher(**TOLERANCES, comparator=ElementComparator())
