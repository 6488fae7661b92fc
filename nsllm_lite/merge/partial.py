"""The folder that a model is written to: `OUT.partial`, renamed when all is there, and gone on with after a kill."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsllm_lite.artifact.disk import sync_folder, write_atomic
from nsllm_lite.artifact.step import is_same
from nsllm_lite.errors import WRITE_ELSEWHERE, RunError, UserError
from nsllm_lite.merge.write import PROGRESS


def require_free(out: Path, inputs: tuple[Path, ...]) -> None:
    if any(out.is_relative_to(folder.absolute()) for folder in inputs):
        found = f"{out} lies in a folder that is read."
        raise UserError("merge-out-in-input", found, "Inputs are never written to:", "choose another out.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = f"{out} exists and was not made by a finished run of this command."
        todo = f"{WRITE_ELSEWHERE}, or remove it."
        raise UserError("merge-out-exists", found, "A new folder is written, and nothing overwritten:", todo)


def partial_of(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _goes_on(marker: Path, identity: dict) -> bool:
    """Whether a killed run of the same recipe on the same inputs, by the same version, left its marker."""
    try:
        before = json.loads(marker.read_text())
    except (OSError, ValueError):
        return False
    same_version = isinstance(before, dict) and before.get("version") == identity["version"]
    return same_version and is_same(before, identity["recipe"], identity["inputs"])


@contextmanager
def partial_folder(out: Path, identity: dict) -> Iterator[Path]:
    """`OUT.partial`, with what a killed run of the same inputs left in it; renamed to `out` at the end."""
    partial = partial_of(out)
    partial.mkdir(parents=True, exist_ok=True)
    marker = partial / "merging.json"
    if not _goes_on(marker, identity):
        left = [path for path in partial.iterdir() if path.name not in (marker.name, f"{marker.name}.part")]
        if left and not any((partial / name).is_file() for name in (marker.name, "manifest.json")):
            found = f"{partial} holds {left[0].name}, which this command has not written."
            raise UserError("merge-partial-in-use", found, f"Move that folder away, or {WRITE_ELSEWHERE}.")
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        write_atomic(marker, json.dumps(identity, sort_keys=True))
    try:
        yield partial
    except (UserError, RunError):  # the inputs or the result are bad: nothing to go on from
        shutil.rmtree(partial)
        raise
    (partial / PROGRESS).unlink()
    marker.unlink()
    sync_folder(partial)
    partial.rename(out)
    sync_folder(out.parent)
