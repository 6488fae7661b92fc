"""The ledger: every record that enters ends in exactly one of kept, heldout, duplicate, dropped, unused.

A record dropped for all phases has one entry, of phase "corpus". Any other has one entry for each phase it could enter:
phase1 and phase2 for a paper, general for general text. So for each source, file and phase:
in = kept + heldout + duplicate + dropped + unused.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite import run

OUTCOMES = ("kept", "heldout", "duplicate", "dropped", "unused")
SCHEMA = pa.schema(
    [
        *((c, pa.string()) for c in ("id", "source", "file", "origin", "phase", "outcome", "reason", "other_id")),
        ("chars", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
BATCH = 10_000


class Decision(NamedTuple):
    outcome: str
    reason: str = ""
    other: int = -1  # the entry this one repeats


class Ledger:
    """Columns in memory (under 1 KiB a record, measured on 200,000 abstracts), dropped records on disk as they come."""

    def __init__(self, general_sources: Iterable[str], dropped: TextIO):
        self.general_sources = frozenset(general_sources)
        self._dropped = dropped
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.origins: list[str] = []
        self.chars: list[int] = []
        self.decisions: dict[str, dict[int, Decision]] = {p: {} for p in ("corpus", "phase1", "phase2", "general")}
        self._known: dict[Decision, Decision] = {}  # most records share one of a dozen decisions
        self.tokens: dict[str, dict[int, int]] = {"phase1": {}, "phase2": {}, "general": {}}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, name: str, source: str, origin: str, chars: int) -> int:
        """A record has been read; returns its index."""
        self.ids.append(name)
        self.sources.append(source)
        self.origins.append(origin)
        self.chars.append(chars)
        return len(self.ids) - 1

    def phases(self, index: int) -> tuple[str, ...]:
        return ("general",) if self.sources[index] in self.general_sources else ("phase1", "phase2")

    def decide(self, index: int, phase: str, outcome: str, reason: str = "", other: int = -1) -> None:
        assert outcome in OUTCOMES
        assert index not in self.decisions[phase], f"{self.ids[index]} decided twice in {phase}"
        decision = Decision(outcome, reason, other)
        self.decisions[phase][index] = self._known.setdefault(decision, decision) if other < 0 else decision

    def drop(self, index: int, reason: str, text: str, other: int = -1) -> None:
        """Dropped for every phase, and readable in dropped.jsonl."""
        self.decide(index, "corpus", "dropped", reason, other)
        line = {"id": self.ids[index], "source": self.sources[index], "origin": self.origins[index], "reason": reason}
        if other >= 0:
            line["other_id"] = self.ids[other]
        self._dropped.write(json.dumps({**line, "text": " ".join(text[:600].split())}, ensure_ascii=False) + "\n")

    def overall(self, index: int) -> Decision:
        """What became of the record as a whole: kept or held out in any phase, or else why not in the first."""
        if index in self.decisions["corpus"]:
            return self.decisions["corpus"][index]
        decisions = [self.decisions[phase][index] for phase in self.phases(index)]
        return next((d for d in decisions if d.outcome in ("kept", "heldout")), decisions[0])

    def check(self) -> None:
        """The law: each record has a corpus entry, or else one in each of its phases and in no other."""
        for index in range(len(self)):
            found = tuple(phase for phase, entries in self.decisions.items() if index in entries)
            assert found in (("corpus",), self.phases(index)), f"{self.origins[index]} is decided in {found}"

    def summary(self) -> dict:
        """Counts of the whole, by phase and by file: {"documents": {source: counts}, "phases": ..., "files": ...}."""
        documents: dict[str, Counter] = defaultdict(Counter)
        files: dict[str, dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
        phases: dict[str, dict[str, Counter]] = {p: defaultdict(Counter) for p in self.tokens}
        for index, source in enumerate(self.sources):
            decision = self.overall(index)
            _count(documents[source], decision)
            _count(files[source][_file(self.origins[index])], decision)
            for phase in self.phases(index):
                _count(phases[phase][source], self.decisions[phase].get(index, decision))
        summary = {
            "documents": {source: _tidy(c) for source, c in documents.items()},
            "files": {source: {f: _tidy(c) for f, c in by.items()} for source, by in files.items()},
            "phases": {phase: {source: _tidy(c) for source, c in by.items()} for phase, by in phases.items()},
        }
        tables = [summary["documents"], *summary["files"].values(), *summary["phases"].values()]
        for counts in (c for table in tables for c in table.values()):
            assert counts["in"] == sum(counts[o] for o in OUTCOMES if o != "dropped") + sum(counts["dropped"].values())
        return summary

    def write(self, folder: Path, summary: dict) -> None:
        run.write_json(folder / "ledger.json", summary)
        with pq.ParquetWriter(folder / "ledger.parquet", SCHEMA, compression="zstd") as writer:
            batch: list[dict] = []
            for row in self._rows():
                batch.append(row)
                if len(batch) == BATCH:
                    writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
                    batch = []
            writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))

    def _rows(self) -> Iterator[dict]:
        for index, name in enumerate(self.ids):
            for phase, entries in self.decisions.items():
                if index in entries:
                    decision = entries[index]
                    yield {
                        "id": name,
                        "source": self.sources[index],
                        "file": _file(self.origins[index]),
                        "origin": self.origins[index],
                        "phase": phase,
                        "outcome": decision.outcome,
                        "reason": decision.reason,
                        "other_id": self.ids[decision.other] if decision.other >= 0 else "",
                        "chars": self.chars[index],
                        "tokens": self.tokens.get(phase, {}).get(index, 0),
                    }


def _file(origin: str) -> str:
    return origin.rsplit("#", 1)[0]


def _count(counts: Counter, decision: Decision) -> None:
    counts["in"] += 1
    counts[decision.outcome if decision.outcome != "dropped" else f"dropped:{decision.reason}"] += 1


def _tidy(counts: Counter) -> dict:
    dropped = {key.removeprefix("dropped:"): n for key, n in sorted(counts.items()) if key.startswith("dropped:")}
    return {"in": counts["in"], **{o: counts[o] for o in OUTCOMES if o != "dropped"}, "dropped": dropped}


def table(counts_by_source: dict[str, dict]) -> str:
    """The counts as lines of text, the reasons beneath."""
    names = [*counts_by_source, *(["all"] if len(counts_by_source) > 1 else [])]
    total: Counter = Counter()
    for counts in counts_by_source.values():
        total.update({key: n for key, n in counts.items() if key != "dropped"})
        total.update({f"dropped:{reason}": n for reason, n in counts["dropped"].items()})
    rows = {**counts_by_source, "all": _tidy(total)}
    width = max(10, *map(len, names))
    columns = ("in", "kept", "heldout", "duplicate", "dropped", "unused")
    lines = [" ".join([f"{'source':<{width}}", *(f"{c:>9}" for c in columns), " reasons"])]
    for name in names:
        counts = rows[name]
        numbers = [sum(counts[c].values()) if c == "dropped" else counts[c] for c in columns]
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(counts["dropped"].items(), key=lambda x: -x[1]))
        lines.append(" ".join([f"{name:<{width}}", *(f"{n:>9,}" for n in numbers), f" {reasons}"]).rstrip())
    return "\n".join(lines)
