"""Authors of a paper in their order: "Family, Given" where the source keeps the two apart, else as the source has them.

A suffix comes last ("King, Martin, Jr."). A group is one author under its name. Editors are none.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from nsllm_lite.corpus.texts.entities import unescape

MAX_DEPTH = 4  # of lists and objects around a name
_FAMILY = ("family", "last", "lastname", "last_name", "familyname", "family_name", "surname", "keyname", "sn")
_GIVEN = ("given", "first", "firstname", "first_name", "forename", "forenames", "givenname", "given_name", "givennames")
_WHOLE = ("name", "full_name", "fullname", "display_name", "literal", "creator", "author", "authorname", "author_name")
_WHOLE += ("preferred_name", "raw_author_name", "collectivename", "organization", "value", "text", "authors")
_SIMPLE = re.compile(r"[\w'’.\- ]+(?:, [\w'’.\- ]+)?(?:; [\w'’.\- ]+(?:, [\w'’.\- ]+)?)*")
QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_BRACKETS = re.compile(r" ?\([^()]*\)")
_AND = re.compile(r"(?:,\s*|\s+)(?:and|&)\s+", re.IGNORECASE)
_COLON = re.compile(r"(?<=collaboration):\s", re.IGNORECASE)
_SUFFIX = re.compile(r"(?:jr|sr|[iv]{1,4})\.?", re.IGNORECASE)
_REST = re.compile(r"(?:et\.? al\.?|others|\.\.\.|…)", re.IGNORECASE)
_INITIALS = re.compile(r"(?:[^\W\d_]{1,2}\.[\s-]?-?){1,6}|[^\W\d_a-z]{1,3}")
_LAST = re.compile(r"[ -][^\W\d_a-z]{1,3}\.$")
_NUMBER = re.compile(r" ?\(?\d{5,20}\)?$")  # Scopus prints its number of an author behind the name
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_WHOLE_CJK = rf"{_CJK.pattern}[\u00b7\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
# A line with several names: "张三；李四", "张三,李四", "张三, 李四, 王五"; but "山田, 太郎" is family and given.
_SEVERAL = re.compile(rf"[;；，、]|^{_WHOLE_CJK}(?:(?:,{_WHOLE_CJK})+|(?:, ?{_WHOLE_CJK}){{2,}}),?$", re.MULTILINE)
_SIGNS = str.maketrans("；，、", ";,,")


def as_name(family: str, given: str = "", suffix: str = "") -> str:
    """One author, of the parts that a source keeps apart."""
    name = ", ".join([part for part in (family.strip(), given.strip(), suffix.strip()) if part])
    return " ".join(name.split()) if "\n" in name or "  " in name else name


def without_mark(name: str) -> str:
    """A name without the sign by which EndNote knows a group: a comma behind it ("Tin Group,"), or two within it
    ("Institute of Tin,, Whiskers")."""
    return name.rstrip(" ,").replace(",,", ",")


def as_names(value: Any, parsed: bool = False) -> tuple[str, ...]:
    """The authors in a text, or in a list of texts, objects and lists. With `parsed` a list in the list is [family,
    given, suffix, ...], as arXiv has them; what is no name is left out."""
    if parsed and value.__class__ is list and all(item.__class__ is list for item in value):
        apart = ([part.strip() for part in item[:3] if part.__class__ is str] for item in value)
        names = [", ".join([part for part in parts if part]) for parts in apart]
        if "  " not in "".join(names):
            return tuple(filter(None, names))
    if not parsed and value.__class__ is list and all(item.__class__ is str for item in value):
        text = "\n".join(value)
        if "  " not in text and not _SEVERAL.search(text):  # most lists: nothing is to be parted in them
            return tuple(filter(None, map(str.strip, value)))
    return tuple([" ".join(name.split()) for name in _names(value, parsed, 0) if name.strip()])


def _names(value: Any, parsed: bool, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield from split_names(value)
    elif depth == MAX_DEPTH:
        return
    elif isinstance(value, dict):
        yield from _of_object(value, depth)
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, str):
                yield from split_names(item) if _SEVERAL.search(item) else (item,)
            elif parsed and isinstance(item, list):
                yield as_name(*(part if isinstance(part, str) else "" for part in item[:3])) if item else ""
            else:
                yield from _names(item, parsed, depth + 1)


def _of_object(author: dict, depth: int) -> Iterator[str]:
    fields = {str(key).lower().replace("-", "_"): value for key, value in author.items()}
    family, given = (_first_text(fields, keys) for keys in (_FAMILY, _GIVEN))
    if family or given:
        middle = fields.get("middle")
        middle = " ".join(filter(_is_text, middle)) if isinstance(middle, list) else middle if _is_text(middle) else ""
        particle, suffix = (_first_text(fields, (key,)) for key in ("non_dropping_particle", "suffix"))
        yield as_name(f"{particle} {family}", f"{given} {middle}", suffix)
        return
    whole = next((fields[key] for key in _WHOLE if fields.get(key)), None)
    if isinstance(whole, str):
        yield whole
    elif whole is not None:
        yield from _names(whole, False, depth + 1)


def _first_text(fields: dict, keys: Iterable[str]) -> str:
    return next((fields[key].strip() for key in keys if _is_text(fields.get(key)) and fields[key].strip()), "")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def split_names(text: str) -> list[str]:
    """The names in one text, parted by ";", by "and", by commas between whole names, or as Python writes a list. What
    does not show where a name ends stays one."""
    text = unescape(text).strip()
    if ";" in text and _SIMPLE.fullmatch(text):
        return text.split("; ")
    by_line = "\n" in text and ";" not in text and text.count("\n") >= text.count(",")
    text = " ".join((";".join(text.split("\n")) if by_line else text).translate(_SIGNS).split())
    if text[:1] == "[" and text[-1:] == "]":
        return [a or b for a, b in QUOTED.findall(text)] or split_names(text[1:-1])
    if ";" in text or "|" in text:
        return _kept(_NUMBER.sub("", name) for name in re.split("[;|]", text))
    if "(" in text:
        text = _BRACKETS.sub("", _BRACKETS.sub("", text))
    return _kept(_parted(_COLON.sub(", ", text)))


def _parted(text: str) -> list[str]:
    names = _AND.split(text)
    pieces = [[part.strip() for part in name.split(",")] for name in names]
    flat = [part for parts in pieces for part in parts if part]
    if all(" " in part or _CJK.search(part) or _SUFFIX.fullmatch(part) or _REST.fullmatch(part) for part in flat):
        return _with_suffixes(flat)
    if len(names) == 1 and len(flat) > 2 and len(flat) % 2 == 0 and all(map(_INITIALS.fullmatch, flat[1::2])):
        return [f"{family}, {given}" for family, given in zip(flat[::2], flat[1::2], strict=True)]
    return names


def _with_suffixes(parts: list[str]) -> list[str]:
    names: list[str] = []
    for part in parts:
        if names and _SUFFIX.fullmatch(part):
            names[-1] += f", {part}"
        else:
            names.append(part)
    return names


def _kept(names: Iterable[str]) -> list[str]:
    found = [name for name in (name.strip(" ,") for name in names) if name and not _REST.fullmatch(name)]
    if len(found) > 1 and _LAST.search(found[-1]) and found[0][-1].isupper() and not any("." in n for n in found[:-1]):
        found[-1] = found[-1][:-1]  # PubMed's list of names ends in a full stop
    return found
