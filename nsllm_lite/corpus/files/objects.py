"""The objects at the beginning of a JSON file, each with its own keys, without those of the objects in it."""

import re
from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from itertools import tee
from typing import NamedTuple

MAX_DEPTH = 32  # what lies deeper is no record

# A string (one cut off by the end of the head too) with its colon and the first sign of its value, or a bracket.
_TOKEN = re.compile(r'"((?>(?:[^"\\]++|\\.?)*))(?:"\s*(:)?\s*(?=(\S?))|\Z)|[{}\[\]]', re.DOTALL)


class HeadObject(NamedTuple):
    """One object of the head; `fields` maps its own keys to the first sign of their values, as `"`, `{` or `4`."""

    depth: int  # brackets open around it, so the records of one file share the depth of the first
    fields: dict[str, str]


def objects_in(head: str) -> Iterator[HeadObject]:
    """The objects in the order in which they open; one cut off by the end of the head shows the keys it has so far.

    Each comes when it and all around it are closed: most files show by the first what they are, and no more is read.
    """
    return copy(_read(head))


@lru_cache(maxsize=1)  # each reader asks for those of the same file
def _read(head: str) -> Iterator[HeadObject]:
    """Never advanced itself, so that a copy begins at the first object and shares what the others have read."""
    return tee(_objects(head), 1)[0]


def _objects(head: str) -> Iterator[HeadObject]:
    found: list[HeadObject] = []
    if head[:1] not in ("{", "["):
        return
    around: list[dict[str, str] | None] = []  # the fields of each open object, None for a list
    for token in _TOKEN.finditer(head):
        if len(around) > MAX_DEPTH:
            break
        sign = token[0][0]
        if sign == '"':
            if token[2] and around and around[-1] is not None:
                around[-1].setdefault(token[1], token[3])
        elif sign == "{":
            found.append(HeadObject(len(around), {}))
            around.append(found[-1].fields)
        elif sign == "[":
            around.append(None)
        elif around:
            around.pop()
            if not any(isinstance(fields, dict) for fields in around):
                yield from found
                found = []
    yield from found


def text_in(value: object) -> str:
    """A field where it is a text, else ""."""
    return value if isinstance(value, str) else ""


def object_in(value: object) -> dict:
    """A field where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[dict]:
    """The objects in a value that is a list of them."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def objects_of(record: dict, key: str) -> list[dict]:
    """The objects in a field that is a list of them."""
    return listed(record.get(key))


def instead(missing: str, record: dict) -> str:
    """The message that something is missing in a record, with the first keys that it has."""
    return f"{missing}, but {', '.join(map(str, list(record)[:5])) or 'nothing'}"
