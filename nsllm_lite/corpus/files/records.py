"""The records of a JSON file: one a line, one after another, or one array, read as a stream."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any, TextIO

CHUNK_CHARS = 1 << 20
MAX_RECORD_CHARS = 1 << 26

Record = dict | str  # the object, or a message why there is none


def iter_records(stream: TextIO) -> Iterator[Record]:
    """Records in order. In a file of lines a bad line costs itself alone; elsewhere a bad record ends the file."""
    lines = (line for line in stream if line.strip())
    first, second = next(lines, "").lstrip("\ufeff"), next(lines, "")
    if first.startswith("{") and (second.startswith("{") or not isinstance(_load(first), str)):
        yield from (_load(line) for line in chain((first, second), lines) if line)
    else:
        yield from _iter_values(first + second, stream)


def _load(line: str) -> Record:
    try:
        return _as_record(json.loads(line))
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
        return f"not JSON: {error}"


def _iter_values(buffer: str, stream: TextIO) -> Iterator[Record]:
    decoder = json.JSONDecoder()
    place, ended = 0, False
    while True:
        while place < len(buffer) and buffer[place] in " \t\r\n,\ufeff[":
            place += 1
        if place == len(buffer) and ended:
            return
        if buffer[place : place + 1] == "]":
            return
        try:
            value, place = decoder.raw_decode(buffer, place)
        except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
            wanted = max(CHUNK_CHARS, len(buffer) - place)  # a long record is tried again but a few times
            chunk = "" if ended or len(buffer) - place > MAX_RECORD_CHARS else stream.read(wanted)
            if not chunk:
                if place < len(buffer):
                    yield f"not JSON, nothing read from here on: {error}"
                return
            buffer, place, ended = buffer[place:] + chunk, 0, len(chunk) < wanted
            continue
        yield _as_record(value)


def _as_record(value: Any) -> Record:
    return value if isinstance(value, dict) else f"a {type(value).__name__} where a record (an object) is needed"


def as_text(value: Any) -> str:
    """A field as text: null and absent fields are empty, lists are joined by spaces."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(as_text, value))
    return str(value)
