"""A document as the text that training sees, of one document or of a batch.

The functions of RENDER give (text, "") or ("", reason to drop it here). `min_chars` are characters of English, of which
a Chinese or Japanese one counts as 2.5 and a Korean syllable as 2.
"""

import pyarrow as pa
import pyarrow.compute as pc

from nsllm_lite.corpus.texts.scripts import weighted_chars
from nsllm_lite.formats.documents import TEXTUAL, Document, documents_in
from nsllm_lite.formats.headings import experimental_sections

_HEADS = ["id", "source", "title", "abstract"]
COLUMNS = {"phase1": _HEADS, "phase2": TEXTUAL, "general": [*_HEADS, "text"]}  # that `texts_of` needs


def phase1_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, blank line, abstract, which has at least `min_chars`."""
    return _titled_text(document.title, document.abstract, min_chars) if document.abstract else ("", "no_abstract")


def phase2_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, then each experimental section under its heading. The sections' text has at least `min_chars`."""
    sections = experimental_sections(document) if document.sections else []
    if not any(s.text for s in sections):
        return "", "no_experimental_section"
    if _is_short(min_chars, *(s.text for s in sections)):
        return "", "too_short"
    parts = [document.title]
    for section in sections:
        parts += [part for part in (section.heading, section.text) if part]
    return "\n\n".join(parts), ""


def general_text(document: Document, min_chars: int) -> tuple[str, str]:
    """General text under its title if it has one."""
    return _titled_text(document.title, document.text or document.abstract, min_chars)


def _titled_text(title: str, body: str, min_chars: int) -> tuple[str, str]:
    if _is_short(min_chars, body):
        return "", "too_short"
    return (f"{title}\n\n{body}" if title else body), ""


def _is_short(min_chars: int, *texts: str) -> bool:
    """Whether the texts are shorter than so many characters of English: a Chinese character says as much as 2.5."""
    return sum(map(len, texts)) < min_chars and sum(map(weighted_chars, texts)) < min_chars


RENDER = {"phase1": phase1_text, "phase2": phase2_text, "general": general_text}


def texts_of(phase: str, batch: pa.RecordBatch, min_chars: int) -> pa.Array:
    """The texts that RENDER gives, of a batch of documents that `phase` can use.

    Under a title by columns, which is ten times as fast; phase 2 chooses among sections.
    """
    if phase == "phase2":
        return pa.array([phase2_text(document, min_chars)[0] for document in documents_in(batch)], pa.string())
    body = batch["abstract"]
    if phase == "general":
        stated = pc.not_equal(batch["text"], "")
        body = batch["text"] if pc.all(stated).as_py() else pc.if_else(stated, batch["text"], body)
    titled = pc.not_equal(batch["title"], "")
    if not pc.any(titled).as_py():
        return body
    joined = pc.binary_join_element_wise(batch["title"], body, "\n\n")
    return joined if pc.all(titled).as_py() else pc.if_else(titled, joined, body)
