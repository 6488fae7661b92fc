"""Papers as PDF, born digital: title, abstract, and full text in sections.

Kept and left out as in JATS (see `jats`). Headings are told by their style, numbers and names, columns by their edges;
words broken at a line's end are joined by the words of the paper. Displayed formulas are left out: print does not say
how they are built. The JATS, TEI or LaTeX of the same paper is better, and is kept in place of its PDF.

A file that is not read has one of REASONS. A paper without sections keeps title and abstract.

Source: ISO 32000-1 (PDF 1.7); the PRISM metadata of publishers in XMP packets.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from nsllm_lite.corpus.files.opening import NOT_A_PAPER, NOT_THIS_FORMAT, Place, Unread
from nsllm_lite.corpus.files.pdf.characters import PdfError
from nsllm_lite.corpus.files.pdf.worker import WORKER
from nsllm_lite.corpus.identity import arxiv_id_in_name, marked_arxiv_id
from nsllm_lite.corpus.stated.dates import first_date
from nsllm_lite.corpus.stated.terms import as_references, as_terms
from nsllm_lite.corpus.texts.entities import unescape
from nsllm_lite.formats.documents import Document, Section, as_doi

MAGIC = b"%PDF-"
MAGIC_BYTES = 1024  # readers look for the magic that far (ISO 32000-1, note 13 of appendix H)
MAX_BYTES = 1 << 28
REASONS = ("scanned", "encrypted", "broken", "too_large", "no_unicode", NOT_A_PAPER)
_PRISM = re.compile(rb"<prism:(doi|publicationName|coverDate|publicationDate)>([^<>]{1,400})<")
_PRISM_DOI = re.compile(rb"<dc:identifier>\s*(?:doi:\s*)([^<>]{8,300})<", re.IGNORECASE)


def begins(head: bytes) -> bool:
    """Whether a file that begins so is a PDF, whatever follows: the magic stands first, or behind blanks."""
    before, magic, _ = head[:MAGIC_BYTES].partition(MAGIC)
    return bool(magic) and not before.strip(b"\xef\xbb\xbf \t\r\n\0")


def recognise(head: str) -> bool:
    return head.startswith(MAGIC.decode())


def read(stream: BinaryIO, source: str, file: str) -> Iterator[Document | Unread]:
    """The one paper in the file, or why there is none."""
    place = Place(source, f"{file}#1")
    content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        yield place.unread(f"PDF: over {MAX_BYTES >> 20} MiB", "too_large")
        return
    if MAGIC not in content[:MAGIC_BYTES]:
        yield place.unread(f"no PDF: %PDF- is not in its first {MAGIC_BYTES} bytes", NOT_THIS_FORMAT)
        return
    try:
        found = WORKER.read(content)
    except PdfError as error:
        yield place.unread(f"PDF: {error.found}", error.reason)
        return
    for reason, message in found["left_out"]:
        yield Unread(f"{file}#0", reason, f"PDF: {message}")
    if not (found["sections"] or found["abstract"]):
        yield place.unread("PDF: neither an abstract nor a section is found in it", NOT_A_PAPER)
        return
    yield document(found | _of_packet(content), place)


def document(found: dict[str, Any], place: Place) -> Document:
    """The paper that `files.pdf.paper` found, with what the file's XMP packet says of it."""
    name = posixpath.basename(place.origin.rpartition("#")[0])
    arxiv = marked_arxiv_id(f"arXiv:{found['arxiv']}") or arxiv_id_in_name(name.removesuffix(".pdf"), "")
    return place.paper(
        arxiv=arxiv,
        doi=next(filter(None, map(as_doi, (found.get("prism:doi", ""), *found["dois"]))), ""),
        title=found["title"],
        abstract=found["abstract"],
        sections=tuple(Section(heading, text, tuple(parents)) for heading, text, parents in found["sections"]),
        date=first_date((*found["dates"], found.get("prism:coverDate", ""), found.get("prism:publicationDate", ""))),
        authors=tuple(found["authors"]),
        venue=found.get("prism:publicationName", ""),
        keywords=as_terms(found["keywords"], parted=";,·•|"),
        references=as_references([{"text": entry} for entry in found["references"]]),
    )


def _of_packet(content: bytes) -> dict[str, str]:
    """What publishers write about the paper into the file, where that is not packed."""
    stated = {f"prism:{name.decode()}": value for name, value in reversed(_PRISM.findall(content))}
    for value in _PRISM_DOI.findall(content)[:1]:
        stated.setdefault("prism:doi", value)
    return {name: " ".join(unescape(value.decode("utf-8", "replace")).split()) for name, value in stated.items()}
