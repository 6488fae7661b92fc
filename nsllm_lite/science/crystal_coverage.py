"""How much of a reference set generated crystals cover, and how many of them are near it.

A crystal is like another where both fingerprints are within their cutoffs. By CDVAE's rule the nearest structure and
the nearest composition may be those of two different reference crystals; by the strict rule one reference crystal must
be near in both. Recall is the share of the reference that some sample is like, precision the share of all samples asked
for that are like some reference crystal: one that cannot be read, or whose atoms overlap, is like none.
Recall grows with the number of samples: compare it at one number only. Letters: N samples, M reference crystals,
C = 132 numbers of a composition.
Source: Xie et al., "Crystal diffusion variational autoencoder for periodic material generation", 2022 (the rule, and
the cutoffs of its three data sets).
"""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.science.crystal_fingerprints import COMPOSITION_NUMBERS, Fingerprint

CHUNK = 512  # samples at a time: distances to 10,000 reference crystals are 80 MB


class Cutoffs(NamedTuple):
    structure: float
    composition: float


CUTOFFS = {"perov_5": Cutoffs(0.2, 4), "carbon_24": Cutoffs(0.2, 4), "mp_20": Cutoffs(0.4, 10)}
"""CDVAE's, by data set; they belong to its own scale of compositions."""


class Scale(NamedTuple):
    """By which composition fingerprints are standardised: (C,) each. An unknown number, NaN, stands at the mean."""

    name: str
    means: np.ndarray
    deviations: np.ndarray

    def apply(self, rows_NC: np.ndarray) -> np.ndarray:
        return np.nan_to_num((rows_NC - self.means) / self.deviations)


class Coverage(NamedTuple):
    """Whether each sample (N,) and each reference crystal (M,) is covered, by both rules; distances to the nearest of
    the others, infinite where there is none."""

    precision: np.ndarray
    precision_strict: np.ndarray
    recall: np.ndarray
    recall_strict: np.ndarray
    structure_distance: np.ndarray
    composition_distance: np.ndarray


def scale_of(reference: Sequence[Fingerprint]) -> Scale:
    """That of the reference set itself. A number that never varies there keeps its unit, so that a sample that differs
    in it is far away. Not CDVAE's scale: its figures do not compare with published ones."""
    rows_MC = np.stack([one.composition for one in reference])
    known = ~np.isnan(rows_MC)
    count = np.maximum(1, known.sum(0))
    means = np.where(known, rows_MC, 0).sum(0) / count
    deviations = np.sqrt(np.where(known, (rows_MC - means) ** 2, 0).sum(0) / count)
    return Scale("reference set", means, np.where(deviations > 1e-9, deviations, 1))


def read_scale(path: Path) -> Scale:
    """CDVAE's own scale, from the file of its repository that states it (cdvae/common/constants.py), which is read and
    not run: lists of 132 numbers named CompScalerMeans and CompScalerStds.

    Raises UserError where they are not there.
    """
    names, found = ("CompScalerMeans", "CompScalerStds"), {}
    try:
        lists = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
        for node in lists:
            if (name := getattr(node.targets[0], "id", "")) in names:
                found[name] = np.array(ast.literal_eval(node.value), dtype=float)
    except (OSError, ValueError, SyntaxError, TypeError, RecursionError):
        found = {}
    rows = [found.get(name, np.empty(0)) for name in names]
    sound = [row.shape == (COMPOSITION_NUMBERS,) and np.isfinite(row).all() for row in rows]
    if not all(sound) or not (rows[1] > 0).all():
        needed = f"It must state {COMPOSITION_NUMBERS} numbers each as CompScalerMeans and CompScalerStds."
        todo = "Name cdvae/common/constants.py of CDVAE's repository, or leave it out."
        raise UserError("crystal-scale-unread", f"{path} holds no scale of compositions.", needed, todo)
    return Scale("CDVAE", *rows)


def coverage(
    samples: Sequence[Fingerprint | None], reference: Sequence[Fingerprint], cutoffs: Cutoffs, scale: Scale
) -> Coverage:
    """Of every sample asked for; None where one has no fingerprint. Raises UserError where the reference is empty."""
    from scipy.spatial.distance import cdist

    if not reference:
        todo = "Name reference crystals that can be read."
        raise UserError("crystal-reference-empty", "No reference crystal has a fingerprint.", todo)
    there = np.array([place for place, one in enumerate(samples) if one is not None], dtype=int)
    structures_M = np.stack([one.structure for one in reference])
    compositions_MC = scale.apply(np.stack([one.composition for one in reference]))
    nearest_N = np.full((2, len(samples)), np.inf)
    nearest_M = np.full((2, len(reference)), np.inf)
    strict_N, strict_M = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
    for start in range(0, len(there), CHUNK):
        places = there[start : start + CHUNK]
        one_NM = cdist(np.stack([samples[place].structure for place in places]), structures_M)
        rows_NC = scale.apply(np.stack([samples[place].composition for place in places]))
        other_NM = cdist(rows_NC, compositions_MC)
        both_NM = (one_NM <= cutoffs.structure) & (other_NM <= cutoffs.composition)
        strict_N[places], strict_M = both_NM.any(1), strict_M | both_NM.any(0)
        for row, distances_NM in enumerate((one_NM, other_NM)):
            nearest_N[row, places] = distances_NM.min(1)
            nearest_M[row] = np.minimum(nearest_M[row], distances_NM.min(0))
    limits = np.array(cutoffs)[:, None]
    return Coverage((nearest_N <= limits).all(0), strict_N, (nearest_M <= limits).all(0), strict_M, *nearest_N)
