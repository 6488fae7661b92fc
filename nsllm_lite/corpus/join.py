"""Papers in two files of one source: Semantic Scholar's `papers` and `abstracts`, S2ORC's `metadata` and `pdf_parses`.

`divide` writes the records of each such file to shares by a hash of their key, on disk, so that the two halves of a
paper are in the same share. `read` holds one share in memory, and joins its halves. A half whose other half is in no
file is read as it is. Of a pair the ledger has one line, under the place of the first half.

    work/joined/NNNNN.bin    packed runs of lines [half, place, record], each of one share
    work/joined/NNNNN.npy    share, begin and length in bytes of each run
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.artifact import integrity
from nsllm_lite.corpus import sources
from nsllm_lite.corpus.files import opening
from nsllm_lite.corpus.files.archives import open_files
from nsllm_lite.corpus.files.opening import UNREADABLE_FILE, Place, Unread
from nsllm_lite.corpus.files.streams import ERRORS
from nsllm_lite.corpus.sources import File, Found, s2ag, s2orc
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Source

FOLDER = "joined"  # below `work`
MAX_SHARES = 1024
BUFFER_BYTES = 1 << 26  # of lines in memory while a file is divided
READERS: dict[str, ModuleType] = {"s2ag": s2ag, "s2orc": s2orc}


class JoinTask(NamedTuple):
    """One file of halves."""

    number: int
    source: Source
    file: File
    num_shares: int


class Share(NamedTuple):
    """A share of the files of one source, by the numbers of their tasks."""

    number: int
    tasks: tuple[int, ...]


def halves_of(source: Source) -> list[File]:
    """The files of a source that hold halves of papers, where it has both kinds of halves."""
    if source.format not in ("auto", *READERS):
        return []
    files = sources.files_of(source)
    if len(files) < 2:
        return []
    kinds = {file: _kind(file, file.path.stat().st_mtime_ns) for file in files if not file.refused}
    found = {kind for kind in kinds.values() if kind}
    return [file for file, kind in kinds.items() if kind and {(kind[0], 0), (kind[0], 1)} <= found]


@lru_cache(maxsize=1 << 20)  # asked several times in a build
def _kind(file: File, changed: int) -> tuple[str, int] | None:
    """(its reader, which half) of a file of halves; None of another, also of an archive. `changed` is its time."""
    try:
        opened = next(open_files(file.path, file.name), None)
    except OSError:
        return None
    if opened is None or isinstance(opened, Unread) or opened.name != file.name:
        return None
    if opened.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):  # most files, and sooner seen
        return None
    head = opening.head_of(opened.head) or ""
    found = ((name, reader.half_of(head)) for name, reader in READERS.items())
    return next(((name, half) for name, half in found if half is not None), None)


def divide(folder: Path, task: JoinTask) -> dict:
    """Writes the shares of one file; returns its reader, encodings and the hashes of what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = _kind(task.file, task.file.path.stat().st_mtime_ns)
    assert kind, f"{task.file.path} has changed during the build"
    name, half = kind
    made = [folder / f"{task.number:05d}{ending}" for ending in (".bin", ".npy")]
    found = Found(set(), {})
    index: list[tuple[int, int, int]] = []
    lines: list[tuple[int, bytes]] = []
    held = 0
    with open(made[0], "wb") as file:
        for key, line in _lines(task.file, name, half, found):
            lines.append((zlib.crc32(key.encode("utf-8", "replace")) % task.num_shares, line))
            held += len(line)
            if held > BUFFER_BYTES:
                index += _write(file, lines)
                lines, held = [], 0
        index += _write(file, lines)
    np.save(made[1], np.array(index, np.int64).reshape(-1, 3))
    encodings = {name: sorted(used) for name, used in found.encodings.items() if used}
    (folder / f"{task.number:05d}.json").write_text(json.dumps({"reader": name, "encodings": encodings}))
    made.append(folder / f"{task.number:05d}.json")
    return {"files": integrity.describe_all(folder.parent, made)}


def _lines(file: File, reader: str, half: int, found: Found) -> Iterator[tuple[str, bytes]]:
    """(key, line) of each record of a file; what cannot be read is a line with its message."""
    for opened in open_files(file.path, file.name):
        if isinstance(opened, Unread):
            yield opened.origin, _line(-1, opened.origin, opened.message)
            continue
        number = 0
        try:
            stream = opening.open_text(opened.stream, opened.head, found.encodings.setdefault(opened.name, set()))
            for number, record in enumerate(READERS[reader].records(stream), start=1):
                origin = f"{opened.name}#{number}"
                if isinstance(record, str):
                    yield origin, _line(-1, origin, record)
                else:
                    key = str(record.get(READERS[reader].KEY) or "")
                    yield key or origin, _line(half, origin, record)
            opening.require_whole(stream)
        except ERRORS as error:
            yield opened.name, _line(-1, f"{opened.name}#0", f"{type(error).__name__}: {error}")


def _line(half: int, origin: str, record: dict | str) -> bytes:
    return json.dumps([half, origin, record]).encode() + b"\n"


def _write(file: Any, lines: list[tuple[int, bytes]]) -> list[tuple[int, int, int]]:
    """Appends the lines of each share as one run; returns where each stands."""
    index = []
    shares: dict[int, list[bytes]] = {}
    for share, line in lines:
        shares.setdefault(share, []).append(line)
    for share in sorted(shares):
        packed = zlib.compress(b"".join(shares[share]), 1)
        index.append((share, file.tell(), len(packed)))
        file.write(packed)
    return index


def read(
    folder: Path, source: Source, share: Share, found: Found, languages: Sequence[str]
) -> Iterator[Document | Unread]:
    """The documents of one share: pairs, and halves that stay alone."""
    papers: dict[tuple[str, str], tuple[list, list]] = {}
    for number in share.tasks:
        told = json.loads((folder / f"{number:05d}.json").read_text())
        found.formats.add(told["reader"])
        found.encodings.update({name: set(used) for name, used in told["encodings"].items()})
        for half, origin, record in _held(folder, number, share.number):
            if half < 0:
                reason = UNREADABLE_FILE if origin.endswith("#0") else opening.UNREADABLE
                yield Unread(origin, reason, record)
                continue
            key = str(record.get(READERS[told["reader"]].KEY) or "")
            papers.setdefault((told["reader"], key or origin), ([], []))[half].append((origin, record))
    for (name, _), halves in papers.items():
        for origin, record in _pairs(READERS[name], *halves):
            yield READERS[name].document(record, Place(source.name, origin, tuple(languages)))


def _held(folder: Path, number: int, share: int) -> Iterator[tuple[int, str, Any]]:
    index = np.load(folder / f"{number:05d}.npy", mmap_mode="r")
    with open(folder / f"{number:05d}.bin", "rb") as file:
        for _, begin, length in index[index[:, 0] == share].tolist():
            file.seek(begin)
            for line in zlib.decompress(file.read(length)).splitlines():
                yield json.loads(line)


def _pairs(reader: ModuleType, first: list, second: list) -> Iterator[tuple[str, dict]]:
    """(place, record) of each paper. A half that is listed again is a paper again, with what there is of the other."""
    for number in range(max(len(first), len(second))):
        one, other = (halves[min(number, len(halves) - 1)] if halves else None for halves in (first, second))
        origin = (one if number < len(first) else other)[0]
        if one and other:
            yield origin, reader.joined(one[1], other[1])
        else:
            yield origin, (one or other)[1]
