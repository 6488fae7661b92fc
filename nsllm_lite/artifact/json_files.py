"""JSON files that are whole and show when they were changed, and files of JSON lines that a kill may cut off."""

import hashlib
import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.errors import UserError

OF_MODELS = ("config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json")
OF_MODELS += ("model.safetensors.index.json",)
"""Files that others write, or that are edited by hand: nothing says that they were different once."""

_adapter = cache(TypeAdapter)


def sha256_json(value: Any) -> str:
    """Hash of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_sealed(path: Path, value: dict) -> None:
    """`write_json` with a hash of the rest in it, which `read_json` checks and takes off."""
    write_json(path, value | {"seal": sha256_json(json.loads(json.dumps(value)))})


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for json's `object_pairs_hook`. ValueError where a key stands twice: json takes the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:80]!r} stands twice")  # caught by every caller
    return value


def read_json(path: Path, sealed: bool = False) -> Any:
    """Raises UserError naming the file where it is not JSON, or not what `write_sealed` wrote.

    With `sealed`, a file without a seal is refused too.
    """
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=each_once)  # UTF-8 or UTF-16, with a BOM or without
        seal = value.pop("seal", None) if isinstance(value, dict) else None
        if seal is None and sealed:
            raise ValueError("its `seal` is not in it")  # caught below
        if seal is not None and seal != sha256_json(value):
            what = "its values are not those that were written; if you changed them, take out its `seal`"
            raise ValueError(what)  # caught below
    except (ValueError, RecursionError) as error:  # not JSON or not UTF-8, numbers or nesting beyond all bounds
        raise damaged(path, error) from None
    return value


@contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """`folder`, or where JSON files in it begin with a byte order mark, at which transformers and tokenizers fail, a
    folder of links to its files, for as long as it is read, with those files without the mark."""
    marked = [path for path in folder.glob("*.json") if path.is_file() and _begins_with_mark(path)]
    if not marked:
        yield folder
        return
    with TemporaryDirectory() as name:
        for path in folder.iterdir():
            place = Path(name) / path.name
            if path in marked:
                place.write_bytes(path.read_bytes().removeprefix(BOM_UTF8))
            else:
                place.symlink_to(path.absolute())
        yield Path(name)


def _begins_with_mark(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(BOM_UTF8)) == BOM_UTF8


def read_object(path: Path, **needed: type) -> dict[str, Any]:
    """The JSON object in `path`, with a value of these types under these names; UserError naming the file if not."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise damaged(path, f"a JSON object is needed, found {type(value).__name__}")
    for name, kind in needed.items():
        if not isinstance(value.get(name), kind):
            raise damaged(path, f"{name!r} is {'not in it' if name not in value else 'of another kind'}")
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, up to the first line that is none; [] where there is no file.

    A process that was killed while it wrote leaves its last line cut off, perhaps within a letter. Nothing behind a
    damaged line is used either: what follows was written by a run that counted on it.
    """
    return [value for _, value in _whole_lines(path)]


def cut_lines(path: Path, last: int | None = None, key: str = "step") -> list[dict[str, Any]]:
    """`read_lines` with `key` at most `last`; a file that is there then holds these lines alone, as they were."""
    kept = []
    for text, value in _whole_lines(path):
        if last is not None and type(value.get(key)) is not int:
            break
        kept += [(text, value)] if last is None or value[key] <= last else []
    if path.is_file():
        write_atomic(path, "".join(text + "\n" for text, _ in kept))
    return [value for _, value in kept]


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            text = line.decode()
            value = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        yield text, value


def validated(path: Path, **parts: tuple[Any, Any]) -> dict[str, Any]:
    """The parts of a JSON file, each given as (type, value), validated; UserError names those of another type."""
    valid, wrong = {}, []
    for name, (kind, value) in parts.items():
        try:
            valid[name] = _adapter(kind).validate_json(json.dumps(value))
        except ValidationError as error:
            wrong += [f"{'.'.join(map(str, (name, *problem['loc'])))}: {problem['msg']}" for problem in error.errors()]
    if wrong:
        raise damaged(path, "; ".join(wrong[:5]))
    return valid


def damaged(path: Path, what: object) -> UserError:
    """The error for a file of a run that is not as it was written, or a file of a model that is not as it must be."""
    if path.name in OF_MODELS:
        return UserError(
            "model-file-wrong", f"{path} cannot be used: {what}.", "Correct it there, or fetch that file again."
        )
    found = f"{path} is damaged ({what})."
    todo = "restore it from a copy, or delete its folder and run the same command again."
    return UserError("file-damaged", found, "It was written whole once:", todo)
