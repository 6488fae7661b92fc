"""A file's bytes as text, and the place of a record."""

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, TextIO, TypeVar

from nsllm_lite.corpus.files.encoding import Decoder, Utf8, decoded, stated_encoding, wide_encoding
from nsllm_lite.corpus.files.streams import ERRORS, UpToFault
from nsllm_lite.corpus.stated.terms import as_language
from nsllm_lite.formats.documents import Document

HEAD_BYTES = 65_536
BUFFER_BYTES = 1 << 17
MAX_QUOTED_CHARS = 1 << 26
MAX_LINE_CHARS = 1 << 26
NOT_THIS_FORMAT = "not_this_format"
UNREADABLE_FILE = "unreadable_file"
UNREADABLE = "unreadable"
ENTITIES_REFUSED = "entities_refused"
NOT_A_PAPER = "not_a_paper"
DELETED = "deleted"

MAX_NUL_SHARE = MAX_CONTROL_SHARE = 0.01  # of a text's beginning; packed bytes have 0.004 and 0.09

_PDF = b"%PDF-"  # where some bytes stand before it
_CONTROLS = [code for code in range(1, 32) if chr(code) not in "\t\n\f\r\x1b"]
_BEFORE_TEXT = "\ufeff \t\r\n"

T = TypeVar("T")


class Unread(NamedTuple):
    """A record or file that could not be read: where, one of the reasons above, and what was found."""

    origin: str
    reason: str
    message: str


class Place(NamedTuple):
    """Where a record stands: in which source of the recipe, and FILE#RECORD; and the languages that are wanted."""

    source: str
    origin: str
    languages: tuple[str, ...] = ()  # ISO 639-1 codes; empty: any

    def paper(
        self, *, arxiv: str = "", pmid: str = "", doi: str = "", accession: str = "", language: str = "", **fields: Any
    ) -> Document:
        """The document of a record, with these fields and named by the first identifier that the record states.

        `doi` is as `as_doi` gives it, `accession` begins with its database ("wos:000123"). A PMID that is no number, or
        0, is passed over. Where no identifier is stated the place is the name, "SOURCE:FILE#RECORD". `language` is the
        source's own word for it.
        """
        name = f"doi:{doi}" if doi else accession or f"{self.source}:{self.origin}"
        if arxiv:
            name = f"arxiv:{arxiv}"
        elif pmid.isascii() and pmid.isdigit() and pmid.strip("0"):
            name = f"pmid:{pmid.lstrip('0')}"
        code = as_language(language) if language else ""
        return Document(id=name, source=self.source, origin=self.origin, doi=doi, language=code, **fields)

    def unread(self, message: str, reason: str = UNREADABLE) -> Unread:
        return Unread(self.origin, reason, message)


def read_each(
    records: Iterable[T | str],
    source: str,
    file: str,
    make: Callable[[T, Place], Document | Unread],
    languages: tuple[str, ...] = (),
) -> Iterator[Document | Unread]:
    """`make(record, place)` of each record; a message stands for one that could not be read."""
    for number, record in enumerate(records, start=1):
        place = Place(source, f"{file}#{number}", languages)
        if isinstance(record, str):
            yield place.unread(record)
            continue
        try:
            made = make(record, place)
        except (ValueError, RecursionError) as error:  # of a value that nobody thought of: the others are read
            made = place.unread(f"{type(error).__name__}: {error}")
        yield made


class _Text(io.TextIOWrapper):
    """Text with a maximal line length: an endless line would fill the memory.

    Of a stream that fails all characters before are read, and all whole lines; what is asked for behind them raises the
    fault, where something is missing.
    """

    def __init__(self, stream: BinaryIO, encoding: str, decoder: Decoder | None = None):
        self.up_to_fault = UpToFault(stream)
        raw = Utf8(self.up_to_fault, decoder) if decoder else self.up_to_fault
        super().__init__(io.BufferedReader(raw, BUFFER_BYTES), encoding=encoding, errors="replace")

    def read(self, size: int | None = -1) -> str:
        content = super().read(size)
        if not content or size is None or size < 0:
            self.up_to_fault.require_uncut()
        return content

    def readline(self, size: int = -1) -> str:
        line = super().readline(size if size >= 0 else MAX_LINE_CHARS + 1)
        if not line.endswith("\n") and len(line) != size:
            self.up_to_fault.require_uncut()
        if size < 0 and len(line) > MAX_LINE_CHARS:
            found = f"a line of over {MAX_LINE_CHARS:,} characters, nothing is read from here on"
            raise ValueError(found)  # caught by sources.read
        return line


