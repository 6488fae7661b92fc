"""Packed files and archives (.gz, .bz2, .xz, .zst, .tar, .zip), also nested, read in place without writing to disk.

The kind is detected from the first bytes. A member's name is only a label, so it cannot lead outside; one that tries
("../x", "/x", a link) is refused with a line in the ledger. The bytes that one file unpacks to are bounded. A workbook
(.xlsx) and a Word document (.docx) are zips too, but one file here.
"""

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from nsllm_lite.corpus.files import workbooks
from nsllm_lite.corpus.files.opening import HEAD_BYTES, UNREADABLE_FILE, Unread
from nsllm_lite.corpus.files.streams import ERRORS, Budget, TooLargeError, UpToFault

MAX_DEPTH = 6
MAX_LIST_BYTES = 1 << 25  # of a zip, held in memory at 15 times that; its smallest entry takes 46
MAX_HEADER_BYTES = 1 << 14  # of a tar: long names and the like; forged ones take time and memory
MAX_TEX_BYTES = 1 << 25  # the LaTeX files of one archive are held together, since they input each other
IN_MEMORY_BYTES = 1 << 24
PIECE_BYTES = 1 << 14  # unpacked at once: what a fault of zstd costs beside itself
TEX_NAMES = (".tex", ".ltx", ".latex")
TEX_PARTS = (".bbl", ".sty", ".cls", ".def")  # that LaTeX files of the same archive may input; not papers themselves
NAMES_OF_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".tar", ".zip")

WORD = b"PK\x03\x04\0word"  # stands for the first bytes of a Word document, which are those of any zip
UNPACKED_IN_PIECES = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks others without a bound
ZIP_HEADER_BYTES = 30  # before the name of a zip's first file
CONTENT_TYPES = "[Content_Types].xml"
OFFICE_NAMES = (CONTENT_TYPES.encode(), b"word/", b"_rels/", b"docProps/", b"customXml/", b"mimetype")

Sibling = Callable[[str], bytes | None]


class Opened(NamedTuple):
    """A file as a stream at its beginning, not always seekable; `sibling` reads another file of its folder."""

    name: str
    head: bytes
    stream: BinaryIO
    sibling: Sibling


class DiskFullError(Exception):
    """No room for a temporary copy: a fault of the run, not of the file, so it is none of ERRORS."""


class _Counted(io.RawIOBase):
    """A stream that spends a budget and ends after `left` bytes; `head` was read from it before. Once it has failed it
    fails again, where a decompressor would go on with what stands behind."""

    def __init__(self, stream: BinaryIO, head: bytes, budget: Budget | None, left: int | None):
        self._stream, self._head, self._budget, self._left = stream, head, budget, left
        self._fault: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if self._head:
            data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        else:
            data = self._piece(min(len(buffer), PIECE_BYTES))
        buffer[: len(data)] = data
        return len(data)

    def _piece(self, num_bytes: int) -> bytes:
        if self._fault:
            raise self._fault
        try:
            data = self._stream.read1(num_bytes if self._left is None else min(num_bytes, self._left))
            if self._left is not None:
                self._left -= len(data)
            if self._budget:
                self._budget.spend(len(data))
        except ERRORS as error:
            self._fault = error
            raise
        return data


def _counted(
    stream: BinaryIO, head: bytes = b"", budget: Budget | None = None, left: int | None = None
) -> io.BufferedReader:
    return io.BufferedReader(_Counted(stream, head, budget, left), 1 << 17)


def open_files(path: Path, name: str, start: int = 0, end: int | None = None) -> Iterator[Opened | Unread]:
    """The file at `path` if it is a plain one, else all files in it; an `Unread` for each that cannot be opened.

    With `end`, a stretch of a plain file.
    """
    folder = path.parent

    def sibling(relative: str) -> bytes | None:
        """A file below the file's own folder that is not hidden, if it is small enough to be a part of a paper."""
        try:
            found = (folder / relative).resolve()
            hidden = any(part.startswith(".") for part in PurePosixPath(relative).parts if part != "..")
            inside = found.is_relative_to(folder.resolve()) and found.is_file() and not hidden
            return found.read_bytes() if inside and found.stat().st_size <= MAX_TEX_BYTES else None
        except (OSError, ValueError):
            return None

    with open(path, "rb") as file:
        file.seek(start)
        stream = file if end is None else _counted(file, left=end - start)
        yield from _open(stream, name, sibling, Budget(path.stat().st_size), 0)


