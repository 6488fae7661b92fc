"""Papers as Markdown, as converters of PDF write them: MinerU, Marker, Docling, Nougat and others.

A file is taken for a paper where it has an abstract and one of a paper's usual headings, or three of these, and nothing
of a README (installation, usage, licence). Kept and left out as `files.markdown` and `files.blocks` say: no pictures,
tables, captions, code, references, back matter, nor numbered citations. Headings nest by their numbers where most have
one, else by their signs.

Source: commonmark.org; the output of MinerU 2, Marker 1 and Docling 2 as their documentation shows it.
"""

import re
from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files.blocks import ABSTRACT, MAIN, Block, bare, paper_of
from nsllm_lite.corpus.files.markdown import blocks_in
from nsllm_lite.corpus.files.opening import Place, Unread, read_all
from nsllm_lite.formats.documents import Document

MAX_CHARS = 1 << 24
SURE = 3  # so many usual headings make a paper of a file without an abstract
_HEADINGS = re.compile(r"^#{1,6}[ \t]+(\S.{0,200})$", re.MULTILINE)
_ABSTRACT_LINE = re.compile(r"^[*_# \t]{0,12}(?:abstract|a b s t r a c t)\b", re.IGNORECASE | re.MULTILINE)
_README = re.compile(
    r"(?:installation|install(?:ing)?|usage|getting started|quick ?start|licen[cs]e|contributing|table of contents|"
    r"how to (?:use|cite|run|install|contribute)|citation|citing|changelog|roadmap|build(?:ing)?|prerequisites|"
    r"to-?do)[.:]?",
    re.IGNORECASE,
)


def recognise(head: str) -> bool:
    if "# " not in head:
        return False
    names = [bare(found[1]) for found in _HEADINGS.finditer(head)]
    if len(names) < 2 or any(map(_README.fullmatch, names)):
        return False
    known = {name.lower().rstrip(".:") for name in names if MAIN.fullmatch(name)}
    has_abstract = bool(_ABSTRACT_LINE.search(head)) or any(map(ABSTRACT.fullmatch, names))
    return len(known) >= (1 if has_abstract else SURE)


def records(stream: TextIO) -> Iterator[list[Block] | str]:
    """The blocks of the one paper in a file."""
    text = read_all(stream, MAX_CHARS + 1)
    yield f"over {MAX_CHARS:,} characters of Markdown" if len(text) > MAX_CHARS else list(blocks_in(text))


def document(record: list[Block], place: Place) -> Document | Unread:
    return paper_of(record, place) if record else place.unread("no text is in the file")
