"""The phases, and the text of a document in each; a batch of documents at a time where speed asks for it."""

import pyarrow as pa
import pyarrow.compute as pc

from nsllm_lite.corpus.texts import render
from nsllm_lite.document import documents_in

RENDER = {"phase1": render.phase1_text, "phase2": render.phase2_text, "general": render.general_text}
SPLITS = ("train", "heldout")
_HEADS = ["id", "source", "title", "abstract"]
COLUMNS = {"phase1": _HEADS, "phase2": None, "general": [*_HEADS, "text"]}  # that `texts_of` asks for; None: all


def texts_of(phase: str, batch: pa.RecordBatch, min_chars: int) -> pa.Array:
    """What RENDER says of each document, for documents that are of use to `phase`."""
    if phase == "phase1":
        return pc.binary_join_element_wise(batch["title"], batch["abstract"], "\n\n")
    if phase == "general":
        body = pc.if_else(pc.equal(batch["text"], ""), batch["abstract"], batch["text"])
        if pc.all(pc.equal(batch["title"], "")).as_py():
            return body
        return pc.if_else(pc.equal(batch["title"], ""), body, pc.binary_join_element_wise(batch["title"], body, "\n\n"))
    return pa.array([RENDER[phase](document, min_chars)[0] for document in documents_in(batch)], pa.string())
