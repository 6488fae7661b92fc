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

from nsllm_lite.corpus.files.blocks import MAIN, Block, bare, paper_of
from nsllm_lite.corpus.files.lines import ABSTRACT, RUN_IN
from nsllm_lite.corpus.files.markdown import blocks_in
from nsllm_lite.corpus.files.opening import Place, Unread, read_all
from nsllm_lite.formats.documents import Document

MAX_CHARS = 1 << 24
SURE = 3  # so many usual headings make a paper of a file without an abstract
_HEADINGS = re.compile(r"^#{1,6}[ \t]+(\S.{0,200})$", re.MULTILINE)
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
    return len(known) >= SURE or (bool(known) and any(map(_begins_abstract, head.split("\n"))))


def _begins_abstract(line: str) -> bool:
    words = bare(line)
    return bool(ABSTRACT.fullmatch(words) or RUN_IN.match(words))


def records(stream: TextIO) -> Iterator[list[Block] | str]:
    """The blocks of the one paper in a file."""
    text = read_all(stream, MAX_CHARS + 1)
    yield f"over {MAX_CHARS:,} characters of Markdown" if len(text) > MAX_CHARS else list(blocks_in(text))


def document(record: list[Block], place: Place) -> Document | Unread:
    return paper_of(record, place) if record else place.unread("no text is in the file")
