"""The third stage: drops training documents whose 5-gram Jaccard with a held-out one is >= NEAR, and writes the rest.

The text of a held-out paper must not be learnt from another paper. Title and abstract, and the experimental sections,
are compared, exactly and for every pair.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import whole_file
from nsllm_lite.corpus import assign, dedup
from nsllm_lite.corpus.ingest import head_of
from nsllm_lite.corpus.parts import Part
from nsllm_lite.corpus.shingles import shingles_of
from nsllm_lite.corpus.texts import render
from nsllm_lite.formats.documents import STATED, TERMS, parquet_writer
from nsllm_lite.recipe.corpus import Corpus

NEAR = 0.5
KINDS = ("body", "whole", "general")  # of known texts: experimental sections, title + abstract, general passages
# By kind the held-out texts, searchable, and the numbers of their candidates, behind which -1 stands for none.
Known = dict[str, tuple[dedup.NearIndex, list[int]]]


def save_known(path: Path, parts: list[Part], outcome: np.ndarray, min_chars: int) -> None:
    """Writes the shingles of the held-out documents and their numbers, as `_known` reads them."""
    known: dict[str, list[tuple[int, np.ndarray]]] = {kind: [] for kind in KINDS}  # (number, shingles)
    for part in parts:
        held = outcome[part.span] == assign.HELDOUT
        places = np.flatnonzero(held).tolist()
        known["general" if part.general else "whole"] += [(part.first + n, part.shingles(n)) for n in places]
        for place, document in part.documents(held & part.fits("phase2")):
            text, _ = render.phase2_text(document, min_chars)
            known["body"].append((part.first + place, shingles_of(text)))
    arrays = {}
    for kind, found in known.items():
        arrays[f"{kind}_sizes"] = np.array([len(shingles) for _, shingles in found], np.int64)
        arrays[f"{kind}_shingles"] = np.concatenate([np.empty(0, np.uint64), *(shingles for _, shingles in found)])
        arrays[f"{kind}_owners"] = np.array([number for number, _ in found], np.int64)
    np.savez(path, **arrays)


@lru_cache(maxsize=1)
def _known(path: Path) -> Known:
    known = {}
    with np.load(path) as arrays:
        for kind in KINDS:
            sizes, shingles = arrays[f"{kind}_sizes"], arrays[f"{kind}_shingles"]
            sets = np.split(shingles, np.cumsum(sizes)[:-1]) if len(sizes) else []
            known[kind] = dedup.NearIndex(sets, NEAR), [*arrays[f"{kind}_owners"].tolist(), -1]
    return known


def settle(recipe: Corpus, work: Path, documents: Path, part: Part) -> dict:
    """Writes the part's survivors to DOCUMENTS/part.parquet, the held-out ones also to WORK/heldout, and a line for
    each that was too near to WORK/near; WORK/final/part.npy is the final CHOICE by candidate."""
    final = np.array(np.load(work / "choice.npy", mmap_mode="r")[part.span])
    near = _near(recipe, part, final["outcome"] == assign.KEPT, _known(work / "known.npz"))
    final["outcome"][near >= 0], final["reason"][near >= 0] = assign.DROPPED, assign.NEAR_HELDOUT
    final["other"] = np.where(near >= 0, near, final["other"])
    held = final["outcome"] == assign.HELDOUT
    survives = held | (final["outcome"] == assign.KEPT)
    made = [documents / f"{part.name}.parquet", work / "heldout" / f"{part.name}.parquet"]
    made += [work / "near" / f"{part.name}.jsonl", final_choice(work, part)]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
    stated = _write(made[0], part, survives)
    _write(made[1], part, held)
    _write_dropped(made[2], part, near)
    np.save(made[3], final)
    lost = int(part.keys["lost"][survives].sum())
    return {"lost": lost, "stated": stated, "files": integrity.describe_all(work, made)}


def final_choice(work: Path, part: Part) -> Path:
    """Where `settle` leaves the CHOICE of a part's candidates."""
    return work / "final" / f"{part.name}.npy"


def _near(recipe: Corpus, part: Part, kept: np.ndarray, known: Known) -> np.ndarray:
    """By candidate: the number of the held-out one that it is near to, or -1."""
    near = np.full(part.num_candidates, -1, np.int32)
    index, owners = known["body"]
    if owners != [-1]:
        for place, document in part.documents(kept & part.fits("phase2")):
            text, _ = render.phase2_text(document, recipe.min_chars)
            near[place] = owners[index.find(shingles_of(text))]
    index, owners = known["general" if part.general else "whole"]
    if owners != [-1]:
        for place, shingles in enumerate(part.all_shingles()):
            if kept[place] and near[place] < 0:
                near[place] = owners[index.find(shingles)]
    return near


def _write(path: Path, part: Part, wanted: np.ndarray) -> dict[str, int]:
    """{field: documents that state it} of what was written."""
    stated = dict.fromkeys(STATED, 0)
    with whole_file(path) as made, parquet_writer(made) as writer:
        for batch, _ in part.batches(wanted):
            writer.write_batch(batch)
            for name in STATED:
                lengths = pc.list_value_length(batch[name]) if name in TERMS else pc.binary_length(batch[name])
                stated[name] += pc.sum(pc.greater(lengths, 0)).as_py() or 0
    return stated


def _write_dropped(path: Path, part: Part, near: np.ndarray) -> None:
    reason = assign.REASONS[assign.NEAR_HELDOUT]
    with open(path, "w", encoding="utf-8") as file:
        for place, document in part.documents(near >= 0):
            line = {"id": document.id, "source": document.source, "origin": document.origin, "reason": reason}
            line["other"] = int(near[place])
            file.write(json.dumps({**line, "text": " ".join(head_of(document).split())}, ensure_ascii=False) + "\n")
