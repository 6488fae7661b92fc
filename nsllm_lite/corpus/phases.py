"""The phases, and the text of a document in each; a batch of documents at a time where speed asks for it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsllm_lite.corpus.encoder import string_starts
from nsllm_lite.corpus.texts import render
from nsllm_lite.formats.documents import documents_in

RENDER = {"phase1": render.phase1_text, "phase2": render.phase2_text, "general": render.general_text}
SPLITS = ("train", "heldout")
_HEADS = ["id", "source", "title", "abstract"]
COLUMNS = {"phase1": _HEADS, "phase2": None, "general": [*_HEADS, "text"]}  # that `texts_of` asks for; None: all


def texts_of(phase: str, batch: pa.RecordBatch, min_chars: int) -> pa.Array:
    """What RENDER says of each document, for documents that are of use to `phase`."""
    if phase == "phase1":
        return pc.binary_join_element_wise(batch["title"], batch["abstract"], "\n\n")
    if phase == "general":
        untitled, own_text = ~_has(batch["title"]), _has(batch["text"])
        body = batch["text"] if own_text.all() else pc.if_else(own_text, batch["text"], batch["abstract"])
        if untitled.all():
            return body
        return pc.if_else(untitled, body, pc.binary_join_element_wise(batch["title"], body, "\n\n"))
    return pa.array([RENDER[phase](document, min_chars)[0] for document in documents_in(batch)], pa.string())


def _has(texts: pa.Array) -> np.ndarray:
    return np.diff(string_starts(texts)) > 0
