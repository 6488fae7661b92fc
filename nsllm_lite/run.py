"""Output directories: finished or absent, and traceable.

Every verb writes one directory. Its `manifest.json` is written last, by rename, so a directory without one is
unfinished. Dates and durations live in `times.json` (and a training's in `trainer_log.jsonl`), so that all else is the
same byte for byte when run again.
"""

import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from nsllm_lite import __version__
from nsllm_lite.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "pyarrow", "numpy")
GIB = 2**30


def sha256_json(value: Any) -> str:
    """Hash of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_weights(model_dir: Path) -> str:
    """Identity of a model directory's weights: every safetensors header, and 64 KiB at 16 places of each file.

    Reading all of an 8B model takes a minute; two models that differ only outside the sampled bytes are not told
    apart, which a merge or a training step (both touch every layer) cannot produce.

    Raises:
        UserError: the directory holds no safetensors.
    """
    files = sorted(Path(model_dir).glob("*.safetensors"))
    if not files:
        raise no_safetensors(model_dir)
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size < 8 or header_bytes > min(size, 2**27):
                raise not_safetensors(path)
            digest.update(file.read(header_bytes))
            for place in range(16):
                file.seek(max(0, (size - 65_536) * place // 15))
                digest.update(file.read(65_536))
    return digest.hexdigest()


def no_safetensors(folder: Path) -> UserError:
    return UserError(
        "weights-absent",
        f"No *.safetensors in {folder}: neither model.safetensors nor its index.",
        "Weights are only ever read from safetensors (pickled *.bin files can run code):",
        "convert them, or name another MODEL.",
    )


def not_safetensors(path: Path) -> UserError:
    found = f"{path} is not a safetensors file, or is damaged."
    return UserError("weights-not-safetensors", found, "Whole files are needed:", "fetch or copy it again.")


def require_disk(path: Path, need_bytes: int, what: str) -> None:
    """Raises UserError when the file system of `path` has fewer than `need_bytes` free."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < need_bytes:
        raise UserError(
            "disk-too-small",
            f"Not enough disk for {what}: {need_bytes / GIB:.1f} GiB needed at {path}, {free_bytes / GIB:.1f} GiB "
            "free.",
            "",
            "Free some space, or write elsewhere with OUT=DIR (make) or out=DIR (nsllm-lite).",
        )


def is_disk_full(error: Exception) -> bool:
    """Of any library's error: those of Rust (safetensors, tokenizers) and NumPy tell it in words only."""
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
    """A name beside `path` to write to, which becomes `path` at the end; where that is not reached, nothing does."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_picture(figure: "Figure", png: Path, **options: Any) -> None:
    """The same bytes for the same picture."""
    with whole_file(png) as part:
        figure.savefig(part, format="png", metadata={"Software": None}, **({"dpi": 120} | options))


def sync_folder(path: Path) -> None:
    """Puts the names in a folder on the disk, such as one just renamed."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_folder(part: Path, final: Path) -> None:
    """Gives the folder `part` the name `final`. What has that name goes first, at once: a kill never leaves half."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_sealed(path: Path, value: dict) -> None:
    """`write_json` with a hash of the rest in it, which `read_json` checks and takes off."""
    write_json(path, value | {"seal": sha256_json(json.loads(json.dumps(value)))})


def read_manifest(out: Path) -> dict | None:
    """The manifest of `out`, or None where the directory is absent or unfinished.

    Raises:
        UserError: it is damaged, or none that `finish` writes.
    """
    path = Path(out) / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_object(path, recipe=dict, inputs=dict, results=dict)
    if not isinstance(manifest.get("verb"), str):
        raise damaged(path, "no verb is named in it")
    return manifest


def read_json(path: Path, sealed: bool = False) -> Any:
    """Raises UserError naming the file where it is not JSON, or not what `write_sealed` wrote.

    With `sealed`, one without a seal is none that was.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        seal = value.pop("seal", None) if isinstance(value, dict) else None
        if seal is None and sealed:
            raise ValueError("its `seal` is not in it")  # caught below
        if seal is not None and seal != sha256_json(value):
            what = "its values are not those that were written; if you changed them, take out its `seal`"
            raise ValueError(what)  # caught below
    except (ValueError, RecursionError) as error:  # not JSON or not UTF-8, numbers or nesting beyond all bounds
        raise damaged(path, error) from None
    return value


