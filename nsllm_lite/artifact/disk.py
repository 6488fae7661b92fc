"""Files and folders that are whole or absent, and the room for them."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsllm_lite.errors import WRITE_ELSEWHERE, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GIB = 2**30


def nearest_folder(path: Path) -> Path:
    """The nearest to `path` that exists. Raises UserError where it is a file."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise UserError(
            "out-below-file", f"{existing} is a file, not a folder.", f"Name another place: {WRITE_ELSEWHERE}."
        )
    return existing


def require_writable(path: Path) -> Path:
    """The nearest folder to `path` that exists, in which it can be made. Raises UserError where it cannot."""
    existing = nearest_folder(path)
    if not os.access(existing, os.W_OK | os.X_OK):
        found = f"{existing} cannot be written to (its permissions, or a read-only disk)."
        raise UserError("out-not-writable", found, f"Change its permissions, or {WRITE_ELSEWHERE}.")
    return existing


def require_disk(path: Path, need_bytes: int, what: str) -> None:
    """Raises UserError when `path` cannot be written to, or its file system has fewer than `need_bytes` free."""
    existing = require_writable(path)
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < need_bytes:
        need_gib, free_gib = need_bytes / GIB, free_bytes / GIB
        found = f"Not enough disk for {what}: {need_gib:.1f} GiB needed at {path}, {free_gib:.1f} GiB free."
        raise UserError("disk-too-small", found, f"Free some space, or {WRITE_ELSEWHERE}.")


def is_disk_full(error: Exception) -> bool:
    """Of any library's error; those of Rust (safetensors, tokenizers) and NumPy say it in words only."""
    full = (errno.ENOSPC, errno.EDQUOT)
    words = [f"os error {number}" for number in full] + [os.strerror(number) for number in full]
    in_words = any(one in str(error) for one in words) or re.fullmatch(r"\d+ requested and \d+ written", str(error))
    return bool(in_words) or (isinstance(error, OSError) and error.errno in full)


def write_atomic(path: Path, text: str) -> None:
    """Writes `text` to a neighbour, then renames it: `path` is whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` to write to; it is renamed to `path` at the end, or deleted on an error."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_picture(figure: "Figure", png: Path, **options: Any) -> None:
    """Writes a PNG without version or date, so that the same picture gives the same bytes."""
    with whole_file(png) as part:
        figure.savefig(part, format="png", metadata={"Software": None}, **({"dpi": 120} | options))


def sync_folder(path: Path) -> None:
    """fsyncs a folder, so that renames within it survive a crash."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_folder(part: Path, final: Path) -> None:
    """Renames the folder `part` to `final`; an older `final` is renamed before it is deleted."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)
