"""Gold answers as others publish them: {system, question, answer} or {instruction, input, output}, a list or lines.
In place of a question there may be a table: {caption, rows, footer}, rows a list of lists of cells.

A record that is not used is left out with its line and its reason; what is repaired has the name of its rule. Nothing
is dropped in silence.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, iter_values, require_no_pointer
from nsllm_lite.safety import printable
from nsllm_lite.tasks.items import QUESTION_PARTS
from nsllm_lite.tasks.table_text import Table, write_table

NAMES = (("instruction", "system"), ("input", "question"), ("output", "answer"))
"""Our name of a part of a record, and its name in the published files."""

TABLE = {"caption", "rows", "footer"}
USED = {name for pair in NAMES for name in pair} | {"document", "id"} | TABLE


class UnfitGoldError(Exception):
    """Why a gold answer is not used: a `reason` that is counted, and `what` was found in this one."""

    def __init__(self, reason: str, what: str):
        super().__init__(f"{reason}: {what}")
        self.reason, self.what = reason, what


class GoldItem(NamedTuple):
    """A record {id, document, instruction, input, output}, the first two where they are stated, from `line` of a file;
    or None, with a `reason` that is counted, and `what` was found. `repairs` are the rules that changed its answer."""

    line: int
    item: dict[str, str] | None
    reason: str = ""
    what: str = ""
    repairs: tuple[str, ...] = ()


ReadAnswer = Callable[[Any], tuple[str, tuple[str, ...]]]
"""From a gold answer the output, and the names of the repairs; raises UnfitGoldError."""


def text_answer(answer: Any) -> tuple[str, tuple[str, ...]]:
    """An answer that is any text."""
    if not isinstance(answer, str) or not answer.strip():
        raise UnfitGoldError("its answer is no text", repr(answer)[:80])
    return answer, ()


def read_gold(path: Path, read_answer: ReadAnswer = text_answer) -> list[GoldItem]:
    """The records of a file, in order. Raises UserError where it is no file of records, is a pointer of Git LFS, or
    none of its records can be used."""
    rows, unused = [], Counter[str]()
    try:
        with open(path, encoding="utf-8-sig") as stream:
            require_no_pointer(stream.read(200))
            stream.seek(0)
            for line, value in iter_values(stream):
                rows.append(_gold_item(line, value, read_answer))
                unused.update(value.keys() - USED if isinstance(value, dict) else ())
                if isinstance(value, RecordError) and value.is_last:
                    raise value
    except (OSError, ValueError, RecordError) as error:
        needed = "Needed are JSON records {system, question, answer} or {instruction, input, output}."
        found = f"{path} cannot be read ({error})."
        raise UserError("gold-unreadable", found, needed, "Fetch the file again, or correct it.") from None
    if not any(one.item for one in rows):
        reasons = "; ".join(f"line {one.line}: {one.reason} ({printable(one.what)})" for one in rows[:3])
        none = f"{path} has no gold answer: {reasons or 'no records'}."
        needed = "Needed are records {system, question, answer} or {instruction, input, output} of this task."
        raise UserError("gold-none-used", none, needed, "Rename their keys, or name another file or task.")
    if unused:
        counts = ", ".join(f"{key} ({count:,})" for key, count in unused.most_common(8))
        print(f"{path}: keys of its records that are not used: {printable(counts)}")
    return rows


def _gold_item(line: int, value: Any, read_answer: ReadAnswer) -> GoldItem:
    if isinstance(value, RecordError):
        return GoldItem(line, None, "not read as JSON", f"{type(value.cause).__name__}: {value.cause}")
    if not isinstance(value, dict):
        return GoldItem(line, None, "no record", repr(value)[:80])
    parts, twice = _parts(value)
    if twice:
        return GoldItem(line, None, "a part of it is stated twice, unlike", ", ".join(twice))
    if parts["input"] is None and "rows" in value:
        parts["input"] = _table_text(value)
    if not isinstance(parts["input"], str) or not isinstance(parts["instruction"] or "", str):
        return GoldItem(line, None, "no question that is text, and no table", ", ".join(map(str, value)))
    if more := [name for name in QUESTION_PARTS if name != "system" and value.get(name)]:
        return GoldItem(line, None, "a part of its question is elsewhere", ", ".join(more))
    try:
        output, repairs = read_answer(parts["output"])
    except UnfitGoldError as unfit:
        return GoldItem(line, None, unfit.reason, unfit.what)
    own = {name: str(value[name]) for name in ("id", "document") if value.get(name) not in (None, "")}
    item = own | {"instruction": parts["instruction"] or "", "input": parts["input"], "output": output}
    try:
        "".join(item.values()).encode()
    except UnicodeEncodeError as error:
        return GoldItem(line, None, "half a character", str(error))
    return GoldItem(line, item, repairs=repairs)


def _parts(record: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(each part by our name of it, the names of parts that are stated under both names, unlike each other)"""
    parts, twice = {}, []
    for names in NAMES:
        given = [record[name] for name in names if record.get(name) not in (None, "")]
        parts[names[0]] = given[0] if given else record.get(names[0], record.get(names[1]))
        if len(given) > 1 and given[0] != given[1]:
            twice.append(" and ".join(names))
    if parts["input"] is not None and record.get("rows"):
        twice.append("a question and a table")
    return parts, twice


def _table_text(record: dict[str, Any]) -> str | None:
    """The table of a record as text; None where it is none."""
    caption, rows, footer = (
        record.get(name, empty) for name, empty in (("caption", ""), ("rows", None), ("footer", {}))
    )
    is_table = isinstance(rows, list) and rows and all(isinstance(row, list) and row for row in rows)
    if not is_table or not isinstance(caption, str) or not isinstance(footer, dict):
        return None
    texts = [cell for row in rows for cell in row] + [*footer.values()]
    if not all(isinstance(text, str) for text in texts):
        return None
    return write_table(Table(caption, tuple(map(tuple, rows)), footer))


def counts_of(found: Iterable[GoldItem]) -> dict[str, dict[str, int]]:
    """{"left_out": {reason: count}, "repaired": {rule: answers}}"""
    rows = list(found)
    left_out = Counter(one.reason for one in rows if one.reason)
    repaired = Counter(rule for one in rows for rule in set(one.repairs))
    return {"left_out": dict(sorted(left_out.items())), "repaired": dict(sorted(repaired.items()))}


def words_of(found: Iterable[GoldItem]) -> Iterator[str]:
    """Sentences about what was left out or repaired, with the first lines of each."""
    lines: dict[tuple[str, str], list[int]] = {}
    for one in found:
        if one.reason:
            lines.setdefault(("left out", one.reason), []).append(one.line)
        for rule in sorted(set(one.repairs)):
            lines.setdefault(("repaired", rule), []).append(one.line)
    for (what, why), places in sorted(lines.items()):
        shown = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
        yield f"{what}, {why}: {len(places):,} (line {shown})"
