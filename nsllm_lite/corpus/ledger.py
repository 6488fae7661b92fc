"""The ledger: every record that enters ends in exactly one of kept, heldout, duplicate, dropped, unused.

One that is dropped for all phases, a duplicate, or unused has one line, of phase "corpus". Any other has a line for
each phase it could enter: phase1 and phase2 for a paper, general for general text. So for each source, file and phase,
with the lines of "corpus" counted in: in = kept + heldout + duplicate + dropped + unused, in records and characters.

It is built part by part from the files of the stages; memory holds one part and the counts.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsllm_lite.artifact.disk import save_picture, whole_file
from nsllm_lite.corpus.assign import DROPPED, HELDOUT, KEPT, OUTCOMES, REASONS, SPLITS
from nsllm_lite.corpus.near_heldout import final_choice
from nsllm_lite.corpus.parts import Part
from nsllm_lite.corpus.texts.render import RENDER
from nsllm_lite.terminal import as_text

UNITS = ("records", "chars", "tokens")
FILE_KEYS = ["source", "file", "language", "phase", "outcome", "reason"]
TEXTS = ("id", "source", "file", "origin", "language", "phase", "outcome", "reason", "other_id")
SCHEMA = pa.schema([*((c, pa.string()) for c in TEXTS), ("chars", pa.int64()), ("tokens", pa.int64())])
FILE_SCHEMA = pa.schema([*((c, pa.string()) for c in (*FILE_KEYS, "encoding")), *((c, pa.int64()) for c in UNITS)])
UNCERTAIN = "uncertain"  # the language of a short text, or of one that was dropped before
STRETCH = r"@\d+$"  # a large file is read in stretches, each named by its first byte

COLOURS = {"kept": "#2a7f62", "heldout": "#8fc1a9", "duplicate": "#c9b458", "unused": "#b0b0b0"}
REASON_COLOURS = ("#a83232", "#c75b4a", "#de8a6a", "#edb99a", "#7a2e4e", "#955980", "#b58bb0", "#5c4033")
OTHER_REASONS = "#333333"
LEGEND_COLUMNS = 5

_WORDS = np.array(OUTCOMES, object)
Column = np.ndarray | pa.ChunkedArray
Encodings = dict[tuple[str, str], str]  # by source and file, where they are not only UTF-8
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


def write(folder: Path, work: Path, parts: list[Part], tokens: Tokens, encodings: Encodings) -> dict:
    """Writes ledger.parquet (a line a record and phase) and ledger_files.parquet (by file), and returns the counts."""
    with (
        whole_file(folder / "ledger.parquet") as records_file,
        whole_file(folder / "ledger_files.parquet") as files_file,
        pq.ParquetWriter(records_file, SCHEMA, compression="zstd") as writer,
        pq.ParquetWriter(files_file, FILE_SCHEMA, compression="zstd") as by_file,
    ):
        return count(work, parts, tokens, (writer, by_file), encodings)


def encodings_of(answers: Iterable[tuple[str, dict]]) -> Encodings:
    """The encodings beside UTF-8, from the reading stage's answers, each with its source."""
    found: dict[tuple[str, str], set[str]] = {}
    for source, answer in answers:
        for name, used in answer["encodings"].items():
            found.setdefault((source, re.sub(STRETCH, "", name)), set()).update(used)
    return {key: " ".join(sorted(used)) for key, used in found.items()}


