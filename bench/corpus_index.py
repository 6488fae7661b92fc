"""The search for duplicates and the choice of held-out papers at 17 million documents: memory a document, and time.

    python bench/corpus_index.py [--num 17000000]

It writes parts as the first stage leaves them (keys and band keys drawn at random, one document in twenty a near-copy
of an earlier one, 8 shingles each), without texts, and runs `choose` on them. Needs 280 bytes of disk a document.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.corpus import assign, dedup
from nsllm_lite.corpus.parts import KEYS, PART_DOCUMENTS, open_parts
from nsllm_lite.recipe import load as recipes

SHINGLES = 8


def write_part(folder: Path, number: int, rng: np.random.Generator, num_bands: int) -> None:
    """Every twentieth document agrees with the one ten before it in a third of the bands, and has its shingles."""
    folder.mkdir(parents=True)
    keys = np.zeros(PART_DOCUMENTS, KEYS)
    keys["id"] = rng.integers(1, 2**63, PART_DOCUMENTS)
    keys["text"] = rng.integers(1, 2**63, PART_DOCUMENTS)
    keys["chars"] = 1200
    keys["why"] = np.arange(PART_DOCUMENTS) % 50 == 0  # one in fifty has an experimental section
    bands = rng.integers(0, 2**63, (num_bands, PART_DOCUMENTS)).astype(np.uint64)
    shingles = np.sort(rng.integers(0, 2**63, (PART_DOCUMENTS, SHINGLES)).astype(np.uint64), axis=1)
    copies = np.arange(10, PART_DOCUMENTS, 20)
    shingles[copies] = shingles[copies - 10]
    bands[::3, copies] = bands[::3, copies - 10]
    np.save(folder / "keys.npy", keys)
    bands.tofile(folder / "bands.u64")
    shingles.tofile(folder / "shingles.u64")
    np.save(folder / "starts.npy", np.arange(PART_DOCUMENTS + 1) * SHINGLES)
    why = [{"phase1": "", "phase2": "no_experimental_section"}, {"phase1": "", "phase2": ""}]
    info = {"source": "synthetic", "general": False, "why": why, "disciplines": [""]}
    write_json(folder / "part.json", {**info, "records": PART_DOCUMENTS, "candidates": PART_DOCUMENTS})


def peak_mib() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=17_000_000)
    num = parser.parse_args().num
    recipe = recipes.load(Path(__file__).parents[1] / "recipes/nano/corpus.yaml", ["out=unused"])
    num_bands = dedup.NUM_HASHES // dedup.rows_per_band(recipe.near_duplicate_jaccard)
    with tempfile.TemporaryDirectory() as name:
        rng = np.random.default_rng(0)
        for number in range(num // PART_DOCUMENTS):
            write_part(Path(name) / f"{number:05d}-000", number, rng, num_bands)
        before = peak_mib()
        started = time.perf_counter()
        parts = open_parts(Path(name))
        choice = assign.choose(recipe, parts)
        seconds = time.perf_counter() - started
        total = sum(part.num_candidates for part in parts)
        found = int((choice["outcome"] == assign.DUPLICATE).sum())
        held = int((choice["outcome"] == assign.HELDOUT).sum())
    print(
        f"{total:,} documents in {len(parts)} parts: {found:,} duplicates of {total // 20:,} planted, {held} held out"
    )
    print(f"{seconds:,.0f} s, {total / seconds:,.0f} docs/s; peak {peak_mib():,.0f} MiB, {before:,.0f} MiB before")
    print(f"{(peak_mib() - before) * 2**20 / total:.0f} bytes of memory a document")


if __name__ == "__main__":
    main()
