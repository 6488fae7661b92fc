"""Records of JSON files: one a line, one after another, or one list.

Byte order marks, empty lines and commas between records are skipped; NaN and Infinity are read as numbers. What cannot
be read (not UTF-8, cut off, nested too deeply, a key that stands twice, an integer of thousands of digits) is a
`RecordError` with its line: nothing is skipped in silence. Half a character (a lone surrogate, as a cut emoji leaves)
is one in `read_records`, as no tokenizer takes it; papers are cleaned of it later.
"""

import io
import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from nsllm_lite.artifact.json_files import each_once

CHUNK_CHARS = 1 << 20
MAX_RECORD_CHARS = 1 << 26
COMPACT = (",", ":")  # between values and behind keys of answers in JSON: training targets, gold and grammars
LFS_POINTER = "version https://git-lfs.github.com/spec/"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BETWEEN = " \t\r\n,\ufeff"
_DECODER = json.JSONDecoder(object_pairs_hook=each_once)  # json.loads would make one a line


class RecordError(Exception):
    """Why the record at `line` of its file cannot be read; with `is_last` nothing after it is read either."""

    def __init__(self, line: int, cause: Exception, is_last: bool = False):
        super().__init__(f"line {line}: {type(cause).__name__}: {cause}")
        self.line, self.cause, self.is_last = line, cause, is_last


def require_no_pointer(head: str) -> None:
    """Raises ValueError where a file begins as what Git LFS leaves in place of one that was not fetched."""
    if head.startswith(LFS_POINTER):
        raise ValueError("it is a Git LFS pointer, not the file itself: run git lfs pull")  # caught by every caller


def read_records(path: Path, allow_surrogates: bool = False) -> Iterator[tuple[int, Any]]:
    """(line, value) of each record of a UTF-8 file, which is held in memory; `allow_surrogates` is for readers that
    leave a record with a lone one out themselves, and count it.

    Raises RecordError where one cannot be read, OSError where the file cannot.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(content.count(b"\n", 0, error.start) + 1, error) from None
    try:
        require_no_pointer(text)
    except ValueError as error:
        raise RecordError(1, error) from None
    may_be_cut = not allow_surrogates and _SURROGATE.search(text) is not None
    for line, value in iter_values(io.StringIO(text)):
        if isinstance(value, RecordError):
            raise value
        if may_be_cut:
            _require_whole_characters(line, value)
        yield line, value


def _require_whole_characters(line: int, value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise RecordError(line, error) from None


def iter_values(stream: TextIO) -> Iterator[tuple[int, Any]]:
    """(line, value or RecordError) of each record, a line or 1 MiB in memory at a time.

    In a file of lines a bad line costs itself alone; elsewhere nothing is read after a bad record.
    """
    lines = ((number, line) for number, line in enumerate(stream, start=1) if line.strip(_BETWEEN))
    (one, first), (two, second) = next(lines, (1, "")), next(lines, (0, ""))
    first, second = first.lstrip("\ufeff"), second.lstrip("\ufeff")
    if second and (first[0] == second[0] == "{" or not isinstance(_value(one, first), RecordError)):
        for number, line in chain(((one, first), (two, second)), lines):
            yield number, _value(number, line)
    else:
        yield from _iter_stream(one, first + "\n" * (two - one - 1) + second, stream)


def _value(number: int, line: str) -> Any:
    try:
        bare = line.strip(_BETWEEN) if line[0] == "\ufeff" or "," in line[-3:] else line
        return _DECODER.decode(bare)
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
        return RecordError(number, error)


def _noted(twice: list[ValueError], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return each_once(pairs)
    except ValueError as error:
        twice.append(error)
        return dict(pairs)


def _iter_stream(line: int, buffer: str, stream: TextIO) -> Iterator[tuple[int, Any]]:
    twice: list[ValueError] = []  # such a record costs itself alone
    decoder = json.JSONDecoder(object_pairs_hook=partial(_noted, twice))
    place, ended, in_list = 0, False, False
    while True:
        while (opening := buffer[place : place + 1]) and opening in _BETWEEN:
            line += opening == "\n"
            place += 1
        if opening == ("]" if in_list else "["):
            place, in_list = place + 1, not in_list
            continue
        twice.clear()
        try:
            value, end = decoder.raw_decode(buffer, place)
        except (ValueError, RecursionError) as error:
            wanted = max(CHUNK_CHARS, len(buffer) - place)  # a long record is tried again but a few times
            chunk = "" if ended or len(buffer) - place > MAX_RECORD_CHARS else stream.read(wanted)
            if chunk:
                buffer, place, ended = buffer[place:] + chunk, 0, len(chunk) < wanted
                continue
            if opening or in_list:
                cause = error if opening else EOFError("the list has no end")
                yield line, RecordError(line, cause, is_last=True)
            return
        yield line, RecordError(line, twice[0]) if twice else value
        line += buffer.count("\n", place, end)
        place = end
