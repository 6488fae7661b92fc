"""Where papers come from: the readers by format, and the detection of a file's format by its content.

A reader is a module of three functions. `recognise(head)` says whether a file that begins so is its own; `head` is not
empty and begins with no white space. `records(stream)` gives the records in one file's text, a message in place of one
that is broken. `document(record, place)` is the `Document` of one, which `place.paper` names and makes, or an `Unread`.
None of them raises because of a file's content. `latex` reads one paper from several files, by a `read` of its own,
which readers of files that are no text have too (BINARY). Papers in two files are joined before (`corpus.join`).
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.corpus.files import opening
from nsllm_lite.corpus.files.archives import NAMES_OF_PACKED, WORD, Opened, open_files, seekable
from nsllm_lite.corpus.files.encoding import decoded, stated_encoding
from nsllm_lite.corpus.files.opening import UNREADABLE_FILE, Place, Unread, read_each
from nsllm_lite.corpus.files.streams import ERRORS, UpToFault
from nsllm_lite.corpus.sources import docx, excel, fields, latex, pdf
from nsllm_lite.errors import RunError, UserError, nearest
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Source
from nsllm_lite.safety import leads_outside

# In the order of detection: specific formats before general ones.
_NAMES = """
pdf sample unarxive s2orc s2ag bioc inspire datacite zotero pes2o arxiv conference openalex europepmc oai atom pubmed
tei elsevier jats endnote wos medline ris refworks noteexpress estudy enw bibtex pmctext markdown excel table latex text
"""
READERS: dict[str, ModuleType] = {name: import_module(f"{__name__}.{name}") for name in _NAMES.split()}
PACKED_AS = 4
LOOK_RECORDS = 200
PLAIN = ("pes2o", "pmctext", "markdown")  # papers that are text as they stand, and read so in sources of general text
BINARY = {b"PAR1": "parquet", WORD: "docx"}  # the readers of files that are no text, by their first bytes
PLAIN_TEXT_NAMES = (".txt", ".text", ".txt.gz", ".tokens")
BUNDLED = {"bundled:papers": "papers", "bundled:general": "general.jsonl"}


class File(NamedTuple):
    """A file of a source, or the stretch of it from byte `start` to `end`."""

    name: str  # relative to the source's folder, with forward slashes: the same on every machine
    path: Path
    start: int = 0
    end: int | None = None
    refused: str = ""  # why it is not opened; empty where it is

    @property
    def num_bytes(self) -> int:
        """Bytes of text in it; packed ones are taken as PACKED_AS to one."""
        if self.refused:
            return 0
        end = self.path.stat().st_size if self.end is None else self.end
        return (end - self.start) * (PACKED_AS if self.name.lower().endswith(NAMES_OF_PACKED) else 1)


def files_of(source: Source) -> list[File]:
    """The files of a source in sorted order; hidden files and folders are passed over.

    Raises:
        UserError: the path does not exist, or is a folder without files.
    """
    if source.path in BUNDLED:
        path = Path(str(resources.files("nsllm_lite") / "sample" / BUNDLED[source.path]))
    else:
        path = Path(source.path)
    if path.is_file():
        return [File(path.name, path)]
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings, cutoff=0.5)
        hint = f" Did you mean {path.parent / near}?" if near else ""
        found = f"Source {source.name!r}: nothing exists at {source.path}."
        needed = f"A source needs a file or a folder, or one of {', '.join(BUNDLED)}."
        raise UserError("source-absent", found, needed, f"Correct its `path` in the recipe (or CORPUS=...).{hint}")
    files = sorted(_walk(path, path))
    if not files:
        found = f"Source {source.name!r}: the folder {source.path} holds no files."
        needed = "A source needs files of papers."
        raise UserError("source-empty", found, needed, "Correct its `path` in the recipe (or CORPUS=...).")
    return files


def _walk(top: Path, folder: Path, above: tuple[Path, ...] = ()) -> Iterator[File]:
    """Files below `folder`, also through links within `top`, without following cycles. A corpus is not trusted: a
    link out of it could lead to any file that the user can read."""
    above = (*above, folder.resolve())
    for path in folder.iterdir():
        name = path.relative_to(top).as_posix()
        if path.name.startswith("."):
            continue
        refused = ""
        try:
            if path.is_symlink() and leads_outside(path, top):
                refused = f"a link that leads out of the folder, to {path.resolve()}: not followed"
        except (OSError, RuntimeError):  # a link to itself
            refused = "no file, but a link that leads nowhere"
        if not (refused or path.is_file() or path.is_dir()):
            refused = "no file, but a pipe, a device, or a link that leads nowhere"
        if refused or path.is_file():
            yield File(name, path, refused=refused)
        elif path.resolve() not in above:
            yield from _walk(top, path, above)


def _binary(head: bytes) -> str:
    """The reader of a file that is no text, by its first bytes; "" of one that may be text."""
    found = next((name for magic, name in BINARY.items() if head.startswith(magic)), "")
    return found or ("pdf" if pdf.begins(head) else "excel" if excel.is_workbook(head) else "")


def detect(head: bytes, origin: str, name: str, general: bool) -> str | Unread:
    """The name of the reader for a file that begins so, or an `Unread` of `origin`."""
    if binary := _binary(head):
        return binary
    text = opening.head_of(head)
    if text is None:
        if pdf.MAGIC in head[: pdf.MAGIC_BYTES]:  # behind some other bytes
            return "pdf"
        return Unread(origin, opening.NOT_THIS_FORMAT, "binary data")
    if not text:
        return Unread(origin, UNREADABLE_FILE, "the file is empty")
    found = next((reader for reader, module in READERS.items() if module.recognise(text)), None)
    if found is None and name.lower().endswith(PLAIN_TEXT_NAMES):
        found = "text"
    if general and found in PLAIN:
        found = "text"
    if found is None or (found == "text" and not general):
        kind = "XML of another kind" if text[0] == "<" else "JSON of another kind" if text[0] in "[{" else "plain text"
        if re.match(r"(?i)<!doctype html|<html", text):
            kind = "an HTML page"
        return Unread(origin, opening.NOT_THIS_FORMAT, f"{kind}, begins {' '.join(text[:60].split())!r}")
    return found


@dataclass(frozen=True)
class Found:
    """What was found of the files read: the names of their readers, by file its encodings beside UTF-8, and which were
    read from print."""

    formats: set[str] = field(default_factory=set)
    encodings: dict[str, set[str]] = field(default_factory=dict)
    printed: set[str] = field(default_factory=set)


def read(
    source: Source, file: File, general: bool, found: Found | None = None, languages: tuple[str, ...] = ()
) -> Iterator[Document | Unread]:
    """The records of one file, or of all files in an archive. What nothing can be read from is one `Unread`.

    With `general` the source is general text, where any plain text is accepted; papers are never plain text. Of an
    article with translations the one in `languages` is read.
    """
    return _records_of(source, file, general, found or Found(), languages)


def _records_of(
    source: Source, file: File, general: bool, found: Found, languages: tuple[str, ...]
) -> Iterator[Document | Unread]:
    if file.refused:
        yield Unread(f"{file.name}#0", UNREADABLE_FILE, file.refused)
        return
    try:
        for opened in open_files(file.path, file.name, file.start, file.end):
            if isinstance(opened, Unread):
                yield opened
            else:
                yield from _read_opened(source, opened, general, found, languages)
    except OSError as error:  # a file without permission, or gone
        yield Unread(f"{file.name}#0", UNREADABLE_FILE, f"{type(error).__name__}: {error}")


def unreadable(source: Source, general: bool) -> list[Unread]:
    """Why nothing of a source can be read; empty where its first LOOK_RECORDS records have a document, or say nothing
    of the others."""
    found: list[Unread] = []
    for file in files_of(source):
        for record in _records_of(source, file, general, Found(), ()):
            found.append(record)
            if isinstance(record, Document) or len(found) == LOOK_RECORDS:
                return []
    return found


def _read_opened(
    source: Source, opened: Opened, general: bool, found: Found, languages: tuple[str, ...]
) -> Iterator[Document | Unread]:
    """The records of a file, and why it ends where it cannot be read on."""
    try:
        yield from _records_in(source, opened, general, found, languages)
    except RunError:  # not the file's fault
        raise
    except ERRORS as error:  # a broken or bombed stream: what came before it stays
        yield Unread(f"{opened.name}#0", UNREADABLE_FILE, f"{type(error).__name__}: {error}")


def _records_in(
    source: Source, opened: Opened, general: bool, found: Found, languages: tuple[str, ...]
) -> Iterator[Document | Unread]:
    whole = f"{opened.name}#0"  # the origin that stands for the file itself
    reader = detect(opened.head, whole, opened.name, general)
    is_text = not _binary(opened.head) and bool(opening.head_of(opened.head))
    if source.format != "auto" and is_text:
        reader = source.format
    if isinstance(reader, Unread):
        yield reader
        return
    found.formats.add(reader)
    if reader == "pdf":
        found.printed.add(opened.name)
    if opening.declares_entities(opened.head):
        message = "the file declares entities (<!ENTITY ...>): none is resolved, &name; stays text"
        yield Unread(whole, opening.ENTITIES_REFUSED, message)
    records = _records(reader, source, opened, found.encodings.setdefault(opened.name, set()), languages)
    yield next(records, Unread(whole, UNREADABLE_FILE, f"read as {reader}, but no record is in it"))
    yield from records


def _records(
    found: str, source: Source, opened: Opened, encodings: set[str], languages: tuple[str, ...]
) -> Iterator[Document | Unread]:
    if found == "pdf":
        stream = UpToFault(opened.stream)
        yield from pdf.read(stream, source.name, opened.name)
        stream.require_whole()
        return
    if binary := _binary(opened.head):
        with seekable(opened) as file:
            if binary == "docx":
                yield docx.read(file, Place(source.name, f"{opened.name}#1", languages))
            elif binary == "excel":
                yield from excel.read(file, source.fields, source.name, opened.name)
            else:
                yield from fields.read_parquet(file, source.fields, source.name, opened.name)
        return
    stream = opening.open_text(opened.stream, opened.head, encodings)
    if found == "fields":
        yield from fields.read(stream, source.fields, source.name, opened.name)
    elif found == "latex":
        yield from latex.read(stream, source.name, opened.name, cache(partial(_sibling_text, opened)))
    else:
        reader = READERS[found]
        yield from read_each(reader.records(stream), source.name, opened.name, reader.document, languages)
    opening.require_whole(stream)


def _sibling_text(opened: Opened, relative: str) -> str | None:
    content = opened.sibling(relative)
    return None if content is None else decoded(content, stated_encoding(opened.head))


def sha256_source(source: Source) -> str:
    """One hash over the names, sizes and contents of all files of a source."""
    digest = hashlib.sha256()
    for file in files_of(source):
        content = file.refused or f"{file.path.stat().st_size}\0{sha256_file(file.path)}"
        digest.update(f"{file.name}\0{content}\n".encode(errors="replace"))
    return digest.hexdigest()


def bytes_of(source: Source) -> int:
    """Approximate bytes of text in a source."""
    return sum(file.num_bytes for file in files_of(source))
