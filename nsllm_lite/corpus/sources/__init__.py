"""Where papers come from: a dict from format to reader, and the detection of a file's format by its content.

A reader is `read(stream, source, file)`, a generator over one file's text that yields a `Document` for each record it
can read and an `Unread` for each it cannot. It never raises for what a file holds.
"""

import difflib
import hashlib
import zlib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TextIO

from nsllm_lite import recipe, run
from nsllm_lite.corpus.sources import arxiv, jats, pubmed, sample, text
from nsllm_lite.corpus.sources.opening import NOT_THIS_FORMAT, UNREADABLE_FILE, Unread, detect, open_text
from nsllm_lite.document import Document

Reader = Callable[[TextIO, str, str], Iterator[Document | Unread]]
READERS: dict[str, Reader] = {
    "arxiv": arxiv.read,
    "pubmed": pubmed.read,
    "jats": jats.read,
    "sample": sample.read,
    "text": text.read,
}
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
            for record in READERS[detected](stream, source.name, file.name):
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
