"""Checksums of files that pass between steps: lengths and SHA-256, in `files.json` beside them.

A folder that goes from one verb to the next (rows, documents, a tokenizer, an adapter, a model) carries it, also where
it is copied or fetched from a hub. A folder made by other programs has none, and only its formats can be checked.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nsllm_lite.artifact.json_files import damaged, read_object, write_sealed
from nsllm_lite.errors import UserError
from nsllm_lite.terminal import progress

FILES = "files.json"
BESIDE_WEIGHTS = ("config.json", "model.safetensors.index.json", "tokenizer.json", "vocab.json", "merges.txt")
"""Of a model's directory, what decides its numbers; a generation config or a chat template may be changed by hand."""
SHOWN_BYTES = 2**30  # a check of more than this gets a progress bar
READERS = 4  # files at a time; SHA-256 is 1.5 to 2 GiB/s on one core

Entry = dict[str, int | str]
Reader = Callable[[Path], Entry]
_SEEN: dict[Path, tuple[tuple[int, int, int], Reader, Entry]] = {}  # what this process has read in full


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: Path) -> Entry:
    """{"bytes": its length, "sha256": of all of it}"""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def describe_all(root: Path, paths: Iterable[Path]) -> dict[str, Entry]:
    """{path as seen from `root`: its description}"""
    return {os.path.relpath(path, root): describe(path) for path in paths}


def record(folder: Path, names: Iterable[str], known: Mapping[str, Entry] | None = None) -> None:
    """Writes `files.json`: the files of `names` that exist, as they are now, and `known` ones as described earlier."""
    found = {name: describe(folder / name) for name in sorted(names) if (folder / name).is_file()}
    write_sealed(folder / FILES, {"files": found | dict(known or {})})


def verify(
    folder: Path,
    names: Iterable[str] | None = None,
    known: Mapping[str, Entry] | None = None,
    readers: Mapping[str, Reader] | None = None,
) -> dict[str, Entry]:
    """The files of `folder` that are in `known` (default: in its `files.json`) are still what was written.

    `names` limits the check to these. All lengths are compared before a file is read. Each file is read in full, once
    a process as long as it stays as it is; those of `readers` by that function, also where they are not known.

    Returns:
        {name: its description} of all that was read.

    Raises:
        UserError: naming the first that is absent or differs.
    """
    if known is None:
        known = _written(folder / FILES) if (folder / FILES).is_file() else {}
    if names is not None:
        wanted = set(names)
        known = {name: entry for name, entry in known.items() if name in wanted}
    for name, entry in known.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != entry["bytes"]:
            what = "it is absent" if size is None else f"{size:,} bytes, where {entry['bytes']:,} were written"
            raise _changed(folder, name, what)
    how = dict(readers or {})
    how |= {name: describe for name in known if name not in how}
    sizes = [(folder / name).stat().st_size for name in how]
    hidden = sum(sizes) < SHOWN_BYTES
    found: dict[str, Entry] = {}
    with (
        ThreadPoolExecutor(READERS) as pool,
        progress(sum(sizes), 0, f"checking {folder}", "B", unit_scale=True, leave=False, disable=hidden) as bar,
    ):
        reads = pool.map(_once, map(folder.joinpath, how), how.values())
        for name, size, entry in zip(how, sizes, reads, strict=True):
            if name in known and entry["sha256"] != known[name]["sha256"]:
                raise _changed(folder, name, "its bytes are not those that were written")
            found[name] = entry
            bar.update(size)
    return found


def _written(path: Path) -> dict[str, Entry]:
    """The files that a `files.json` names. Raises UserError where it is damaged, or names what is not in its folder."""
    known = read_object(path, files=dict)["files"]
    for name, entry in known.items():
        stated = entry if isinstance(entry, dict) else {}
        if not isinstance(stated.get("bytes"), int) or not isinstance(stated.get("sha256"), str):
            raise damaged(path, f"{name!r} has no length and SHA-256")
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise damaged(path, f"{name!r} is outside its folder")
    return known


def _once(path: Path, read: Reader) -> Entry:
    """What `read` gives, from before where the file was read in this way, or where a plain description will do."""
    place, status = path.resolve(), path.stat()
    state = status.st_ino, status.st_size, status.st_ctime_ns
    seen, how, entry = _SEEN.get(place, (None, None, {}))
    if seen != state or read not in (how, describe):
        entry = read(path)
        _SEEN[place] = state, read, entry
    return entry


def _changed(folder: Path, name: str, what: str) -> UserError:
    todo = "Copy it again from where it is whole, or delete its folder and run the command that made it. "
    todo += f"If it was changed on purpose, delete {folder / FILES}."
    return UserError("file-changed", f"{folder / name} is damaged: {what}.", todo)
