"""General text: plain text cut into passages, or JSON lines with a `text` field.

Plain text is cut where a top heading (` = Heading = `, as in WikiText) begins and otherwise at the last blank line,
line end, sentence end or space before `PASSAGE_CHARS`. Only white space is lost; WikiText's ` @-@ ` is a hyphen again.
"""

import re
from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files.objects import objects_in
from nsllm_lite.corpus.files.opening import Joined, Place, Unread
from nsllm_lite.corpus.files.records import as_text, iter_records
from nsllm_lite.corpus.files.tagged import iter_lines
from nsllm_lite.formats.documents import Document

PASSAGE_CHARS = 4_000
PASSAGE_ENDS = ("\n\n", "\n \n", "\n", ". ", " ")
_SPLIT_COMPOUND = re.compile(r" @([-,.])@ ")  # WikiText writes "twenty-one" and "1,000" so
_TOP_HEADING = re.compile(r"\s?= [^=].* =\s*")


def recognise(head: str) -> bool:
    """Any plain text, and JSON records with a `text`; the last in the order of detection, for general sources only."""
    return head[0] not in "<[{" or ('"text"' in head and any("text" in opened.fields for opened in objects_in(head)))


def records(stream: TextIO) -> Iterator[dict | str]:
    first = stream.read(1)
    skipped = ""
    while first and first in " \t\r\n\ufeff":
        skipped, first = skipped + first, stream.read(1)
    whole = Joined(skipped + first, stream)
    if first == "{":
        return iter_records(whole)
    return ({"text": _SPLIT_COMPOUND.sub(r"\1", passage)} for passage in _passages(whole))


def document(record: dict, place: Place) -> Document | Unread:
    if not isinstance(record.get("text"), str):
        return place.unread("no `text` in the record")
    return place.paper(accession=as_text(record.get("id")), title=as_text(record.get("title")), text=record["text"])


def _passages(stream: TextIO) -> Iterator[str]:
    buffer = ""
    for line in iter_lines(stream):
        if _TOP_HEADING.fullmatch(line) and buffer.strip():
            yield from _cut(buffer, to_the_end=True)
            buffer = ""
        buffer += line
        if len(buffer) > PASSAGE_CHARS:
            *passages, buffer = _cut(buffer, to_the_end=False)
            yield from passages
    yield from _cut(buffer, to_the_end=True)


def _cut(text: str, to_the_end: bool) -> Iterator[str]:
    """Passages of at most PASSAGE_CHARS; the last one is the uncut rest, left out when empty and `to_the_end`."""
    while len(text) > PASSAGE_CHARS:
        window = text[:PASSAGE_CHARS]
        places = (window.rfind(mark, 1) + len(mark) for mark in PASSAGE_ENDS if mark in window[1:])
        place = next((p for p in places if p > PASSAGE_CHARS // 4), PASSAGE_CHARS)
        if text[:place].strip():
            yield text[:place]
        text = text[place:]
    if text.strip() or not to_the_end:
        yield text
