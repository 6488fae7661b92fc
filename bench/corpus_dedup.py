"""Near-duplicates: documents/s on 2 cores in total, and recall at a Jaccard index of exactly 0.8.

    python bench/corpus_dedup.py [--num 100000]

Documents are of 184 distinct-looking words (180 word 5-grams, as a real abstract has). One in ten is planted: a copy of
another in which 20 of its 180 5-grams differ, so that the Jaccard index is 160 / 200 = 0.8 exactly; half of them by one
block of 16 other words, half by four single words. Others are planted just below, at 158 / 202, and must stay.
`total` is shingles and band keys in two processes and then the search in one, until the list of duplicates is there.
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from nsllm_lite.corpus import dedup

WORDS = 184
BATCH = 128  # as ingest.BATCH
THRESHOLD = 0.8


def texts(num: int) -> tuple[list[str], dict[int, int], set[int]]:
    """(texts, {planted duplicate: its original}, those planted just below the threshold)."""
    rng = np.random.default_rng(0)
    made = [list(map(str, rng.integers(0, 500_000, WORDS))) for _ in range(num * 8 // 10)]
    planted: dict[int, int] = {}
    below: set[int] = set()
    for number in range(num - len(made)):
        original = int(rng.integers(num * 8 // 10))
        copy = list(made[original])
        if number % 2 == 0:  # 0.8 exactly
            planted[len(made)] = original
            block = number % 4 == 0
            places = range(60, 76) if block else (20, 60, 100, 140)
        else:  # 158 / 202: 22 5-grams differ
            below.add(len(made))
            places = [*range(60, 75), 90, 91, 92][:18] if number % 4 == 1 else range(60, 78)
        for place in places:
            copy[place] = f"n{number}x{place}"
        made.append(copy)
    return [" ".join(words) for words in made], planted, below


def keys_of(batch: list[str]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """As `ingest` makes them: the shingles of a batch at a time, the band keys of a thousand documents."""
    try:
        from nsllm_lite.corpus.shingles import shingles_of_each

        starts = range(0, len(batch), BATCH)
        sets, same = zip(*(one for n in starts for one in shingles_of_each(batch[n : n + BATCH])), strict=True)
    except ImportError:  # an older checkout, where corpus_speed.py compares them
        words = list(map(dedup.words_of, batch))
        sets = list(map(dedup.shingles_of_words, words))
        same = [dedup.key64(" ".join(own)) for own in words]
    bands = [dedup.band_keys(sets[start : start + 1000], THRESHOLD) for start in range(0, len(sets), 1000)]
    return list(sets), np.array(same, np.uint64), np.concatenate(bands, axis=1)


def sent(batch: list[str]) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    """The same with the shingles end to end and the size of each set, as they are on disk."""
    sets, same, bands = keys_of(batch)
    return np.concatenate(sets), [len(own) for own in sets], same, bands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100_000)
    num = parser.parse_args().num
    documents, planted, below = texts(num)
    half = num // 2
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(len, ([], [])))  # the processes are there
        started = time.perf_counter()
        found = list(pool.map(sent, (documents[:half], documents[half:])))
        keyed = time.perf_counter()
        sets = [own for flat, sizes, _, _ in found for own in np.split(flat, np.cumsum(sizes)[:-1])]
        all_bands = np.concatenate([bands for *_, bands in found], axis=1)
        keys = {dedup.SAME_TEXT: np.concatenate([same for _, _, same, _ in found])}
        found = dedup.find_duplicates(keys, all_bands, sets.__getitem__, np.arange(num), THRESHOLD)
        ended = time.perf_counter()
    hits = sum(int(found.other[copy] >= 0) for copy in planted)
    wrong = sum(dedup.jaccard(sets[i], sets[found.other[i]]) < THRESHOLD for i in np.flatnonzero(found.other >= 0))
    stray = sum(int(found.other[i] >= 0) for i in below)
    print(f"{num:,} documents, {len(planted):,} planted at Jaccard 0.8, {len(below):,} just below")
    print(f"keys (2 processes, results sent back) {num / (keyed - started):,.0f} docs/s")
    print(f"search (1 process)                    {num / (ended - keyed):,.0f} docs/s")
    print(f"total                                 {num / (ended - started):,.0f} docs/s")
    print(
        f"recall {hits / len(planted):.4f}; found below the threshold: {wrong} in all, {stray} of those planted there"
    )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak of this process {peak_mib:,.0f} MiB (shingles in memory)")


if __name__ == "__main__":
    main()
