"""Files that are still what was written: their lengths and SHA-256 stand in `files.json` beside them.

A folder that goes from one verb to the next (rows, documents, a tokenizer, an adapter, a model) carries it, also where
it is copied or fetched from a hub. A folder made by others has none, and only its formats can be checked.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_lite.artifact.json_files import read_json, write_sealed
from nsllm_lite.errors import UserError
from nsllm_lite.terminal import progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = "files.json"
BESIDE_WEIGHTS = ("config.json", "model.safetensors.index.json", "tokenizer.json", "vocab.json", "merges.txt")
"""Of a model's directory, what decides its numbers; a generation config or a chat template may be changed by hand."""
SHOWN_BYTES = 2**30  # a check of more than this gets a progress bar
READERS = 4  # files at a time; SHA-256 is 1.5 to 2 GiB/s on one core

Entry = dict[str, int | str]
_SEEN: dict[Path, tuple[tuple[int, int, int], Entry]] = {}  # what this process has read in full, with its `_state`


def describe(path: Path) -> Entry:
    """{"bytes": its length, "sha256": of all of it}"""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def record(folder: Path, names: Iterable[str], known: Mapping[str, Entry] | None = None) -> None:
    """Writes down files as they now are, those that exist, and `known` ones as they were described when written."""
    found = {name: describe(folder / name) for name in sorted(names) if (folder / name).is_file()}
    write_sealed(folder / FILES, {"files": found | dict(known or {})})


def describe_all(root: Path, paths: Iterable[Path]) -> dict[str, Entry]:
    """{path as seen from `root`: its description}"""
    return {os.path.relpath(path, root): describe(path) for path in paths}


def entries(folder: Path) -> dict[str, Entry]:
    """What is written down of the files in `folder`; {} where nothing is."""
    path = folder / FILES
    return read_json(path)["files"] if path.is_file() else {}


def require_lengths(folder: Path) -> dict[str, Entry]:
    """The cheap part of `require_intact`; returns `entries`."""
    known = entries(folder)
    if found := fault_in_lengths(folder, known):
        raise _changed(found, folder)
    return known


def require_intact(folder: Path, names: Iterable[str] | None = None) -> None:
    """Every file in `folder` that is written down, or those of `names`, is still what was written.

    Files are read in full, once a process as long as they stay as they are.

    Raises:
        UserError: naming the first that is not.
    """
    wanted = None if names is None else set(names)
    known = {name: entry for name, entry in entries(folder).items() if wanted is None or name in wanted}
    if found := fault_in_lengths(folder, known) or fault_in_bytes(folder, known):
        raise _changed(found, folder)


def require_same(folder: Path, name: str, sha256: str) -> None:
    """`require_intact` for a file that the caller has hashed."""
    known = entries(folder)
    if name in known and known[name]["sha256"] != sha256:
        raise _changed(_damaged(folder / name), folder)


def fault_in_lengths(folder: Path, known: Mapping[str, Entry]) -> str:
    """The first file that is absent or of another length, in words; empty where there is none."""
    for name, entry in known.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "it is not there" if size is None else f"{size:,} bytes, where {entry['bytes']:,} were written"
            return f"{path} is damaged: {found}"
    return ""


def fault_in_bytes(folder: Path, known: Mapping[str, Entry]) -> str:
    """The first file whose SHA-256 is another, in words; empty where there is none."""
    total = sum(int(entry["bytes"]) for entry in known.values())
    hidden = total < SHOWN_BYTES
    with (
        ThreadPoolExecutor(READERS) as pool,
        progress(total, 0, f"checking {folder}", "B", unit_scale=True, leave=False, disable=hidden) as bar,
    ):
        for (name, entry), found in zip(known.items(), pool.map(_once, map(folder.joinpath, known)), strict=True):
            if found["sha256"] != entry["sha256"]:
                return _damaged(folder / name)
            bar.update(int(entry["bytes"]))
    return ""


def read_tokenizer(folder: Path) -> "Tokenizer":
    """`folder/tokenizer.json`.

    Raises:
        UserError: it is not what was written, or no tokenizer at all.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    require_intact(folder, [path.name])
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        found = f"{path} is no tokenizer, or is damaged ({error})."
        raise UserError("tokenizer-damaged", found, "Fetch or copy it again.") from None


def remember(path: Path, entry: Entry) -> None:
    """`path` has been read in full by other means."""
    _SEEN[path.resolve()] = _state(path), entry


def recall(path: Path) -> Entry | None:
    state, entry = _SEEN.get(path.resolve(), (None, None))
    return entry if state == _state(path) else None


def _once(path: Path) -> Entry:
    if (entry := recall(path)) is None:
        remember(path, entry := describe(path))
    return entry


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_ctime_ns


def _damaged(path: Path) -> str:
    return f"{path} is damaged: its bytes are not those that were written"


def _changed(found: str, folder: Path) -> UserError:
    return UserError(
        "file-changed",
        f"{found}.",
        "Copy it again from where it is whole, or delete its folder and run the command that made it. If it was "
        f"changed on purpose, delete {folder / FILES}.",
    )


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
