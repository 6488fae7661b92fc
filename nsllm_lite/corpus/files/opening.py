"""Opening a file of unknown kind: compression, encoding and format are seen from its first bytes, not from its name."""

import codecs
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO, TypeVar

from nsllm_lite.document import Document

HEAD_BYTES = 65_536
NOT_THIS_FORMAT = "not_this_format"
UNREADABLE_FILE = "unreadable_file"
UNREADABLE = "unreadable"


T = TypeVar("T")


class Unread(NamedTuple):
    """A record or file that could not be read: where, one of the three reasons above, and what was found there."""

    origin: str
    reason: str
    message: str


def read_each(
    records: Iterable[T | str], file: str, make: Callable[[T, str], Document | Unread]
) -> Iterator[Document | Unread]:
    """`make(record, origin)` of each record; where one could not be read its place holds a message instead."""
    for number, record in enumerate(records, start=1):
        origin = f"{file}#{number}"
        yield Unread(origin, UNREADABLE, record) if isinstance(record, str) else make(record, origin)


@contextmanager
def _open_bytes(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        magic = file.read(2)
        file.seek(0)
        if magic == b"\x1f\x8b":
            with gzip.open(file) as unpacked:
                yield unpacked
        else:
            yield file


def encoding_of(head: bytes) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    declared = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([\w.-]+)", head)
    if declared:
        try:
            return codecs.lookup(declared[1].decode()).name
        except LookupError:
            return "utf-8"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file's text: gunzipped, decoded, and XML that was saved as one JSON string taken out of it."""
    with _open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
        file.seek(0)
        with io.TextIOWrapper(file, encoding=encoding_of(head), errors="replace") as stream:
            if head.lstrip()[:2] in (b'"<', b'"\\'):
                yield io.StringIO(_unquote(stream.read()))
            else:
                yield stream


def _unquote(content: str) -> str:
    try:
        value = json.loads(content)
    except json.JSONDecodeError:
        return content
    return value if isinstance(value, str) else content


def head_of(path: Path) -> str | None:
    """The file's beginning as text, without byte-order mark and white space before it; None where it is binary.

    XML that was saved as one JSON string is taken out of it.
    """
    with _open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    encoding = encoding_of(head)
    if b"\0" in head and encoding != "utf-16":
        return None
    text = head.decode(encoding, errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith('"<'):
        text = re.sub(r"\\n|\\t|\\r", " ", text[1:]).replace('\\"', '"').lstrip()
    return text
