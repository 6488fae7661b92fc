"""Dates in ISO 8601, as fine as a source states them: "2019", "2019-03" or "2019-03-12".

The year has to be certain, else nothing is read; of month and day what is certain is added. "12/03/2019" is of 2019
alone, since it is of March in one country and of December in another.
"""

import datetime
import re
from calendar import monthrange
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

MAX_CHARS = 80  # of a text that is a date
MAX_DEPTH = 4  # of lists and objects around one
_MILLISECONDS, _SECONDS = range(10**11, 4 * 10**12), range(10**9, 4 * 10**9)  # since 1970, as services count

_Y = r"(?P<y>(?:1[5-9]|20)\d\d)"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_M = r"(?P<m>(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)(?:[a-z]{2,6})?)\.?"
_D = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?"
_REST = r"(?:[\s,;:T/(–-].*)?"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        rf"{_Y}(?:\s*[-/.年]\s*(?P<m>\d{{1,2}})月?(?:\s*[-/.]?\s*(?P<d>\d{{1,2}})日?)?)?(?!\d)/*(?:\.0)?{_REST}",
        rf"{_Y}(?P<m>\d\d)(?P<d>\d\d)",
        rf"{_Y}[\s,/-]+{_M}(?:\s*[-/–]\s*[a-z]{{3,9}}\.?)?(?:[\s-]+{_D}(?!\d))?{_REST}",
        rf"(?:[a-z]{{3,9}}\.?,?\s+)?{_D}[\s.,/-]+(?:of\s+)?{_M}[\s.,/-]+{_Y}(?!\d){_REST}",
        rf"(?:[a-z]{{3,9}}\.?,?\s+)?{_M}(?:\s*[-/–]\s*[a-z]{{3,9}}\.?)?(?:\s+{_D}(?!\d))?[\s.,/-]+{_Y}(?!\d){_REST}",
        rf"(?P<a>\d{{1,2}})(?P<sign>[./-])(?P<b>\d{{1,2}})[./-]{_Y}(?!\d){_REST}",
        rf"(?P<m>\d{{1,2}})[/-]{_Y}",
        rf"(?:spring|summer|autumn|fall|winter)[\s,/-]+{_Y}",
        rf"{_Y}\s?年(?:\s?(?P<m>\d{{1,2}})月)?.*",
        r"(?P<y>(?:19|20)\d\d)(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])(?:[0-5]\d){0,2}",
    )
)
_FORMS = (_FORMS[2], *_FORMS[:2], *_FORMS[3:])  # a month in words before the form that leaves out what it cannot read
_IN_NUMBERS = (_FORMS[1], *_FORMS)  # the commonest forms: "2019" and "2019-03-12"


def as_date(value: Any, depth: int = 0) -> str:
    """The date in a text, a number, a list of year, month and day, or an object with those; "" where there is none."""
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return _of_number(value)
    if isinstance(value, datetime.date):
        return _of_text(value.isoformat())
    if depth == MAX_DEPTH or not value:
        return ""
    if isinstance(value, list):
        if all(isinstance(part, int | float) or (isinstance(part, str) and part.isdecimal()) for part in value[:3]):
            found = _of_text("-".join(str(part) for part in value[:3]))
            return found or as_date(value[0], depth + 1)
        return next(filter(None, (as_date(part, depth + 1) for part in value[:3])), "")
    if isinstance(value, dict):
        year, month, day = (value.get(key) for key in ("year", "month", "day"))
        if year:
            return dated(year, " ".join(str(part) for part in (month, day) if isinstance(part, str | int)))
        keys = ("date-parts", "date-time", "date", "literal", "raw", "value", "start", "$date")
        return next(filter(None, (as_date(value.get(key), depth + 1) for key in keys)), "")
    return ""


def first_date(values: Iterable[Any]) -> str:
    """The first that is a date."""
    return next(filter(None, map(as_date, values)), "")


def finer_of(stated: str, other: str) -> str:
    """`stated`, or the `other` date where it is the same in more detail, or the only one."""
    return other if other.startswith(stated) else stated


def dated(year: Any, *finer: str) -> str:
    """The date of a year stated in one field, and of what is finer in others: a month ("MAR"), a day of it ("MAR 12",
    "3 12"), or a whole date of that year."""
    coarse = as_date(year)
    best = coarse
    for text in filter(None, map(str.strip, finer)):
        found = as_date(text)
        if not found and coarse and len(text) < MAX_CHARS:
            month, _, day = text.partition(" ")
            numbers = month.isdecimal() and len(month) < 3
            found = as_date(f"{coarse[:4]}-{month}-{day.strip() or 0}" if numbers else f"{coarse[:4]} {text}")
        if found.startswith(coarse[:4]) and len(found) > len(best):
            best = found
    return best


@lru_cache(maxsize=8192)  # a corpus has few different dates
def _of_text(text: str) -> str:
    text = text.strip().strip("[]()").strip() if len(text) <= MAX_CHARS else ""
    if not text:
        return ""
    forms = _FORMS[3:] if text[0].isalpha() else _IN_NUMBERS if text[4:5] in ("", "-", "T") else _FORMS
    found = next(filter(None, (form.fullmatch(text) for form in forms)), None)
    if not found:
        return _of_seconds(int(text)) if text.isdecimal() and len(text) in (10, 13) else ""
    parts = found.groupdict()
    if "a" in parts:
        parts |= _day_and_month(int(parts["a"]), int(parts["b"]), parts["sign"])
    month, day = parts.get("m") or 0, int(parts.get("d") or 0)
    month = int(month) if str(month).isdecimal() else _MONTHS.index(month[:3].lower()) + 1
    return _joined(int(parts["y"]), month, day)


def _day_and_month(a: int, b: int, sign: str) -> dict[str, int]:
    """Of two numbers before a year: with points the day is first; else only where one can be no month."""
    if sign == "." or a > 12 or a == b:
        return {"d": a, "m": b}
    return {"d": b, "m": a} if b > 12 else {}


def _joined(year: int, month: int, day: int) -> str:
    if not 1 <= month <= 12:
        return str(year)
    return f"{year}-{month:02}" + (f"-{day:02}" if 1 <= day <= monthrange(year, month)[1] else "")


def _of_number(value: float) -> str:
    if not (0 < value < 10**14 and value == int(value)):  # NaN, a fraction, or out of all bounds
        return ""
    value = int(value)  # a float is looked for in a range number by number
    return _of_text(str(value)) or _of_seconds(value)


def _of_seconds(value: int) -> str:
    """Of a number that counts seconds or milliseconds since 1970; else empty."""
    seconds = value / 1000 if value in _MILLISECONDS else value if value in _SECONDS else None
    return "" if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
