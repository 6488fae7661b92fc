"""Pairs of a user's own file: records of {query, positive}, which may have negatives."""

import json
from collections import Counter
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.formats.examples import read_rows, text_in, unfit
from nsllm_lite.train.pairs import SAME, Pairs, fault_of
from nsllm_lite.train.texts import TextWriter, key64, plain


class FilePairs(NamedTuple):
    """`names` say of which record each pair is; records without use are counted in `left_out` by reason."""

    pairs: Pairs
    names: list[str]
    left_out: Counter[str]
    notes: list[str]


def read_pairs(path: Path, writer: TextWriter, first_paper: int, heldout: Set[int]) -> FilePairs:
    """Each record counts as a paper of its own, numbered from `first_paper`; `heldout` are keys of held-out texts.

    Where every record states negatives, each pair has as many as the record with the fewest; where some state none, the
    others' are not used, which is noted. A negative of a held-out paper is dropped, and with it a record that then has
    fewer than all others state: one of them would cost every pair a negative. Raises UserError where the file or a
    record cannot be used.
    """
    records, notes = read_rows(path, ("query", "positive"), optional=("negatives",))
    left_out: Counter[str] = Counter()
    good: list[tuple[int, str, str, list[str]]] = []
    for line, fields in records:
        query, positive = (text_in(path, line, fields, name).strip() for name in ("query", "positive"))
        others = _texts(path, line, fields.get("negatives"))
        fault = fault_of(query, positive)
        if not fault and heldout & {key64(plain(query)), key64(plain(positive))}:
            fault = "a text of a held-out paper"
        if not fault and any(fault_of(positive, one) == SAME for one in others):
            raise unfit(path, line, "has its `positive` among its `negatives`")
        if fault:
            left_out[fault] += 1
            continue
        good.append((line, query, positive, others))
    least, most = (count((len(others) for *_, others in good), default=0) for count in (min, max))
    rows: list[tuple[int, int]] = []
    negatives: list[list[str]] = []
    names = []
    for line, query, positive, stated in good:
        others = [one for one in stated if key64(plain(one)) not in heldout]
        if dropped := len(stated) - len(others):
            left_out["negatives that are a text of a held-out paper"] += dropped
        if len(others) < least:
            left_out["too few negatives without those of held-out papers"] += 1
            continue
        rows.append((writer.add(query), writer.add(positive)))
        negatives.append(others)
        names.append(f"{path.name}:{line}")
    if most > least:
        used = f"{least:,}" if least else "no"
        notes.append(f"of a record's negatives, up to {most:,}, {used} are used: all records need as many")
    papers = first_paper + np.arange(len(rows))
    queries, positives = np.array(rows, np.int64).reshape(-1, 2).T
    known = [[writer.add(one) for one in others[:least]] for others in negatives]
    table = np.array(known, np.int64).reshape(-1, least) if least else None
    return FilePairs(Pairs(queries, positives, papers, papers, table), names, left_out, notes)


def _texts(path: Path, line: int, value: Any) -> list[str]:
    """The negatives of a record: a list of texts, one text, or a list written as JSON in a table's cell."""
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise unfit(path, line, "has `negatives` that begin with [ and are no JSON list") from None
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, str) and one.strip() for one in found):
        raise unfit(path, line, "has `negatives` that are no list of texts")
    return [one.strip() for one in found]
