"""XML answers of services: one or several in a file, or stored as text inside JSON records.

A record is parsed alone, without its answer's root, which declares the namespace prefixes. So the prefixes are removed
first; names are compared without them anyway.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import TextIO

from lxml import etree

from nsllm_lite.corpus.files.elements import iter_elements
from nsllm_lite.corpus.files.opening import HEAD_BYTES, Joined
from nsllm_lite.corpus.files.records import iter_records

MAX_TAG_CHARS = 4096  # a tag is put together again at the seam of two chunks if it is no longer

_XML_TEXT = re.compile(  # a JSON string that begins with "<", in whole characters, cut where a head suffices
    r'"(?>(?:\s|\\[nrt])*)((?:<|\\u003[cC])(?>(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]){0,4000}))'
)
_JSON = re.compile(r'[\ufeff \t\r\n]*(?:\[\s*)?\{\s*"')
_TAG = re.compile(r"<[?/A-Za-z]")
_PREFIX = re.compile(r"(</?)[A-Za-z_][\w.-]{0,60}:(?=[A-Za-z_])")


def xml_heads(head: str) -> list[str]:
    """The beginning of each XML text: `head` itself, or those of the texts in a JSON file."""
    if head.startswith("<"):
        return [head]
    if head[:1] not in ("{", "["):
        return []
    return [json.loads(f'"{found[1]}"', strict=False) for found in _XML_TEXT.finditer(head)]


def iter_answers(
    stream: TextIO, tags_of: Callable[[str], tuple[str, ...]], nothing: str
) -> Iterator[etree._Element | str]:
    """The elements of all answers in a file, or messages. `tags_of` gives the tags of records by an answer's
    head; an answer without any yields the message `nothing`."""
    head = stream.read(HEAD_BYTES)
    whole = Joined(head, stream)
    if not _JSON.match(head):
        yield from _elements(whole, tags_of, nothing)
        return
    for record in iter_records(whole):
        if isinstance(record, str):
            yield record
        elif xml := _xml_of(record):
            yield from _elements(io.StringIO(xml), tags_of, nothing)
        else:
            yield "the JSON record holds no XML"


def _xml_of(record: dict) -> str:
    """The record's first text that is XML, its own or one level deeper: {"body": {"string": "<?xml ..."}}. Where none
    begins as XML does, one that has a tag."""
    values = (value.values() if isinstance(value, dict) else (value,) for value in record.values())
    texts = [text for inner in values for text in inner if isinstance(text, str)]
    whole = (text for text in texts if text.lstrip("\ufeff \t\r\n").startswith("<"))
    return next(whole, "") or next(filter(_TAG.search, texts), "")


def _elements(
    stream: TextIO, tags_of: Callable[[str], tuple[str, ...]], nothing: str
) -> Iterator[etree._Element | str]:
    head = stream.read(HEAD_BYTES)
    tags = tags_of(head)
    elements = iter_elements(_Plain(Joined(head, stream), tags), tags)
    yield next(elements, nothing)
    yield from elements


class _Plain(io.TextIOBase):
    """XML with names without prefixes, and with `<error/>` written `<error></error>` for the tags that are cut out."""

    def __init__(self, stream: TextIO, tags: tuple[str, ...]):
        self._stream, self._held = stream, ""
        self._empty = re.compile(rf"<({'|'.join(tags)})(\s[^<>]*)?/>")

    def read(self, size: int) -> str:
        while chunk := self._stream.read(size):
            chunk = self._held + chunk
            cut = chunk.rfind("<")
            if cut < 0 or ">" in chunk[cut:] or len(chunk) - cut > MAX_TAG_CHARS:
                cut = len(chunk)
            self._held = chunk[cut:]
            if cut:
                return self._write(chunk[:cut])
        held, self._held = self._held, ""
        return self._write(held)

    def _write(self, text: str) -> str:
        return self._empty.sub(r"<\1\2></\1>", _PREFIX.sub(r"\1", text))
