"""A document as the text that training sees. Each function gives (text, "") or ("", reason to drop it here)."""

from nsllm_lite.corpus.texts import headings
from nsllm_lite.formats.documents import Document, Section


def phase1_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, blank line, abstract. `min_chars` is asked of the abstract."""
    if not document.abstract:
        return "", "no_abstract"
    if len(document.abstract) < min_chars:
        return "", "too_short"
    return f"{document.title}\n\n{document.abstract}", ""


def phase2_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, then each experimental section under its heading. `min_chars` is asked of the sections' text."""
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
    body = document.text or document.abstract
    if len(body) < min_chars:
        return "", "too_short"
    return f"{document.title}\n\n{body}" if document.title else body, ""


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
