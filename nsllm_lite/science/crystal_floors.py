"""Crystals made without a model, whose scores are the floors of generated ones; all from a seed.

Random elements in the cell of a training crystal are structurally valid almost always, and neutral four times in five.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

T = TypeVar("T")


def draw(structures: Sequence[T], count: int, seed: int) -> list[T]:
    """`count` of them, none twice; all, in a drawn order, where there are not more."""
    order = np.random.default_rng(seed).permutation(len(structures))
    return [structures[place] for place in order[:count]]


def random_elements(training: Sequence["Structure"], count: int, seed: int) -> list["Structure"]:
    """Training crystals, drawn in turn, in which each element is replaced by another drawn from all of the training
    set; two elements of a crystal stay two."""
    rng = np.random.default_rng(seed)
    elements = sorted({kind.symbol for one in training for kind in one.composition.element_composition})
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(training)).tolist()
    made = []
    for place in order[:count]:
        old = [kind.symbol for kind in training[place].composition.element_composition]
        new = rng.choice(elements, len(old), replace=False)
        made.append(replaced(training[place], dict(zip(old, new.tolist(), strict=True))))
    return made


def wanted_in_training_cells(
    wanted: Sequence[str], training: Sequence["Structure"], seed: int
) -> list["Structure | None"]:
    """For each formula a drawn training crystal of the same stoichiometry with the wanted elements in it, those of
    equal share in a drawn order; None where the training set has no such crystal."""
    from pymatgen.core import Composition

    rng, templates = np.random.default_rng(seed), defaultdict(list)
    for one in training:
        templates[one.composition.element_composition.reduced_composition.anonymized_formula].append(one)
    made: list[Structure | None] = []
    for formula in wanted:
        asked = Composition(formula).reduced_composition
        there = templates.get(asked.anonymized_formula)
        if not there:
            made.append(None)
            continue
        cell = there[rng.integers(len(there))]
        held = cell.composition.element_composition.reduced_composition
        old, new = (_by_share(one, rng) for one in (held, asked))
        made.append(replaced(cell, dict(zip(old, new, strict=True))))
    return made


def shuffled(wanted: Sequence[T], seed: int) -> list[T]:
    """What another sample was asked for, each once: prompts that say nothing about the answers."""
    order = np.random.default_rng(seed).permutation(len(wanted))
    given = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [wanted[given[place]] for place in range(len(wanted))]


def replaced(structure: "Structure", new: dict[str, str]) -> "Structure":
    """The same cell and places with other elements."""
    from pymatgen.core import Structure

    species = [new[getattr(kind, "element", kind).symbol] for kind in structure.species]
    return Structure(structure.lattice, species, structure.frac_coords)


def _by_share(composition: object, rng: np.random.Generator) -> list[str]:
    """Symbols of the elements, of falling amount; equal ones in a drawn order."""
    pairs = [(-amount, rng.random(), kind.symbol) for kind, amount in composition.items()]
    return [symbol for *_, symbol in sorted(pairs)]
