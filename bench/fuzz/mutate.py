"""Damage as files really have it: bytes cut, lost, doubled and swapped, values of JSON that are of another kind.

All is drawn from the `random.Random` that is given, so an input can be made again; it may be hypothesis that draws.
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MAX_BYTES = 1 << 17
JSON_SHARE = 0.4  # of the inputs that hold JSON get a value changed instead of bytes

WORDS = [
    *(b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b"<", b">", b"</", b"/>", b"&", b"&#0;", b"&amp;", b"<!--"),
    *(b"\n", b"\r\n", b"\x0b", b"\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\t", b"\0"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"1.5", b"9" * 30, b"9" * 5000, b"xml:id='0'"),
    *(b"$", b"$$", b"%", b"#1", b"~", b"^", b"_", b"\\begin{a}", b"\\end{a}", b"\\def\\a{\\a\\a}\\a"),
    *(b"\\newcommand{\\x}[9]{#9}", b"@article{", b"TY  - ", b"ER  - ", b"PT ", b"PMID- ", b"- ", b"# ", b"&a ", b"*a "),
    *(b",", b";", b"|", b"=", b":", b"../", b"/", b"!!", b"\xcc\x81", b"PK\x03\x04", b"\x1f\x8b", b"BZh9", b"PAR1"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"<![CDATA[", b"\\ud800", b"\\u0000"),
]  # fmt: skip
DEEP = [b"\\", b"[", b"{", b'{"a":', b"<a>", b"<sec>", b"(", b"\\begin{a}", b"{\\bf ", b"$", b"- ", b"a", b"\n", b" "]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "x", "0", "NaN", "\ud800", "\0", "../x", "/etc/passwd", "a" * 300, "é\u0301", "true"),
    *([], [[]], [None], ["x"], [0, 0], [1, "x", None], {}, {"": None}, {"x": {"y": []}}),
]  # fmt: skip
Change = Callable[[Random, bytes, Sequence[bytes]], bytes]


def mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, with one to five changes."""
    content = random.choice(seeds)
    for _ in range(random.randint(1, 5)):
        changed = change_json(random, content) if random.random() < JSON_SHARE else None
        if changed is None:
            changed = random.choice(CHANGES)(random, content, seeds)
        content = changed[:MAX_BYTES]
    return content


# ---------------------------------------------------------------------------------------------------------- bytes


def _place(random: Random, content: bytes) -> int:
    return random.randint(0, len(content))


def at_a_place(change: Callable[[Random, bytes, bytes], bytes]) -> Change:
    """`change` of what stands before and after a place in the content."""

    def changed(random: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
        place = _place(random, content)
        return change(random, content[:place], content[place:])

    return changed


def flip(random: Random, before: bytes, after: bytes) -> bytes:
    return before + bytes(byte ^ random.randint(1, 255) for byte in after[:1]) + after[1:]


def add(random: Random, before: bytes, after: bytes) -> bytes:
    return before + bytes(random.randint(0, 255) for _ in range(random.randint(1, 9))) + after


def add_word(random: Random, before: bytes, after: bytes) -> bytes:
    return before + random.choice(WORDS) + after[random.choice((0, 0, 1, 4)) :]


def deepen(random: Random, before: bytes, after: bytes) -> bytes:
    return before + random.choice(DEEP) * random.choice((3, 30, 300, 3000, 20_000)) + after


def move(random: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    first, last = sorted((_place(random, content), _place(random, content)))
    rest = content[:first] + content[last:]
    place = _place(random, rest)
    return rest[:place] + content[first:last] + rest[place:]


def join(random: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """The beginning of one, the end of another."""
    other = random.choice(seeds)
    return content[: _place(random, content)] + other[_place(random, other) :]


def change_line(random: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    lines = content.split(b"\n")
    place = random.randrange(len(lines))
    line = lines[place]
    lines[place : place + 1] = random.choice(([], [line, line], [line + b"\r"], [b" " + line], [b""]))
    return b"\n".join(lines)


def change_number(random: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    places = [place for place, byte in enumerate(content[:4096]) if 48 <= byte <= 57]
    if not places:
        return at_a_place(add)(random, content, seeds)
    place = random.choice(places)
    return content[:place] + random.choice((b"-1", b"0", b"99", b"1e9", b"9" * 20, b"x", b"")) + content[place + 1 :]


CHANGES: list[Change] = [
    at_a_place(lambda random, before, after: before),  # cut off
    at_a_place(lambda random, before, after: before + after[random.randint(1, 30) :]),  # lost
    *map(at_a_place, (flip, flip, add, add_word, add_word, add_word, deepen)),
    at_a_place(lambda random, before, after: before + after + after),  # doubled
    *(move, join, change_line, change_number),
]

# ----------------------------------------------------------------------------------------------------------- JSON


def change_json(random: Random, content: bytes) -> bytes | None:
    """With a value or a key of its JSON changed, wherever that begins; None where there is none."""
    starts = [place for place in (content.find(b"{"), content.find(b"["), content.rfind(b"\n{") + 1) if place >= 0]
    if not starts:
        return None
    start = random.choice(starts)
    text = content[start:].decode("utf-8", "surrogateescape")
    try:
        value, end = json.JSONDecoder().raw_decode(text)
        changed = json.dumps(_changed(random, value))
    except (ValueError, RecursionError):
        return None
    return content[:start] + changed.encode() + text[end:].encode("utf-8", "surrogateescape")


def _changed(random: Random, value: Any) -> Any:
    """A copy in which something, at any depth, is something else."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return random.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = random.choice(keys)
    kind = random.randint(0, 9)
    copy = value.copy()
    if kind == 0:
        del copy[key]
    elif kind == 1 and isinstance(value, dict):
        copy[random.choice(("", "x", f"{key}s", "__class__", "0"))] = copy.pop(key)
    elif kind == 1:
        copy.append(value[key])
    elif kind == 2:
        copy[key] = [value[key]]
    elif kind == 3:
        copy[key] = value[random.choice(keys)]
    else:
        copy[key] = _changed(random, value[key])
    return copy


# ------------------------------------------------------------------------------------------------------- smallest


def smallest(content: bytes, fails: Callable[[bytes], bool], max_tries: int = 400) -> bytes:
    """`content` with as much taken away as it can spare and still fail."""
    size = max(1, len(content) // 2)
    while size and max_tries > 0:
        place = 0
        while place < len(content) and max_tries > 0:
            max_tries -= 1
            shorter = content[:place] + content[place + size :]
            if fails(shorter):
                content = shorter
            else:
                place += size
        size //= 2
    return content
