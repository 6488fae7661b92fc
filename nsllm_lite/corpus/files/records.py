"""The records of a JSON file as its reader needs them: objects, or messages why there is none."""

from collections.abc import Callable, Iterator
from typing import Any, TextIO

from nsllm_lite.formats.records import RecordError, iter_values


def iter_records(stream: TextIO) -> Iterator[dict | str]:
    """Records in order, those of lists among them too; a message in place of one that is no object."""
    for _, value in iter_values(stream):
        yield from _records(value)


def iter_listed(stream: TextIO, listed: Callable[[dict], Any]) -> Iterator[dict | str]:
    """The records that answers list, where `listed` finds a list in a record; another is a record itself."""
    for record in iter_records(stream):
        found = listed(record) if isinstance(record, dict) else None
        for one in found if isinstance(found, list) else [record]:
            yield one if isinstance(one, dict | str) else f"a {type(one).__name__} where a record (an object) is listed"


def _records(value: Any) -> Iterator[dict | str]:
    if isinstance(value, dict):
        yield value
    elif isinstance(value, RecordError):
        yield f"not JSON{', nothing read from here on' * value.is_last}: {value.cause}"
    elif isinstance(value, list):
        for member in value:
            yield from _records(member)
    else:
        yield f"a {type(value).__name__} where a record (an object) is needed"


def as_text(value: Any) -> str:
    """A field as text: the texts of a list joined by spaces; null, NaN and what is no text are empty."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(v for v in value if isinstance(v, str))
    return str(value) if isinstance(value, int | float) and value == value else ""
