"""Where papers come from: a dict from format to reader, and the detection of a file's format by its content.

A reader is a module of two functions. `recognise(head)` says whether a file that begins so is its own; `head` is not
empty and begins with no white space. `read(stream, source, file)` is a generator over one file's text that yields a
`Document` for each record it can read and an `Unread` for each it cannot; it never raises for what a file holds.
"""

import difflib
import hashlib
import re
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from nsllm_lite import recipe, run
from nsllm_lite.corpus.files.opening import NOT_THIS_FORMAT, UNREADABLE_FILE, Unread, head_of, open_text
from nsllm_lite.corpus.sources import arxiv, jats, pubmed, sample, text
from nsllm_lite.document import Document

# In the order in which they are asked whether a file is theirs: the narrow before the wide.
READERS: dict[str, ModuleType] = {"sample": sample, "arxiv": arxiv, "pubmed": pubmed, "jats": jats, "text": text}
PLAIN_TEXT_NAMES = (".txt", ".text", ".txt.gz", ".tokens")
BUNDLED = {"bundled:papers": "papers", "bundled:general": "general.jsonl"}


class File(NamedTuple):
    name: str  # relative to the source's folder, with forward slashes: the same on every machine
    path: Path


def files_of(source: recipe.Source) -> list[File]:
    """The files of a source in sorted order; hidden files and folders are passed over.

    Raises:
        ValueError: the path does not exist, or is a folder without files.
    """
    if source.path in BUNDLED:
        path = Path(str(resources.files("nsllm_lite") / "sample" / BUNDLED[source.path]))
    else:
        path = Path(source.path).expanduser()
    if path.is_file():
        return [File(path.name, path)]
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ValueError(
            f"Source {source.name!r}: nothing exists at {source.path}. A source needs a file or a folder, or one of "
            f"{', '.join(BUNDLED)}. Correct its `path` in the recipe (or CORPUS=...).{hint}"
        )
    files = sorted(_walk(path, path))
    if not files:
        raise ValueError(
            f"Source {source.name!r}: the folder {source.path} holds no files. A source needs files of papers; "
            "correct its `path` in the recipe (or CORPUS=...)."
        )
    return files


def _walk(top: Path, folder: Path, above: tuple[Path, ...] = ()) -> Iterator[File]:
    """Files below `folder`, through links to folders too, but never round in a circle."""
    above = (*above, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield File(path.relative_to(top).as_posix(), path)
        elif path.is_dir() and path.resolve() not in above:
            yield from _walk(top, path, above)


def detect(path: Path, origin: str, general: bool) -> str | Unread:
    """The name of the reader for this file, or why there is none, said of `origin`."""
    head = head_of(path)
    if head is None:
        return Unread(origin, NOT_THIS_FORMAT, "binary data")
    if not head:
        return Unread(origin, UNREADABLE_FILE, "the file is empty")
    found = next((name for name, reader in READERS.items() if reader.recognise(head)), None)
    if found is None and path.name.lower().endswith(PLAIN_TEXT_NAMES):
        found = "text"
    if found is None or (found == "text" and not general):
        kind = "XML of another kind" if head[0] == "<" else "JSON of another kind" if head[0] in "[{" else "plain text"
        if re.match(r"(?i)<!doctype html|<html", head):
            kind = "an HTML page"
        return Unread(origin, NOT_THIS_FORMAT, f"{kind}, begins {' '.join(head[:60].split())!r}")
    return found


def read(source: recipe.Source, file: File, general: bool) -> Iterator[Document | Unread]:
    """The records of one file. A file nothing can be read from yields one `Unread` that says why.

    `general` says that the source is general text, where any plain text is welcome; papers are never plain text.
    """
    whole = f"{file.name}#0"  # the origin that stands for the file itself
    try:
        detected = detect(file.path, whole, general)
        if isinstance(detected, Unread):
            yield detected
            return
        if source.format not in ("auto", detected):
            yield Unread(whole, NOT_THIS_FORMAT, f"looks like {detected}, the recipe says {source.format}")
            return
        empty = True
        with open_text(file.path) as stream:
            for record in READERS[detected].read(stream, source.name, file.name):
                empty = False
                yield record
        if empty:
            yield Unread(whole, UNREADABLE_FILE, f"looks like {detected}, but no record is in it")
    except (OSError, EOFError, zlib.error) as error:  # a broken gzip stream, a file without permission
        yield Unread(whole, UNREADABLE_FILE, f"{type(error).__name__}: {error}")


def sha256_source(source: recipe.Source) -> str:
    """One hash over the names, sizes and contents of all files of a source."""
    digest = hashlib.sha256()
    for file in files_of(source):
        digest.update(
            f"{file.name}\0{file.path.stat().st_size}\0{run.sha256_file(file.path)}\n".encode(errors="replace")
        )
    return digest.hexdigest()


def bytes_of(source: recipe.Source) -> int:
    """Bytes of text behind a source, gzip taken as four to one."""
    return sum(f.path.stat().st_size * (4 if f.name.endswith(".gz") else 1) for f in files_of(source))
