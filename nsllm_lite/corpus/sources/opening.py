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
PLAIN_TEXT_NAMES = (".txt", ".text", ".txt.gz", ".tokens")

_ROOT = re.compile(r"<(?![?!])(?:[\w.-]+:)?([\w.-]+)")
_DOCTYPE = re.compile(r"<!DOCTYPE[^\[>]*(?:\[[^\]]*\])?[^>]*>")
MAX_PROLOGUE = 100  # comments, instructions and a DOCTYPE before the root; more is no file of ours
_ROOTS = {
    "PubmedArticleSet": "pubmed",
    "PubmedArticle": "pubmed",
    "PubmedBookArticleSet": "pubmed",
    "PubmedBookArticle": "pubmed",
    "article": "jats",
    "pmc-articleset": "jats",
}
_KEY = re.compile(r'"([A-Za-z_-]+)"\s*:')


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


def _encoding(head: bytes) -> str:
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
        with io.TextIOWrapper(file, encoding=_encoding(head), errors="replace") as stream:
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


def detect(path: Path, origin: str, general: bool) -> str | Unread:
    """The name of the reader for this file, or why there is none, said of `origin`."""
    with _open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    if not head.strip():
        return Unread(origin, UNREADABLE_FILE, "the file is empty")
    encoding = _encoding(head)
    if b"\0" in head and encoding != "utf-16":
        return Unread(origin, NOT_THIS_FORMAT, "binary data")
    text = head.decode(encoding, errors="replace").lstrip("\ufeff \t\r\n")
    if not text:
        return Unread(origin, UNREADABLE_FILE, "the file is empty")
    if text.startswith('"<'):
        text = re.sub(r"\\n|\\t|\\r", " ", text[1:]).replace('\\"', '"').lstrip()
    found = _detect_xml(text) if text.startswith("<") else _detect_json(text) if text[0] in "[{" else None
    if found is None and general and (path.name.lower().endswith(PLAIN_TEXT_NAMES) or text[0] not in "<[{"):
        found = "text"
    if found is None or (found == "text" and not general):
        kind = "XML of another kind" if text[0] == "<" else "JSON of another kind" if text[0] in "[{" else "plain text"
        if re.match(r"(?i)<!doctype html|<html", text):
            kind = "an HTML page"
        return Unread(origin, NOT_THIS_FORMAT, f"{kind}, begins {' '.join(text[:60].split())!r}")
    return found


def _detect_xml(text: str) -> str | None:
    """By the root element. One pass over what stands before it, so that no head, however odd, takes long."""
    for _ in range(MAX_PROLOGUE):
        text = text.lstrip()
        if text.startswith(("<?", "<!--")):
            _, closed, text = text.partition("?>" if text[1] == "?" else "-->")
            if not closed:
                return None
        elif text.startswith("<!"):
            doctype = _DOCTYPE.match(text)
            if not doctype:
                return None
            text = text[doctype.end() :]
        else:
            root = _ROOT.match(text)
            return _ROOTS.get(root[1]) if root else None
    return None


def _detect_json(text: str) -> str | None:
    """By the keys of the first record; a record cut off by the end of the head still shows most of them."""
    keys = set(_KEY.findall(text.split("\n{", 1)[0]))
    if "title" in keys and "sections" in keys and "discipline" in keys:
        return "sample"
    if "title" in keys and keys & {"abstract", "summary"}:
        return "arxiv"
    return "text" if "text" in keys else None
