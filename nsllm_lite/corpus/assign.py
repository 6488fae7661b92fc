"""The second stage, over all parts at once: which candidates are duplicates, held out, or too many of their kind.

It reads keys only, never texts, and needs under 200 bytes of memory a document: 17 million papers take 3.2 GB.
Papers are held out, the same for phase 1 and phase 2, by a hash of (seed, id) after the removal of duplicates: adding
papers to a corpus changes the draw little, and the order of files does not change it.
"""

import numpy as np

from nsllm_lite.corpus import dedup
from nsllm_lite.corpus.parts import Part
from nsllm_lite.errors import UserError
from nsllm_lite.recipe.corpus import Balance, Corpus, HeldOut

KEPT, HELDOUT, DUPLICATE, DROPPED, UNUSED = range(5)
OUTCOMES = ("kept", "heldout", "duplicate", "dropped", "unused")
SPLITS = {"train": KEPT, "heldout": HELDOUT}
REASONS = (*dedup.REASONS, "balance_source", "balance_discipline", "near_heldout")
BALANCE_SOURCE, BALANCE_DISCIPLINE, NEAR_HELDOUT = range(len(dedup.REASONS), len(REASONS))
# Of a candidate: places in OUTCOMES and REASONS, and the number of the candidate it repeats or is too near to, or -1.
CHOICE = np.dtype([("outcome", "u1"), ("reason", "u1"), ("other", "i4")])
MIN_PAPERS = 5  # with fewer, none is held out


def choose(recipe: Corpus, parts: list[Part]) -> np.ndarray:
    """A CHOICE for each candidate of all parts. Raises UserError where the caps of `balance` cannot be met."""
    ids = _gather(parts, "id")
    experimental = np.concatenate([np.empty(0, bool), *(part.fits("phase2") for part in parts)])
    general = np.concatenate([np.empty(0, bool), *(np.full(p.num_candidates, p.general) for p in parts)])

    found = _find_duplicates(recipe, parts, ids, experimental)
    choice = np.empty(len(ids), CHOICE)
    outcome = choice["outcome"]
    choice["other"], choice["reason"] = found.other, found.reason
    outcome[:] = np.where(found.other >= 0, DUPLICATE, KEPT)

    left = found.other < 0
    groups = [np.flatnonzero(left & which) for which in (experimental, ~experimental & ~general, general)]
    papers = choose_heldout(groups[0], groups[1], ids, recipe.heldout)
    for_general = recipe.heldout.model_copy(update={"share": recipe.heldout.general_share})
    passages = choose_heldout(groups[2][:0], groups[2], ids, for_general)
    outcome[papers] = outcome[passages] = HELDOUT

    if recipe.balance:
        _balance(recipe.balance, parts, ids, general, choice)
    return choice


def _gather(parts: list[Part], field: str) -> np.ndarray:
    return np.concatenate([np.empty(0, np.uint64), *(part.keys[field] for part in parts)])


def _find_duplicates(recipe: Corpus, parts: list[Part], ids: np.ndarray, experimental: np.ndarray) -> dedup.Duplicates:
    """Of each group the first with an experimental section is kept, or else the first; of these rather one that was
    not read from print."""
    rank = np.empty(len(ids), np.int64)
    rank[np.lexsort((_gather(parts, "printed"), ~experimental))] = np.arange(len(ids))
    keys = {dedup.SAME_ID: ids, dedup.SAME_DOI: _gather(parts, "doi"), dedup.SAME_TEXT: _gather(parts, "text")}
    num_bands = dedup.NUM_HASHES // dedup.rows_per_band(recipe.near_duplicate_jaccard)
    bands = (np.concatenate([np.empty(0, np.uint64), *(p.band(b) for p in parts)]) for b in range(num_bands))
    firsts = np.array([part.first for part in parts])

    def shingles(index: int) -> np.ndarray:
        part = parts[int(np.searchsorted(firsts, index, side="right")) - 1]
        return part.shingles(index - part.first)

    return dedup.find_duplicates(keys, bands, shingles, rank, recipe.near_duplicate_jaccard)


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
    mixed = ids[group] ^ np.uint64(dedup.key64(f"order {seed}"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return group[np.argsort(mixed, kind="stable")]


def _balance(balance: Balance, parts: list[Part], ids: np.ndarray, general: np.ndarray, choice: np.ndarray) -> None:
    """Sets surplus papers to UNUSED. Papers without a discipline count towards the total but are not capped."""
    chars = _gather(parts, "chars").astype(np.int64)
    sources = sorted({part.source for part in parts})
    disciplines = sorted({name for part in parts for name in part.disciplines} - {""})
    for what, names, code, share in (
        ("source", sources, BALANCE_SOURCE, balance.max_source_share),
        ("discipline", disciplines, BALANCE_DISCIPLINE, balance.max_discipline_share),
    ):
        if share is None:
            continue
        group = np.concatenate([np.empty(0, np.int64), *(_groups(part, names, code) for part in parts)])
        papers = np.flatnonzero((choice["outcome"] == KEPT) & ~general)
        sizes = np.bincount(group[papers] + 1, chars[papers], len(names) + 1)
        limit = cap(sizes[1:], float(sizes[0]), share)
        if limit is None:
            present = [name for name, size in zip(names, sizes[1:], strict=True) if size]
            key, kinds, listed = f"max_{what}_share", f"{what}s", ", ".join(present) or "none is stated"
            count, least = len(present), 1 / max(1, len(present))
            found = f"balance.{key}={share} cannot be met: of {count} {kinds} ({listed}) one has at least {least:.2f}."
            raise UserError("balance-not-met", found, "Raise it, or leave it out (balance: none).")
        for place in np.flatnonzero(sizes[1:] > limit).tolist():
            members = in_hash_order(papers[group[papers] == place], ids, balance.seed)
            surplus = members[np.cumsum(chars[members]) > limit]
            choice["outcome"][surplus], choice["reason"][surplus] = UNUSED, code


def _groups(part: Part, names: list[str], code: int) -> np.ndarray:
    """By candidate: the place of its source or discipline in `names`, -1 where none is stated."""
    if code == BALANCE_SOURCE:
        return np.full(part.num_candidates, names.index(part.source))
    places = np.array([names.index(name) if name else -1 for name in part.disciplines], np.int64)
    return places[part.keys["discipline"]] if part.num_candidates else np.empty(0, np.int64)


def cap(sizes: np.ndarray, uncapped: float, share: float) -> float | None:
    """The size L to which groups must be cut so that each is at most `share` of the remaining total.

    `uncapped` counts towards the total besides the groups. None where no L > 0 satisfies this.
    """
    ordered = np.sort(sizes[sizes > 0])[::-1]
    if not len(ordered) or ordered[0] <= share * (ordered.sum() + uncapped):
        return float("inf")
    for num_cut in range(1, len(ordered) + 1):  # L = share * (num_cut * L + the rest)
        rest = ordered[num_cut:].sum() + uncapped
        if num_cut * share < 1 and rest > 0:
            limit = share * rest / (1 - num_cut * share)
            if num_cut == len(ordered) or limit >= ordered[num_cut]:
                return float(limit)
        elif num_cut * share >= 1:
            return float(ordered[num_cut - 1])
    return None