def write_dropped(folder: Path, work: Path, parts: list[Part]) -> None:
    """Writes dropped.jsonl: the beginning of every record that was dropped for all phases."""
    with whole_file(folder / "dropped.jsonl") as made, open(made, "w", encoding="utf-8") as file:
        for part in parts:
            with open(part.folder / "dropped.jsonl", encoding="utf-8") as dropped:
                file.writelines(dropped)
            with open(work / "near" / f"{part.name}.jsonl", encoding="utf-8") as near:
                lines = [json.loads(line) for line in near]
            others = ids_of(parts, np.array([line["other"] for line in lines], np.int64))
            for line in lines:
                number, text = line.pop("other"), line.pop("text")
                line |= {"other_id": others[number], "text": text}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def count(
    work: Path,
    parts: list[Part],
    tokens: Tokens | None = None,
    writers: tuple[pq.ParquetWriter, ...] = (),
    encodings: Encodings | None = None,
) -> dict:
    """{"documents": {source: counts}, "languages": {language: counts}, "phases": {phase: {source: counts}}}.

    `tokens` is None before packing.

    Of `writers` the first gets each part's lines, the other their sums by file, with its encodings.
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
        groups_of_whole = whole.group_by(["language", "outcome", "reason"])
        for row in groups_of_whole.aggregate([("chars", "count"), ("chars", "sum")]).to_pylist():
            for table, name in (("all", part.source), ("languages", row["language"] or UNCERTAIN)):
                sums[table, name, row["outcome"], row["reason"], "records"] += row["chars_count"]
                sums[table, name, row["outcome"], row["reason"], "chars"] += row["chars_sum"]
        written_in = [(encodings or {}).get((part.source, name), "utf-8") for name in groups["file"].to_pylist()]
        groups = groups.append_column("encoding", pa.array(written_in, pa.string()))
        for writer, made in zip(writers, (lines, groups.select(FILE_SCHEMA.names).cast(FILE_SCHEMA)), strict=False):
            writer.write_table(made)
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
    records = records.append_column("source", pa.array([part.source] * len(records), pa.string()))
    is_candidate = pc.equal(records["reason"], "")
    at_once, candidates = records.filter(pc.invert(is_candidate)), records.filter(is_candidate)
    dropped = np.full(len(at_once), "dropped", object)

    final = np.load(final_choice(work, part))
    outcome, reason = final["outcome"], np.array(REASONS, object)[final["reason"]]
    other_names = ids_of(parts, final["other"])
    others = np.array([other_names.get(number, "") for number in final["other"].tolist()], object)
    enters = np.isin(outcome, (KEPT, HELDOUT))

    lines = [_lines(at_once, "corpus", dropped, at_once["reason"], at_once["other"], 0)]
    lines.append(_lines(candidates, "corpus", _WORDS[outcome], reason, others, 0).filter(pa.array(~enters)))
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
        own = _lines(candidates, phase, in_phase, np.where(fits, "", why), others, num_tokens)
        lines.append(own.filter(pa.array(enters)))
    whole = {
        "language": pa.concat_arrays([*at_once["language"].chunks, *candidates["language"].chunks]),
        "outcome": np.concatenate((dropped, _WORDS[outcome])),
        "reason": np.concatenate((at_once["reason"].to_pylist(), reason)),
        "chars": pa.concat_arrays([*at_once["chars"].chunks, *candidates["chars"].chunks]),
    }
    return pa.concat_tables(lines), pa.table(whole)


def _lines(
    records: pa.Table, phase: str, outcome: np.ndarray, reason: Column, other: Column, tokens: np.ndarray | int
) -> pa.Table:
    columns = {name: records[name] for name in ("id", "source", "file", "origin", "language", "chars")}
    columns |= {"phase": [phase] * len(records), "outcome": outcome, "reason": reason, "other_id": other}
    return pa.table(columns | {"tokens": np.broadcast_to(tokens, len(records))}, SCHEMA)


def _summary(sums: Counter[tuple], phases_of: dict[str, tuple[str, ...]]) -> dict:
    """What `count` returns; counts in records, chars and tokens."""
    documents: dict[str, dict] = {source: _empty() for source in phases_of}
    languages: dict[str, dict] = {name: _empty() for name in sorted({key[1] for key in sums if key[0] == "languages"})}
    phases: dict[str, dict] = {p: {s: _empty() for s, own in phases_of.items() if p in own} for p in RENDER}
    for (phase, source, outcome, reason, unit), number in sorted(sums.items()):
        if phase == "all":
            tables = [documents]
        elif phase == "languages":
            tables = [languages]
        else:
            tables = [phases[p] for p in (phases_of[source] if phase == "corpus" else (phase,))]
        for counts in (table[source] for table in tables):
            place = counts if unit == "records" else counts[unit]
            place["in"] += number
            if outcome == "dropped":
                place["dropped"][reason] = place["dropped"].get(reason, 0) + number
            else:
                place[outcome] += number
    return {"documents": documents, "languages": languages, "phases": phases}


def _empty() -> dict:
    def zeros() -> dict:
        return {"in": 0, **{o: 0 for o in OUTCOMES if o != "dropped"}, "dropped": {}}

    return {**zeros(), "chars": zeros(), "tokens": zeros()}


def table(counts_by_source: dict[str, dict]) -> str:
    """The counts as lines of text, the reasons beneath."""
    names = [*counts_by_source, *(["all"] if len(counts_by_source) > 1 else [])]
    rows = {**counts_by_source, "all": total(counts_by_source.values())}
    columns = ("in", "kept", "heldout", "duplicate", "dropped", "unused")
    lines = []
    for name in names:
        counts = rows[name]
        numbers = [sum(counts[c].values()) if c == "dropped" else counts[c] for c in columns]
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(counts["dropped"].items(), key=lambda x: -x[1]))
        lines.append((name, *(f"{n:,}" for n in numbers), reasons))
    return as_text(("source", *columns, "reasons"), lines, right=columns)


def total(tables: Iterable[dict]) -> dict:
    """The counts of all tables together, in records."""
    numbers: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for counts in tables:
        numbers.update({key: counts[key] for key in ("in", *OUTCOMES) if key != "dropped"})
        dropped.update(counts["dropped"])
    return {**numbers, "dropped": dict(dropped)}


def draw(summary: dict, path: Path) -> None:
    """A picture: one bar a source, in shares of its records, with the count beside it; dropped records by reason."""
    from matplotlib.figure import Figure

    table = summary["documents"]
    totals = Counter(reason for counts in table.values() for reason in Counter(counts["dropped"]).elements())
    reasons = [reason for reason, _ in totals.most_common()]
    num_labels = len(COLOURS) + min(len(reasons), len(REASON_COLOURS) + 1)
    num_lines = -(-num_labels // LEGEND_COLUMNS)
    figure = Figure((10, 1.5 + 0.36 * len(table) + 0.22 * num_lines), layout="constrained")
    axes = figure.subplots()
    names = list(table)[::-1]
    left = [0.0] * len(names)

    def stack(label: str, numbers: list[int], colour: str) -> None:
        shares = [number / max(1, table[name]["in"]) for name, number in zip(names, numbers, strict=True)]
        axes.barh(names, shares, left=left, color=colour, label=label, height=0.75)
        left[:] = [a + b for a, b in zip(left, shares, strict=True)]

    for outcome, colour in COLOURS.items():
        stack(outcome, [table[name][outcome] for name in names], colour)
    for reason, colour in zip(reasons, REASON_COLOURS, strict=False):
        stack(f"dropped: {reason}", [table[name]["dropped"].get(reason, 0) for name in names], colour)
    if rare := reasons[len(REASON_COLOURS) :]:
        rest = [sum(table[name]["dropped"].get(reason, 0) for reason in rare) for name in names]
        stack(f"dropped: {len(rare)} other reasons", rest, OTHER_REASONS)
    for place, name in enumerate(names):
        axes.text(1.01, place, f"{table[name]['in']:,}", va="center", fontsize=8)
    axes.set(xlim=(0, 1), xlabel="share of the records that came in", title="What became of every record")
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)
    save_picture(figure, path, dpi=130)
