"""JSON files that are whole and show when they were changed, and files of JSON lines that a kill may cut off."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.errors import UserError

_adapter = cache(TypeAdapter)


def sha256_json(value: Any) -> str:
    """Hash of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_sealed(path: Path, value: dict) -> None:
    """`write_json` with a hash of the rest in it, which `read_json` checks and takes off."""
    write_json(path, value | {"seal": sha256_json(json.loads(json.dumps(value)))})


def read_json(path: Path, sealed: bool = False) -> Any:
    """Raises UserError naming the file where it is not JSON, or not what `write_sealed` wrote.

    With `sealed`, a file without a seal is refused too.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows programs begin with a BOM
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
    """The error for a file of a run that is not as it was written."""
    found = f"{path} is damaged ({what})."
    todo = "restore it from a copy, or delete its folder and run the same command again."
    return UserError("file-damaged", found, "It was written whole once:", todo)
