"""The ledger: every record that enters ends in exactly one of kept, heldout, duplicate, dropped, unused.

One that is dropped for all phases, a duplicate, or unused has one line, of phase "corpus". Any other has a line for
each phase it could enter: phase1 and phase2 for a paper, general for general text. So for each source, file and phase,
with the lines of "corpus" counted in: in = kept + heldout + duplicate + dropped + unused, in records and characters.

It is built part by part from the files of the stages; memory holds one part and the counts.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsllm_lite.artifact.disk import whole_file
from nsllm_lite.corpus.assign import DROPPED, HELDOUT, KEPT, OUTCOMES, REASONS, SPLITS
from nsllm_lite.corpus.near_heldout import final_choice
from nsllm_lite.corpus.parts import Part
from nsllm_lite.corpus.texts.render import RENDER
from nsllm_lite.terminal import as_text

UNITS = ("records", "chars", "tokens")
FILE_KEYS = ["source", "file", "phase", "outcome", "reason"]
SCHEMA = pa.schema(
    [
        *((c, pa.string()) for c in ("id", "source", "file", "origin", "phase", "outcome", "reason", "other_id")),
        ("chars", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
FILE_SCHEMA = pa.schema([*((c, pa.string()) for c in FILE_KEYS), *((c, pa.int64()) for c in UNITS)])
STRETCH = r"@\d+$"  # a large file is read in stretches, each named by its first byte

_WORDS = np.array(OUTCOMES, object)
Tokens = dict[tuple[str, str], np.ndarray]  # by phase and split: of each document in order


def ids_of(parts: list[Part], numbers: np.ndarray) -> dict[int, str]:
    """The ids of candidates by their number among those of all parts; -1 is none."""
    found: dict[int, str] = {}
    wanted = np.unique(numbers[numbers >= 0])
    owners = np.searchsorted([part.first for part in parts], wanted, side="right") - 1
    for owner in np.unique(owners).tolist():
        inside = wanted[owners == owner]
        ids = parts[owner].ids.take(pa.array(inside - parts[owner].first))
        found.update(zip(inside.tolist(), ids.to_pylist(), strict=True))
    return found


def write(folder: Path, work: Path, parts: list[Part], tokens: Tokens) -> dict:
    """Writes ledger.parquet (a line a record and phase) and ledger_files.parquet (by file), and returns the counts."""
    with (
        whole_file(folder / "ledger.parquet") as records_file,
        whole_file(folder / "ledger_files.parquet") as files_file,
        pq.ParquetWriter(records_file, SCHEMA, compression="zstd") as writer,
        pq.ParquetWriter(files_file, FILE_SCHEMA, compression="zstd") as by_file,
    ):

        def keep(lines: pa.Table, groups: pa.Table) -> None:
            writer.write_table(lines)
            by_file.write_table(groups.select(FILE_SCHEMA.names).cast(FILE_SCHEMA))

        return count(work, parts, tokens, keep)


def write_dropped(folder: Path, work: Path, parts: list[Part]) -> None:
    """Writes dropped.jsonl: the beginning of every record that was dropped for all phases."""
    with whole_file(folder / "dropped.jsonl") as made, open(made, "w", encoding="utf-8") as file:
        for part in parts:
            file.writelines(_dropped_lines(part, work, parts))


def count(
    work: Path,
    parts: list[Part],
    tokens: Tokens | None = None,
    keep: Callable[[pa.Table, pa.Table], None] = lambda lines, groups: None,
) -> dict:
    """{"documents": {source: counts}, "phases": {phase: {source: counts}}}; `tokens` is None before packing.

    `keep` is called with each part's lines, and with their sums by file.
    """
    taken: Counter[tuple[str, str]] = Counter()
    sums: Counter[tuple] = Counter()
    num_records: Counter[str] = Counter()  # that reading has written, by source
    for part in parts:
        num_records[part.source] += pq.read_metadata(part.folder / "records.parquet").num_rows
        lines, whole = _entries(part, work, parts, tokens, taken)
        groups = lines.group_by(FILE_KEYS).aggregate([("id", "count"), ("chars", "sum"), ("tokens", "sum")])
        groups = groups.rename_columns([*FILE_KEYS, *UNITS]).sort_by([(key, "ascending") for key in FILE_KEYS])
        for row in groups.to_pylist():
            for unit in UNITS:
                sums[row["phase"], row["source"], row["outcome"], row["reason"], unit] += row[unit]
        _count_whole(whole, part.source, sums)
        keep(lines, groups)
    summary = _summary(sums, {part.source: part.phases for part in parts})
    for table in (summary["documents"], *summary["phases"].values()):
        for source, counts in table.items():
            assert counts["in"] == num_records[source], f"the ledger does not add up: {num_records[source]}, {counts}"
    return summary


def _entries(
    part: Part, work: Path, parts: list[Part], tokens: Tokens | None, taken: Counter[tuple[str, str]]
) -> tuple[pa.Table, pa.Table]:
    """A part's lines of the ledger (those of records dropped at once, then of candidates phase by phase), and what
    became of each record as a whole: kept or held out if it was in any phase."""
    records = pq.read_table(part.folder / "records.parquet")
    origins = pc.split_pattern(records["origin"], "#", max_splits=1, reverse=True)
    records = records.append_column("file", pc.replace_substring_regex(pc.list_element(origins, 0), STRETCH, ""))
    is_candidate = pc.equal(records["reason"], "")
    at_once, candidates = records.filter(pc.invert(is_candidate)), records.filter(is_candidate)
    dropped = np.full(len(at_once), "dropped", object)

    final = np.load(final_choice(work, part))
    outcome, reason = final["outcome"], np.array(REASONS, object)[final["reason"]]
    other_names = ids_of(parts, final["other"])
    others = np.array([other_names.get(number, "") for number in final["other"].tolist()], object)
    enters = np.isin(outcome, (KEPT, HELDOUT))

    lines = [_lines(at_once, part, "corpus", dropped, at_once["reason"], at_once["other"], 0)]
    lines.append(_lines(candidates, part, "corpus", _WORDS[outcome], reason, others, 0).filter(pa.array(~enters)))
    for phase in part.phases:
        fits = part.fits(phase)
        why = np.array([reasons[phase] for reasons in part.why] or [""], object)[part.keys["why"]]
        num_tokens = np.zeros(len(final), np.int64)
        for split, code in SPLITS.items() if tokens else ():
            here = np.flatnonzero(fits & (outcome == code))
            start = taken[phase, split]
            num_tokens[here] = tokens[phase, split][start : start + len(here)]
            taken[phase, split] += len(here)
        in_phase = _WORDS[np.where(fits, outcome, DROPPED)]
        own = _lines(candidates, part, phase, in_phase, np.where(fits, "", why), others, num_tokens)
        lines.append(own.filter(pa.array(enters)))
    whole = {
        "outcome": np.concatenate((dropped, _WORDS[outcome])),
        "reason": np.concatenate((at_once["reason"].to_pylist(), reason)),
        "chars": pa.concat_arrays([*at_once["chars"].chunks, *candidates["chars"].chunks]),
    }
    return pa.concat_tables(lines), pa.table(whole)


def _lines(
    records: pa.Table,
    part: Part,
    phase: str,
    outcome: np.ndarray,
    reason: np.ndarray | pa.ChunkedArray,
    other: np.ndarray | pa.ChunkedArray,
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
    return pa.table(columns, SCHEMA)


def _count_whole(whole: pa.Table, source: str, sums: Counter[tuple]) -> None:
    groups = whole.group_by(["outcome", "reason"]).aggregate([("chars", "count"), ("chars", "sum")])
    for row in groups.to_pylist():
        sums["all", source, row["outcome"], row["reason"], "records"] += row["chars_count"]
        sums["all", source, row["outcome"], row["reason"], "chars"] += row["chars_sum"]


def _summary(sums: Counter[tuple], phases_of: dict[str, tuple[str, ...]]) -> dict:
    """{"documents": {source: counts}, "phases": {phase: {source: counts}}}, counts in records, chars and tokens."""
    documents: dict[str, dict] = {source: _empty() for source in phases_of}
    phases: dict[str, dict] = {p: {s: _empty() for s, own in phases_of.items() if p in own} for p in RENDER}
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


def _dropped_lines(part: Part, work: Path, parts: list[Part]) -> Iterator[str]:
    with open(part.folder / "dropped.jsonl", encoding="utf-8") as file:
        yield from file
    with open(work / "near" / f"{part.name}.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    others = ids_of(parts, np.array([line["other"] for line in lines], np.int64))
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
