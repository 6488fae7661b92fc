"""A document as the text that training sees, of one document or of a batch.

The functions of RENDER give (text, "") or ("", reason to drop it here).
"""

from types import SimpleNamespace
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from nsllm_lite.corpus.texts import headings
from nsllm_lite.formats.documents import Document, Section, documents_in

_HEADS = ["id", "source", "title", "abstract"]
COLUMNS = {"phase1": _HEADS, "phase2": None, "general": [*_HEADS, "text"]}  # that `texts_of` needs; None: all

T = TypeVar("T", str, pa.Array)  # a text, or those of a batch: together, ten times as fast


# What stands under the title, of a document or of a batch's columns; phase 2 chooses among sections instead.
BODIES = {
    "phase1": lambda paper: paper.abstract,
    "general": lambda paper: _either(paper.text, paper.abstract),
}


def phase1_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, blank line, abstract, which has at least `min_chars`."""
    return _titled_text(document, "phase1", min_chars) if document.abstract else ("", "no_abstract")


def phase2_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, then each experimental section under its heading. The sections' text has at least `min_chars`."""
    sections = experimental_sections(document)
    num_chars = sum(len(s.text) for s in sections)
    if not num_chars:
        return "", "no_experimental_section"
    if num_chars < min_chars:
        return "", "too_short"
    parts = [document.title]
    for section in sections:
        parts += [part for part in (section.heading, section.text) if part]
    return "\n\n".join(parts), ""


def general_text(document: Document, min_chars: int) -> tuple[str, str]:
    """General text under its title if it has one."""
    return _titled_text(document, "general", min_chars)


def _titled_text(document: Document, phase: str, min_chars: int) -> tuple[str, str]:
    body = BODIES[phase](document)
    return (_titled(document.title, body), "") if len(body) >= min_chars else ("", "too_short")


def _either(first: T, second: T) -> T:
    """The first where it is not empty, else the second."""
    if isinstance(first, str):
        return first or second
    stated = pc.not_equal(first, "")
    return first if pc.all(stated).as_py() else pc.if_else(stated, first, second)


def _titled(title: T, body: T) -> T:
    """Title, blank line, body; the body alone where there is no title."""
    if isinstance(title, str):
        return f"{title}\n\n{body}" if title else body
    titled = pc.not_equal(title, "")
    if not pc.any(titled).as_py():
        return body
    joined = pc.binary_join_element_wise(title, body, "\n\n")
    return joined if pc.all(titled).as_py() else pc.if_else(titled, joined, body)


RENDER = {"phase1": phase1_text, "phase2": phase2_text, "general": general_text}


def texts_of(phase: str, batch: pa.RecordBatch, min_chars: int) -> pa.Array:
    """The texts that RENDER gives, of a batch of documents that `phase` can use."""
    if phase in BODIES:
        columns = SimpleNamespace(**{name: batch[name] for name in batch.schema.names})
        return _titled(columns.title, BODIES[phase](columns))
    return pa.array([RENDER[phase](document, min_chars)[0] for document in documents_in(batch)], pa.string())


def experimental_sections(document: Document) -> list[Section]:
    """Methods, materials, set-up, results and their like, with their subsections, in reading order (see `headings`).

    A heading without text stays only above one with text.
    """
    kept = headings.experimental(document.sections)
    chosen = [s for s, keep in zip(document.sections, kept, strict=True) if keep]
    return [s for n, s in enumerate(chosen) if s.text or any(_lies_under(t, s) and t.text for t in chosen[n + 1 :])]


def _lies_under(section: Section, above: Section) -> bool:
    path = (*above.parents, above.heading)
    return section.parents[: len(path)] == path
