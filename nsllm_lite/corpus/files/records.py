"""The records of a JSON file as its reader needs them: objects, or messages why there is none."""

from collections.abc import Iterator
from typing import Any, TextIO

from nsllm_lite.formats.records import RecordError, iter_values

Record = dict | str  # the object, or a message why there is none


def iter_records(stream: TextIO) -> Iterator[Record]:
    """Records in order, those of lists among them too."""
    for _, value in iter_values(stream):
        if isinstance(value, dict):
            yield value
        else:
            yield from _records(value)


def _records(value: Any) -> Iterator[Record]:
    if isinstance(value, RecordError):
        yield f"not JSON{', nothing read from here on' * value.is_last}: {value.cause}"
    elif isinstance(value, list):
        for member in value:
            yield from _records(member)
    else:
        kind = type(value).__name__
        yield value if isinstance(value, dict) else f"a {kind} where a record (an object) is needed"


def as_text(value: Any) -> str:
    """A field as text: null and absent fields are empty, lists are joined by spaces."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(as_text, value))
    return str(value)
