"""Which papers are held out, and which training papers are too near to them to stay.

Held-out papers are the same for phase 1 and phase 2. They are drawn after duplicates are gone, by a hash of (seed, id):
adding papers to a corpus changes the draw little, and the order of files does not change it at all.
"""

from collections.abc import Iterable

import numpy as np

from nsllm_lite import recipe
from nsllm_lite.corpus.dedup import Shingles, key64

NEAR = 0.5  # Jaccard index of word 5-grams from which a training paper tells what a held-out one says
MIN_PAPERS = 5  # with fewer, none is held out


def choose_heldout(first: dict[int, str], second: dict[int, str], heldout: recipe.HeldOut) -> set[int]:
    """Indices of the held-out papers, drawn from two groups {index: id}, from each its own share, at least 1 of 5.

    The first group are the papers with an experimental section, which may take half of `max_papers` or what the second
    leaves. In one draw, where one paper in a hundred has such a section, phase 2 might be left without held-out papers.
    """
    wanted = [_num_wanted(group, heldout) for group in (first, second)]
    num_first = min(wanted[0], max(heldout.max_papers // 2, heldout.max_papers - wanted[1]))
    num_second = min(wanted[1], heldout.max_papers - num_first)
    return {*_draw(first, heldout.seed)[:num_first], *_draw(second, heldout.seed)[:num_second]}


def _num_wanted(group: dict[int, str], heldout: recipe.HeldOut) -> int:
    if heldout.share == 0 or len(group) < MIN_PAPERS:
        return 0
    return min(heldout.max_papers, max(1, round(heldout.share * len(group))))


def _draw(group: dict[int, str], seed: int) -> list[int]:
    return sorted(group, key=lambda index: (key64(f"{seed}\0{group[index]}"), group[index]))


def near_heldout(shingles: Shingles, heldout: Iterable[int], others: Iterable[int]) -> dict[int, int]:
    """{training document: the held-out one it repeats}, exact: every pair with a shared shingle is counted."""
    owners = sorted(heldout)
    sets = [shingles[i] for i in owners]
    if not sum(map(len, sets)):
        return {}
    sizes = np.array([len(s) for s in sets])
    every = np.concatenate(sets)
    owner = np.repeat(np.arange(len(owners)), sizes)
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    near: dict[int, int] = {}
    for index in others:
        own = shingles[index]
        first, last = np.searchsorted(every, own, "left"), np.searchsorted(every, own, "right")
        hit = last > first
        if hit.sum() < NEAR * len(own) / (1 + NEAR) and hit.sum() < NEAR * sizes.min():
            continue
        shared = np.zeros(len(owners), np.int64)
        for start, end in zip(first[hit].tolist(), last[hit].tolist(), strict=True):
            shared[owner[start:end]] += 1
        index_of = shared / np.maximum(1, sizes + len(own) - shared)
        if index_of.max() >= NEAR:
            near[index] = owners[int(index_of.argmax())]
    return near
