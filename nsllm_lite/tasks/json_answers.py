"""How a generated text is read as JSON: strictly, and by how it fails.

Only text that is one JSON value and nothing else is read ("json"). All other ways count as wrong and have a name; from
some of them a value can be taken leniently, for the figure beside the strict one.
"""

import ast
import json
import re
import warnings
from typing import Any, NamedTuple

from nsllm_lite.artifact.json_files import each_once
from nsllm_lite.tasks.items import without_thinking

FENCE = re.compile(r"```\w*\s*\n(.*?)\n?\s*```", re.DOTALL)
MAX_LENIENT_CHARS = 100_000
KINDS = ("json", "off-schema", "python", "fenced", "prose", "cut", "empty", "none")


class Reading(NamedTuple):
    """`kind` is one of KINDS; `has_value`: there is a `value`, which is to be used leniently only, unless the kind is
    "json"."""

    kind: str
    has_value: bool = False
    value: Any = None


def read_json_answer(text: str) -> Reading:
    """Never raises, whatever the text is. A model's reasoning before it is taken off, as for every task."""
    text = without_thinking(text)
    if not text:
        return Reading("empty")
    found = _strict(text)
    if found.kind != "none":
        return found
    if fenced := FENCE.fullmatch(text):
        return _lenient("fenced", fenced[1])
    start = next((place for place, letter in enumerate(text) if letter in "{["), None)
    if start is None:
        return Reading("none")
    block = _block(text, start)
    if block is None:
        return Reading("cut")
    return _lenient("python" if block == text else "prose", block)


def _strict(text: str) -> Reading:
    """Off every schema is an object in which a key stands twice."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Reading("none")
    try:
        json.loads(text, object_pairs_hook=each_once)
    except ValueError:
        return Reading("off-schema")
    return Reading("json", True, value)


def _lenient(kind: str, block: str) -> Reading:
    found = _strict(block.strip())
    if not found.has_value and len(block) <= MAX_LENIENT_CHARS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = Reading(kind, True, ast.literal_eval(block.strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found = Reading("none")
    if kind == "python" and not found.has_value:
        return Reading("none")
    return Reading(kind, found.has_value, found.value)


def _block(text: str, start: int) -> str | None:
    """The text from a bracket to the one that closes it; None where none does. Brackets within quotes do not count."""
    depth, quote, place = 0, "", start
    while place < len(text):
        letter = text[place]
        if quote:
            place += letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "{[":
            depth += 1
        elif letter in "}]":
            depth -= 1
            if not depth:
                return text[start : place + 1]
        place += 1
    return None
