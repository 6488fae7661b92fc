"""Which papers are held out. The same for phase 1 and phase 2.

They are drawn after the removal of duplicates, by a hash of (seed, id): adding papers to a corpus changes the draw
little, and the order of files does not change it.
"""

import numpy as np

from nsllm_lite.corpus.dedup import key64
from nsllm_lite.recipe.corpus import HeldOut

MIN_PAPERS = 5  # with fewer, none is held out


def choose_heldout(first: np.ndarray, second: np.ndarray, ids: np.ndarray, heldout: HeldOut) -> np.ndarray:
    """Indices of the held-out papers, drawn from two groups of indices, from each its own share, at least 1 of 5.

    `ids` are the 64-bit keys of all ids. The first group are the papers with an experimental section, which may take
    half of `max_papers` or what the second leaves. In one draw, where one paper in a hundred has such a section, phase
    2 might be left without held-out papers.
    """
    wanted = [_num_wanted(len(group), heldout) for group in (first, second)]
    num_first = min(wanted[0], max(heldout.max_papers // 2, heldout.max_papers - wanted[1]))
    num_second = min(wanted[1], heldout.max_papers - num_first)
    drawn = [in_hash_order(g, ids, heldout.seed)[:n] for g, n in ((first, num_first), (second, num_second))]
    return np.sort(np.concatenate(drawn))


def _num_wanted(size: int, heldout: HeldOut) -> int:
    if heldout.share == 0 or size < MIN_PAPERS:
        return 0
    return min(heldout.max_papers, max(1, round(heldout.share * size)))


def in_hash_order(group: np.ndarray, ids: np.ndarray, seed: int) -> np.ndarray:
    """The indices `group` shuffled by a hash of (seed, id)."""
    mixed = ids[group] ^ np.uint64(key64(f"order {seed}"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return group[np.argsort(mixed, kind="stable")]