class Joined(io.TextIOBase):
    """A stream read again from its beginning, of which `begun` was read already: not every stream can seek."""

    def __init__(self, begun: str, stream: TextIO):
        self._begun, self._stream = io.StringIO(begun), stream

    def read(self, size: int = -1) -> str:
        begun = self._begun.read(size)
        if size < 0 or not begun:
            return begun + self._stream.read(size)
        if len(begun) < size:
            with suppress(*ERRORS):  # raised by the next call
                begun += self._stream.read(size - len(begun))
        return begun

    def readline(self, size: int = -1) -> str:
        begun = self._begun.readline(size)
        is_whole = begun.endswith("\n") or len(begun) == size
        return begun if is_whole else begun + self._stream.readline(max(size - len(begun), -1))


def first_sign(stream: TextIO, passed_over: str = " \t\r\n\ufeff") -> tuple[str, Joined]:
    """The first character that is not `passed_over`, "" where there is none, and the stream from it on."""
    first = stream.read(1)
    while first and first in passed_over:
        first = stream.read(1)
    return first, Joined(first, stream)


def read_all(stream: TextIO, max_chars: int) -> str:
    """The whole of a text, or its first `max_chars` characters.

    Raises:
        one of `streams.ERRORS`: reading it fails before.
    """
    parts: list[str] = []
    while max_chars and (part := stream.read(max_chars)):
        parts.append(part)
        max_chars -= len(part)
    return "".join(parts)


def require_whole(stream: TextIO) -> None:
    """Raises the fault at which a text of `open_text` has ended, where its reader took that for the end."""
    if isinstance(stream, _Text):
        stream.up_to_fault.require_whole()


def open_text(stream: BinaryIO, head: bytes, used: set[str] | None = None) -> TextIO:
    """The text of a file that begins with `head`, "\\n" at its line ends; XML saved as one JSON string is taken out.

    `used` collects the encodings beside UTF-8 as they are found.
    """
    used = set() if used is None else used
    if wide := wide_encoding(head):
        used.add(wide)
        text = _Text(stream, wide)
    else:
        decoder = Decoder(stated_encoding(head), used)
        encoding = "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"
        text = _Text(stream, encoding, decoder)
    if not decoded(head[:256]).lstrip(_BEFORE_TEXT).startswith(('"<', '"\\')):
        return text
    content = read_all(text, MAX_QUOTED_CHARS)
    require_whole(text)
    try:
        value = json.loads(content)
    except json.JSONDecodeError:
        value = None
    return io.StringIO(value if isinstance(value, str) else content)


@lru_cache(maxsize=2)  # of one file it is asked several times
def head_of(head: bytes) -> str | None:
    """A file's beginning as text, without byte-order mark and white space before it; None where it is binary.

    XML that was saved as one JSON string is taken out of it.
    """
    if b"\0" in head and not wide_encoding(head) and _is_binary(head):
        return None
    text = decoded(head, is_cut=len(head) >= HEAD_BYTES).lstrip(_BEFORE_TEXT)
    if text.startswith('"<'):
        text = re.sub(r"\\n|\\t|\\r", " ", text[1:]).replace('\\"', '"').lstrip()
    return text


def _is_binary(head: bytes) -> bool:
    """Whether it has more NUL bytes and other controls than a damaged text, or holds what no text does."""
    num_controls = sum(map(head.count, _CONTROLS))
    return (
        _PDF in head[:1024]
        or head.count(0) > 1 + MAX_NUL_SHARE * len(head)
        or num_controls > 1 + MAX_CONTROL_SHARE * len(head)
    )


def declares_entities(head: bytes) -> bool:
    """Whether an XML file's DOCTYPE declares entities, as entity bombs and attacks on local files do."""
    text = head_of(head) or ""
    return text.startswith("<") and "<!ENTITY" in text
