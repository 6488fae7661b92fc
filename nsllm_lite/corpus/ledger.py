"""The ledger: every record that enters ends in exactly one of kept, heldout, duplicate, dropped, unused.

One that is dropped for all phases, a duplicate, or unused has one line, of phase "corpus". Any other has a line for
each phase it could enter: phase1 and phase2 for a paper, general for general text. So for each source, file and phase,
with the lines of "corpus" counted in: in = kept + heldout + duplicate + dropped + unused, in records and characters.

It is put together part by part from what the stages left; memory holds one part and the counts.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsllm_lite.artifact.disk import whole_file
from nsllm_lite.corpus.assign import DROPPED, HELDOUT, KEPT, OUTCOMES, REASONS, Choice
from nsllm_lite.corpus.near_heldout import NEAR_REASON
from nsllm_lite.corpus.parts import Part
from nsllm_lite.terminal import as_text

PHASES = ("phase1", "phase2", "general")
SCHEMA = pa.schema(
    [
        *((c, pa.string()) for c in ("id", "source", "file", "origin", "phase", "outcome", "reason", "other_id")),
        ("chars", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
FILE_SCHEMA = pa.schema(
    [*((c, pa.string()) for c in ("source", "file", "phase", "outcome", "reason")), ("records", pa.int64())]
    + [(c, pa.int64()) for c in ("chars", "tokens")]
)
STRETCH = r"@\d+$"  # a large file is read in stretches, each named by its first byte

Tokens = dict[tuple[str, str], np.ndarray]  # by phase and split: of each document in order


class Names:
    """The ids of candidates by their number among those of all parts."""

    def __init__(self, parts: list[Part]):
        self._parts = parts
        self._firsts = np.array([part.first for part in parts])

    def of(self, numbers: np.ndarray) -> dict[int, str]:
        found: dict[int, str] = {}
        wanted = np.unique(numbers[numbers >= 0])
        owners = np.searchsorted(self._firsts, wanted, side="right") - 1
        for owner in np.unique(owners).tolist():
            inside = wanted[owners == owner]
            ids = self._parts[owner].ids.take(pa.array(inside - self._parts[owner].first))
            found.update(zip(inside.tolist(), ids.to_pylist(), strict=True))
        return found


def write(folder: Path, work: Path, parts: list[Part], choice: Choice, tokens: Tokens | None) -> dict:
    """Writes ledger.parquet (a line a record and phase), ledger_files.parquet (counts by file) and dropped.jsonl.

    Returns {"documents": {source: counts}, "phases": {phase: {source: counts}}}. Before packing `tokens` is None.
    """
    names = Names(parts)
    taken: Counter[tuple[str, str]] = Counter()
    sums: Counter[tuple] = Counter()
    with (
        whole_file(folder / "ledger.parquet") as records_file,
        whole_file(folder / "ledger_files.parquet") as files_file,
        whole_file(folder / "dropped.jsonl") as dropped_file,
        pq.ParquetWriter(records_file, SCHEMA, compression="zstd") as writer,
        pq.ParquetWriter(files_file, FILE_SCHEMA, compression="zstd") as by_file,
        open(dropped_file, "w", encoding="utf-8") as dropped,
    ):
        for part in parts:
            table, whole = _entries(part, choice, work, names, tokens, taken)
            writer.write_table(table)
            _count(table, by_file, sums)
            _count_whole(whole, part.source, sums)
            dropped.writelines(_dropped_lines(part, work, names))
    summary = _summary(sums, {part.source: part.phases for part in parts})
    for table in (summary["documents"], *summary["phases"].values()):
        for counts in table.values():
            for unit in (counts, counts["chars"]):
                out = sum(unit[o] for o in OUTCOMES if o != "dropped") + sum(unit["dropped"].values())
                assert unit["in"] == out, f"the ledger does not add up: {counts}"
    return summary


def _entries(
    part: Part, choice: Choice, work: Path, names: Names, tokens: Tokens | None, taken: Counter[tuple[str, str]]
) -> tuple[pa.Table, pa.Table]:
    """A part's lines of the ledger (those of records dropped at once, then of candidates phase by phase), and what
    became of each record as a whole: kept or held out if it was in any phase."""
    records = pq.read_table(part.folder / "records.parquet")
    origins = pc.split_pattern(records["origin"], "#", max_splits=1, reverse=True)
    records = records.append_column("file", pc.replace_substring_regex(pc.list_element(origins, 0), STRETCH, ""))
    is_candidate = pc.equal(records["reason"], "")
    at_once = records.filter(pc.invert(is_candidate))
    lines = [_lines(at_once, part, "corpus", ["dropped"] * len(at_once), at_once["reason"], at_once["other"], 0)]

    candidates = records.filter(is_candidate)
    near = np.load(work / "near" / f"{part.name}.npy")
    outcome, other = np.array(choice.outcome[part.span]), np.array(choice.other[part.span])
    outcome[near >= 0], other[near >= 0] = DROPPED, near[near >= 0]
    reason = np.array([*REASONS, NEAR_REASON])[np.where(near >= 0, len(REASONS), choice.reason[part.span])]
    other_names = names.of(other)
    others = np.array([other_names.get(number, "") for number in other.tolist()], object)

    enters = np.isin(outcome, (KEPT, HELDOUT))
    lines.append(_chosen(candidates, ~enters, part, "corpus", outcome, reason, others, np.zeros(len(near), int)))
    for phase in part.phases:
        fits = part.fits(phase)
        why = np.array([reasons[phase] for reasons in part.why] or [""], object)[part.keys["why"]]
        in_phase = np.where(fits, outcome, DROPPED)
        num_tokens = np.zeros(len(near), np.int64)
        for split, code in (("train", KEPT), ("heldout", HELDOUT)):
            here = np.flatnonzero((in_phase == code) & enters)
            start = taken[phase, split]
            if tokens:
                num_tokens[here] = tokens[phase, split][start : start + len(here)]
            taken[phase, split] += len(here)
        lines.append(_chosen(candidates, enters, part, phase, in_phase, np.where(fits, "", why), others, num_tokens))
    whole = {
        "outcome": np.concatenate((["dropped"] * len(at_once), np.array(OUTCOMES)[outcome])),
        "reason": np.concatenate((at_once["reason"].to_pylist(), reason)),
        "chars": pa.concat_arrays([*at_once["chars"].chunks, *candidates["chars"].chunks]),
    }
    return pa.concat_tables(lines), pa.table(whole)


def _chosen(
    candidates: pa.Table,
    mask: np.ndarray,
    part: Part,
    phase: str,
    outcome: np.ndarray,
    reason: np.ndarray,
    others: np.ndarray,
    tokens: np.ndarray,
) -> pa.Table:
    """The lines of the candidates of `mask` in one phase."""
    words = np.array(OUTCOMES)[outcome[mask]].tolist()
    chosen = candidates.filter(pa.array(mask))
    return _lines(chosen, part, phase, words, reason[mask].tolist(), others[mask].tolist(), tokens[mask])


def _lines(
    records: pa.Table,
    part: Part,
    phase: str,
    outcome: list[str],
    reason: list[str] | pa.ChunkedArray,
    other: list[str] | pa.ChunkedArray,
    tokens: np.ndarray | int,
) -> pa.Table:
    columns = {
        "id": records["id"],
        "source": [part.source] * len(records),
        "file": records["file"],
        "origin": records["origin"],
        "phase": [phase] * len(records),
        "outcome": outcome,
        "reason": reason,
        "other_id": other,
        "chars": records["chars"],
        "tokens": np.broadcast_to(tokens, len(records)),
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA)


def _count(table: pa.Table, by_file: pq.ParquetWriter, sums: Counter[tuple]) -> None:
    """Adds a part's lines up by file, and what they come to in each source and phase."""
    keys = ["source", "file", "phase", "outcome", "reason"]
    groups = table.group_by(keys).aggregate([("id", "count"), ("chars", "sum"), ("tokens", "sum")])
    groups = groups.rename_columns([*keys, "records", "chars", "tokens"]).sort_by([(k, "ascending") for k in keys])
    by_file.write_table(groups.select(FILE_SCHEMA.names).cast(FILE_SCHEMA))
    for row in groups.to_pylist():
        for unit in ("records", "chars", "tokens"):
            sums[row["phase"], row["source"], row["outcome"], row["reason"], unit] += row[unit]