def read_object(path: Path, **needed: type) -> dict[str, Any]:
    """The JSON object in `path`, with a value of these types under these names; UserError naming the file if not."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise damaged(path, f"a JSON object is needed, found {type(value).__name__}")
    for name, kind in needed.items():
        if not isinstance(value.get(name), kind):
            raise damaged(path, f"{name!r} is {'not in it' if name not in value else 'of another kind'}")
    return value


def damaged(path: Path, what: object) -> UserError:
    """What to raise where a file that a run left is not as it was left."""
    return UserError(
        "file-damaged",
        f"{path} is damaged ({what}).",
        "It was written whole once:",
        "restore it from a copy, or delete its folder and run the same command again.",
    )


def manifest_sha256(out: Path) -> str | None:
    """Hash of an input directory's manifest: one link of the lineage. None where it has none (a plain model)."""
    path = Path(out) / "manifest.json"
    return sha256_file(path) if path.is_file() else None


def _changes(recipe: dict, inputs: dict[str, str | None], before: dict) -> list[str]:
    changed = [f"recipe.{key}" for key in sorted(recipe) if recipe[key] != before["recipe"].get(key)]
    return changed + [key for key in sorted(inputs) if inputs[key] != before["inputs"].get(key)]


def begin(out: Path, recipe: dict, inputs: dict[str, str | None]) -> None:
    """Marks `out` as this run's: `run.json` says what is being made, so that only the same run continues it.

    Raises:
        UserError: `out` holds an unfinished run of another recipe or of other inputs.
    """
    path = out / "run.json"
    is_begun = path.is_file() and len(os.listdir(out)) > 1  # alone it is of a run that failed at once
    if is_begun and (changed := _changes(recipe, inputs, read_object(path, recipe=dict, inputs=dict))):
        raise UserError(
            "unfinished-run-differs",
            f"{out} holds an unfinished run made differently (changed: {', '.join(changed)}).",
            "",
            "Undo the change to continue it, write elsewhere with OUT=DIR (make) or out=DIR (nsllm-lite), or delete "
            "that folder.",
        )
    write_json(path, {"recipe": recipe, "inputs": inputs})


def is_finished(out: Path, recipe: dict, inputs: dict[str, str | None]) -> bool:
    """Whether `out` already holds the result of this recipe on these inputs (label -> hash).

    Raises:
        UserError: it holds the finished result of another recipe or of other inputs, which is never overwritten.
    """
    manifest = read_manifest(out)
    if manifest is None:
        return False
    if changed := _changes(recipe, inputs, manifest):
        raise UserError(
            "finished-result-differs",
            f"{out} holds a finished result made differently (changed: {', '.join(changed)}).",
            "It is not overwritten:",
            "write elsewhere with OUT=DIR (make) or out=DIR (nsllm-lite), or delete that folder to make it anew.",
        )
    return True


def finish(
    out: Path,
    verb: str,
    recipe: dict,
    inputs: dict[str, str | None],
    results: dict[str, Any],
    started: float,
    measured: dict[str, Any] | None = None,
) -> None:
    """Writes `times.json`, then `manifest.json`: from here on `out` is finished.

    `started` is the run's `time.time()`; `measured` holds what differs from machine to machine (speed, memory).
    """
    versions = {"nsllm-lite": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    write_json(
        out / "times.json",
        {
            "started": utc(started),
            "finished": utc(time.time()),
            "seconds": round(time.time() - started, 1),
            **(measured or {}),
        },
    )
    manifest = {"verb": verb, "recipe": recipe, "inputs": inputs, "versions": versions, "results": results}
    write_sealed(out / "manifest.json", manifest)


def progress(total: int, done: int, what: str, unit: str, **options: Any) -> tqdm:
    """A progress bar with time left; on a terminal it moves, in a log it is a line every half minute."""
    if sys.stderr.isatty():
        shown = {"mininterval": 0.1}
    else:
        shown = {"mininterval": 30, "delay": 5, "ncols": 100, "ascii": True, "file": _LogLines()}
    return tqdm(total=total, initial=done, desc=what, unit=unit, **shown, **options)


class _LogLines:
    """Standard error for a bar of tqdm: each state a line of its own, without the carriage returns."""

    def write(self, text: str) -> None:
        if state := text.strip():
            sys.stderr.write(state + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