def _open(stream: BinaryIO, name: str, sibling: Sibling, budget: Budget, depth: int) -> Iterator[Opened | Unread]:
    """Never raises because of a file's content: a fault is one `Unread`, after what was read before it."""
    try:
        begun = UpToFault(stream)
        head = begun.read(HEAD_BYTES)
        if not head:
            begun.require_whole()
        unpack = next((unpack for magic, unpack in _UNPACK.items() if head.startswith(magic)), None)
        members_of = _zip_members if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) else None
        if not unpack and not members_of and _is_tar(head):
            members_of = _tar_members
        if (unpack or members_of) and depth == MAX_DEPTH:
            yield Unread(f"{name}#0", UNREADABLE_FILE, f"archives in archives, {MAX_DEPTH} deep: refused")
            return
        with _whole(stream, head, seekable=members_of is _zip_members) as whole:
            if members_of is _zip_members and _is_workbook(whole, head):
                yield Opened(name, head, whole, sibling)
            elif members_of is _zip_members and _is_word(whole, head):
                yield Opened(name, WORD, whole, sibling)
            elif unpack:
                packed = UpToFault(whole)
                yield from _open(_counted(unpack(packed), budget=budget), name, sibling, budget, depth + 1)
                packed.require_whole()
            elif members_of:
                files = _open_members(members_of(whole), name, budget, depth)
                yield next(files, Unread(f"{name}#0", UNREADABLE_FILE, "the archive lists no file to read"))
                yield from files
            else:
                yield Opened(name, head, whole, sibling)
    except ERRORS as error:
        yield Unread(f"{name}#0", UNREADABLE_FILE, f"{type(error).__name__}: {error}")


# By a packed file's first bytes: .gz, .bz2, .xz, .zst.
_UNPACK: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"),
}


