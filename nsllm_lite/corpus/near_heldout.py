"""The third stage: drops training documents whose 5-gram Jaccard with a held-out one is >= NEAR, and writes the rest.

The text of a held-out paper must not be learnt from another paper. Title and abstract, and the experimental sections,
are compared, exactly and for every pair.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import whole_file
from nsllm_lite.corpus import assign, dedup
from nsllm_lite.corpus.ingest import head_of
from nsllm_lite.corpus.parts import Part
from nsllm_lite.corpus.texts import render
from nsllm_lite.formats.documents import parquet_writer
from nsllm_lite.recipe.corpus import Corpus

NEAR = 0.5
KINDS = ("body", "whole", "general")  # of known texts: experimental sections, title + abstract, general passages


def save_known(path: Path, parts: list[Part], outcome: np.ndarray, min_chars: int) -> None:
    """Writes the shingles of the held-out documents and their numbers, as `Known` reads them."""
    sets: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    owners: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for part in parts:
        held = outcome[part.span] == assign.HELDOUT
        kind = "general" if part.general else "whole"
        for place in np.flatnonzero(held).tolist():
            sets[kind].append(part.shingles(place))
            owners[kind].append(part.first + place)
        for place, document in part.documents(held & part.fits("phase2")):
            sets["body"].append(dedup.shingles_of(render.phase2_text(document, min_chars)[0]))
            owners["body"].append(part.first + place)
    arrays = {}
    for kind in KINDS:
        arrays[f"{kind}_sizes"] = np.array([len(s) for s in sets[kind]], np.int64)
        arrays[f"{kind}_shingles"] = np.concatenate([np.empty(0, np.uint64), *sets[kind]])
        arrays[f"{kind}_owners"] = np.array(owners[kind], np.int64)
    np.savez(path, **arrays)


class Known:
    """The held-out documents, searchable by their text."""

    def __init__(self, path: Path):
        self._kinds: dict[str, tuple[dedup.NearIndex, list[int]]] = {}
        with np.load(path) as arrays:
            for kind in KINDS:
                sizes, shingles = arrays[f"{kind}_sizes"], arrays[f"{kind}_shingles"]
                sets = np.split(shingles, np.cumsum(sizes)[:-1]) if len(sizes) else []
                self._kinds[kind] = dedup.NearIndex(sets, NEAR), arrays[f"{kind}_owners"].tolist()

    def has(self, kind: str) -> bool:
        return bool(self._kinds[kind][1])

    def find(self, kind: str, shingles: np.ndarray) -> int:
        """The number of the held-out candidate that these are near to, or -1."""
        index, owners = self._kinds[kind]
        place = index.find(shingles)
        return owners[place] if place >= 0 else -1


_known = lru_cache(maxsize=1)(Known)


def settle(recipe: Corpus, work: Path, documents: Path, part: Part) -> dict:
    """Writes the part's survivors to DOCUMENTS/part.parquet, the held-out ones also to WORK/heldout, and a line for
    each that was too near to WORK/near; WORK/final/part.npy is the final CHOICE by candidate."""
    known = _known(work / "known.npz")
    final = np.array(np.load(work / "choice.npy", mmap_mode="r")[part.span])
    near = _near(recipe, part, final["outcome"] == assign.KEPT, known)
    final["outcome"][near >= 0], final["reason"][near >= 0] = assign.DROPPED, assign.NEAR_HELDOUT
    final["other"] = np.where(near >= 0, near, final["other"])
    held = final["outcome"] == assign.HELDOUT
    survives = held | (final["outcome"] == assign.KEPT)
    made = [documents / f"{part.name}.parquet", work / "heldout" / f"{part.name}.parquet"]
    made += [work / "near" / f"{part.name}.jsonl", final_choice(work, part)]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
    _write(made[0], part, survives)
    _write(made[1], part, held)
    _write_dropped(made[2], part, near)
    np.save(made[3], final)
    return {
        "lost": int(part.keys["lost"][survives].sum()),
        "survivors": int(survives.sum()),
        "files": integrity.describe_all(work, made),
    }


def final_choice(work: Path, part: Part) -> Path:
    """Where `settle` leaves the CHOICE of a part's candidates."""
    return work / "final" / f"{part.name}.npy"


def _near(recipe: Corpus, part: Part, kept: np.ndarray, known: Known) -> np.ndarray:
    near = np.full(part.num_candidates, -1, np.int32)
    bodies = kept & part.fits("phase2")
    if known.has("body"):
        for place, document in part.documents(bodies):
            text, _ = render.phase2_text(document, recipe.min_chars)
            near[place] = known.find("body", dedup.shingles_of(text))
    kind = "general" if part.general else "whole"
    if known.has(kind):
        for place, shingles in enumerate(part.all_shingles()):
            if kept[place] and near[place] < 0:
                near[place] = known.find(kind, shingles)
    return near


def _write(path: Path, part: Part, wanted: np.ndarray) -> None:
    with whole_file(path) as made, parquet_writer(made) as writer:
        for batch, _ in part.batches(wanted):
            writer.write_batch(batch)


def _write_dropped(path: Path, part: Part, near: np.ndarray) -> None:
    reason = assign.REASONS[assign.NEAR_HELDOUT]
    with open(path, "w", encoding="utf-8") as file:
        for place, document in part.documents(near >= 0):
            line = {"id": document.id, "source": document.source, "origin": document.origin, "reason": reason}
            line["other"] = int(near[place])
            file.write(json.dumps({**line, "text": " ".join(head_of(document).split())}, ensure_ascii=False) + "\n")