def _count_whole(whole: pa.Table, source: str, sums: Counter[tuple]) -> None:
    groups = whole.group_by(["outcome", "reason"]).aggregate([("chars", "count"), ("chars", "sum")])
    for row in groups.to_pylist():
        sums["all", source, row["outcome"], row["reason"], "records"] += row["chars_count"]
        sums["all", source, row["outcome"], row["reason"], "chars"] += row["chars_sum"]


def _summary(sums: Counter[tuple], phases_of: dict[str, tuple[str, ...]]) -> dict:
    """{"documents": {source: counts}, "phases": {phase: {source: counts}}}, counts in records, chars and tokens."""
    documents: dict[str, dict] = {source: _empty() for source in phases_of}
    phases: dict[str, dict] = {p: {s: _empty() for s, own in phases_of.items() if p in own} for p in PHASES}
    for (phase, source, outcome, reason, unit), number in sorted(sums.items()):
        if phase == "all":
            tables = [documents]
        else:
            tables = [phases[p] for p in (phases_of[source] if phase == "corpus" else (phase,))]
        for counts in (table[source] for table in tables):
            place = counts if unit == "records" else counts[unit]
            place["in"] += number
            if outcome == "dropped":
                place["dropped"][reason] = place["dropped"].get(reason, 0) + number
            else:
                place[outcome] += number
    return {"documents": documents, "phases": phases}


def _empty() -> dict:
    def zeros() -> dict:
        return {"in": 0, **{o: 0 for o in OUTCOMES if o != "dropped"}, "dropped": {}}

    return {**zeros(), "chars": zeros(), "tokens": zeros()}


def _dropped_lines(part: Part, work: Path, names: Names) -> Iterator[str]:
    with open(part.folder / "dropped.jsonl", encoding="utf-8") as file:
        yield from file
    with open(work / "near" / f"{part.name}.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    others = names.of(np.array([line["other"] for line in lines], np.int64))
    for line in lines:
        number, text = line.pop("other"), line.pop("text")
        yield json.dumps({**line, "other_id": others[number], "text": text}, ensure_ascii=False) + "\n"


def table(counts_by_source: dict[str, dict]) -> str:
    """The counts as lines of text, the reasons beneath."""
    names = [*counts_by_source, *(["all"] if len(counts_by_source) > 1 else [])]
    rows = {**counts_by_source, "all": _total(counts_by_source.values())}
    columns = ("in", "kept", "heldout", "duplicate", "dropped", "unused")
    lines = []
    for name in names:
        counts = rows[name]
        numbers = [sum(counts[c].values()) if c == "dropped" else counts[c] for c in columns]
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(counts["dropped"].items(), key=lambda x: -x[1]))
        lines.append((name, *(f"{n:,}" for n in numbers), reasons))
    return as_text(("source", *columns, "reasons"), lines, right=columns)


def _total(tables: Iterable[dict]) -> dict:
    numbers: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for counts in tables:
        numbers.update({key: counts[key] for key in ("in", *OUTCOMES) if key != "dropped"})
        dropped.update(counts["dropped"])
    return {**numbers, "dropped": dict(dropped)}