def _is_tar(head: bytes) -> bool:
    """One older than `ustar` is known by the checksum of its first block (its own field read as blanks)."""
    block = head[:512]
    if len(block) < 512 or block[257:262] == b"ustar":
        return len(block) == 512
    try:
        stated = int(block[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(block) - sum(block[148:156]) + 8 * 32


@contextmanager
def _whole(stream: BinaryIO, head: bytes, seekable: bool) -> Iterator[BinaryIO]:
    """The stream from its beginning again; copied to a temporary file where it must be seekable and is not."""
    if stream.seekable():
        stream.seek(0)
        yield stream
    elif not seekable:
        yield _counted(stream, head)
    else:
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as copy:
            rest = UpToFault(stream)
            for chunk in chain([head], iter(partial(rest.read, 1 << 20), b"")):
                try:
                    copy.write(chunk)
                except OSError as error:
                    found = f"no temporary copy of an archive in {tempfile.gettempdir()}: {error}"
                    raise DiskFullError(found) from None
            copy.seek(0)
            yield copy
            rest.require_whole()


def seekable(opened: Opened) -> AbstractContextManager[BinaryIO]:
    """The opened file as a seekable one, as Parquet needs."""
    return _whole(opened.stream, b"", seekable=True)


class _Member(NamedTuple):
    name: str
    refused: str  # why it is not opened; empty where it is
    open: Callable[[], BinaryIO]


class _TarInfo(tarfile.TarInfo):
    """An impossible header is an error, where tarfile would take it for the archive's end, or loop."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            info = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(f"a damaged header ({error}), nothing is read from here on") from None
        about_next = info.type in (*tarfile.GNU_TYPES, *_PAX_TYPES) and info.type != tarfile.GNUTYPE_SPARSE
        if info.size < 0 or (about_next and info.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header states {info.size:,} bytes, nothing is read from here on")
        return info


_PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _Ending:
    """A stream that raises at its end: tarfile skips a member of the stated size even if it is incomplete."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._left = UpToFault(stream), 8
        self.require_whole = self._stream.require_whole

    def read(self, num_bytes: int) -> bytes:
        data = self._stream.read(num_bytes)
        self._left -= not data
        if not self._left:
            self.require_whole()
            raise tarfile.ReadError("the archive is cut short, or a header states more bytes than there are")
        return data


def _tar_members(file: BinaryIO) -> Iterator[_Member]:
    """The members; behind blocks of zeros, which end an archive, those of one that was joined to it."""
    stream = _Ending(file)
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo, ignore_zeros=True) as archive:
        while member := archive.next():
            archive.members.clear()  # which would be all of a large archive's in the end
            if member.isdir():
                continue
            refused = "" if member.isreg() else "a link or a device in the archive, not followed"
            yield _Member(member.name, refused, lambda m=member: archive.extractfile(m))
    stream.require_whole()


def _is_workbook(file: BinaryIO, head: bytes) -> bool:
    """A zip that is one file to its user. Most zips show by their beginning that they are none."""
    if workbooks.OPEN_DOCUMENT in head or b"xl/" not in head:
        return workbooks.OPEN_DOCUMENT in head
    with _zip(file) as archive:
        return not workbooks.MEMBERS.isdisjoint(archive.namelist())


def _zip(file: BinaryIO) -> zipfile.ZipFile:
    end = zipfile._EndRecData(file)
    size = end[zipfile._ECD_SIZE] if end else 0
    if size > MAX_LIST_BYTES:
        raise zipfile.BadZipFile(f"its list of files takes {size:,} bytes, over {MAX_LIST_BYTES:,}: unpack it yourself")
    return zipfile.ZipFile(file)


def _is_word(file: BinaryIO, head: bytes) -> bool:
    """Whether a zip is one document of Word; only one that begins as Office's files do is looked into."""
    if not head[ZIP_HEADER_BYTES:].startswith(OFFICE_NAMES):
        return False
    with _zip(file) as archive:
        names = archive.namelist()
    return CONTENT_TYPES in names and any(name.startswith("word/") for name in names)


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with _zip(file) as archive:
        for member in archive.infolist():
            if member.filename.endswith("/"):
                continue
            yield _Member(member.filename, refusal(member), lambda m=member: archive.open(m))


def refusal(member: zipfile.ZipInfo) -> str:
    """Why a file of a zip is not opened; empty where it is."""
    if member.flag_bits & 1:
        return "encrypted"
    if member.compress_type in UNPACKED_IN_PIECES:
        return ""
    packed = zipfile.compressor_names.get(member.compress_type, f"method {member.compress_type}")
    return f"packed by {packed}, and only deflate is unpacked here: pack it anew"


def _open_members(members: Iterator[_Member], archive: str, budget: Budget, depth: int) -> Iterator[Opened | Unread]:
    """Each member in order; LaTeX files last, when all files that they may input are read. A member that cannot be
    opened costs itself alone, and an archive that ends early what stands behind.

    Raises:
        one of `streams.ERRORS`, behind all that was read: the archive's own fault.
    """
    while archive.lower().endswith(NAMES_OF_PACKED):  # "2301.00001.tar.gz" names the paper
        archive = archive.rpartition(".")[0]
    tex = _Latex(archive)
    fault: Exception | None = None
    try:
        for member in members:
            yield from _open_member(member, archive, tex, budget, depth)
    except ERRORS as error:
        fault = error
    yield from tex.opened()
    if fault:
        raise fault


def _open_member(member: _Member, archive: str, tex: "_Latex", budget: Budget, depth: int) -> Iterator[Opened | Unread]:
    """The files in a member; one of LaTeX is held for `tex` to open."""
    name = member.name.removeprefix("./")
    label = f"{archive}/{name}"
    path = PurePosixPath(name.replace("\\", "/"))
    if path.name.startswith(".") or "__MACOSX" in path.parts:
        return
    refused = member.refused
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
        refused = "its name leads outside the archive: refused"
    try:
        if refused:
            pass
        elif path.suffix.lower() in TEX_NAMES + TEX_PARTS:
            with member.open() as stream:
                content = stream.read(MAX_TEX_BYTES + 1)
            budget.spend(len(content))
            refused = tex.hold(path.as_posix(), content)
        else:
            with member.open() as stream:
                yield from _open(_counted(stream, budget=budget), label, lambda _: None, budget, depth + 1)
    except TooLargeError:
        raise
    except ERRORS as error:
        refused = f"{type(error).__name__}: {error}"
    if refused:
        yield Unread(f"{label}#0", UNREADABLE_FILE, refused)


class _Latex:
    """The LaTeX files of one archive."""

    def __init__(self, archive: str):
        self._archive, self._files, self._num_bytes = archive, {}, 0

    def hold(self, name: str, content: bytes) -> str:
        """Why the file is not held; empty where it is."""
        self._num_bytes += len(content)
        if self._num_bytes > MAX_TEX_BYTES:
            return f"over {MAX_TEX_BYTES:,} bytes of LaTeX in one archive"
        if name in self._files:
            return "a second file of this name in the archive"
        self._files[name] = content
        return ""

    def opened(self) -> Iterator[Opened]:
        """The files that may be papers, or all where none may."""
        has_tex = any(name.lower().endswith(TEX_NAMES) for name in self._files)
        for name, content in self._files.items():
            if not has_tex or name.lower().endswith(TEX_NAMES):
                sibling = partial(self._sibling, posixpath.dirname(name))
                yield Opened(f"{self._archive}/{name}", content[:HEAD_BYTES], io.BytesIO(content), sibling)

    def _sibling(self, folder: str, relative: str) -> bytes | None:
        return self._files.get(posixpath.normpath(posixpath.join(folder, relative)))
