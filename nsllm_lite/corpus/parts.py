"""A part: up to PART_DOCUMENTS documents on disk, as the reading stage leaves them for the later stages.

    records.parquet    every record read: id, origin, characters, language where certain, and why it was dropped at once
                       (empty if it was not)
    dropped.jsonl      the beginning of each dropped record
    documents.parquet  the others, the candidates, in the same order
    ids.arrow          their ids
    keys.npy           one entry a candidate (KEYS)
    bands.u64          band keys of the near-duplicate search, band by band
    shingles.u64, starts.npy   word 5-grams of each candidate, end to end
    part.json          the source, and the tables that codes in keys.npy point into

All but keys.npy is read only when used.
"""

import json
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.corpus import dedup
from nsllm_lite.formats.documents import TEXTUAL, Document, documents_in, parquet_writer, table_of

PART_DOCUMENTS = 100_000
PART_CHARS = 1 << 30
BATCH = 1_000
HEAD_CHARS = 600  # of a dropped record, for dropped.jsonl
_CODES = ("chars", "why", "discipline", "lost")
KEYS = np.dtype([*((key, "u8") for key in ("id", "doi", "text")), *((key, "u4") for key in _CODES), ("printed", "?")])
_COLUMNS = ("id", "origin", "chars", "reason", "other", "language")
RECORDS = pa.schema([(name, pa.int64() if name == "chars" else pa.string()) for name in _COLUMNS])
IDS = pa.schema([("id", pa.string())])


class PartWriter:
    """Takes records in order; the folder appears under its name when `close` has written everything."""

    def __init__(self, folder: Path, source: str, general: bool, threshold: float):
        self.folder, self._made = folder, folder.with_name(folder.name + ".part")
        shutil.rmtree(self._made, ignore_errors=True)
        self._made.mkdir(parents=True)
        self._info = {"source": source, "general": general, "why": [], "disciplines": []}
        self._codes: dict[tuple, int] = {}
        self._threshold = threshold
        self._records: list[tuple] = []
        self._record_writer = pq.ParquetWriter(self._made / "records.parquet", RECORDS, compression="zstd")
        self._document_writer = parquet_writer(self._made / "documents.parquet")
        self._dropped = open(self._made / "dropped.jsonl", "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._shingle_file = open(self._made / "shingles.u64", "wb")  # noqa: SIM115
        self._ids: list[str] = []
        # Of the candidates since the last flush:
        self._documents: list[Document] = []
        self._keys: list[tuple] = []
        self._shingles: list[np.ndarray] = []
        self._key_arrays: list[np.ndarray] = []
        self._starts = [0]
        self._bands: list[np.ndarray] = []
        self.num_candidates = 0
        self.num_chars = 0

    def is_full(self, more: int = 0, more_chars: int = 0) -> bool:
        """Whether it has as many candidates or characters as a part may have, or will have them with so many more."""
        return self.num_candidates + more >= PART_DOCUMENTS or self.num_chars + more_chars >= PART_CHARS

    def drop(
        self, name: str, origin: str, chars: int, reason: str, text: str, other: str = "", language: str = ""
    ) -> None:
        self._record(name, origin, chars, reason, other, language)
        line = {"id": name, "source": self._info["source"], "origin": origin, "reason": reason}
        if other:
            line["other_id"] = other
        line["text"] = " ".join(text[:HEAD_CHARS].split())
        self._dropped.write(json.dumps(line, ensure_ascii=False) + "\n")

    def add(
        self,
        document: Document,
        why: dict[str, str],
        text_key: int,
        shingles: np.ndarray,
        lost: int,
        language: str = "",
        printed: bool = False,
    ) -> None:
        """A candidate; `why` is {phase: why it cannot enter this one, or ""}."""
        chars = document.num_chars
        self._record(document.id, document.origin, chars, "", "", language)
        self._documents.append(document)
        self._ids.append(document.id)
        doi = dedup.key64(document.doi) if document.doi else 0
        codes = (self._code("why", why), self._code("disciplines", document.discipline))
        self._keys.append((dedup.key64(document.id), doi, text_key, min(chars, 2**32 - 1), *codes, lost, printed))
        self._shingles.append(shingles)
        self._starts.append(self._starts[-1] + len(shingles))
        self.num_candidates += 1
        self.num_chars += chars
        if len(self._documents) == BATCH:
            self._flush()

    def _code(self, table: str, value: dict[str, str] | str) -> int:
        key = (table, tuple(value.items()) if isinstance(value, dict) else value)
        if key not in self._codes:
            self._codes[key] = len(self._info[table])
            self._info[table].append(value)
        return self._codes[key]

    def _record(self, *values: str | int) -> None:
        self._records.append(values)
        if len(self._records) == BATCH * 10:
            self._flush_records()

    def _flush_records(self) -> None:
        columns = zip(*self._records, strict=True) if self._records else [[]] * len(RECORDS.names)
        self._record_writer.write_table(pa.table(dict(zip(RECORDS.names, columns, strict=True)), RECORDS))
        self._records = []

    def _flush(self) -> None:
        self._document_writer.write_table(table_of(self._documents))
        self._bands.append(dedup.band_keys(self._shingles, self._threshold))
        for shingles in self._shingles:
            self._shingle_file.write(shingles.tobytes())
        self._key_arrays.append(np.array(self._keys, KEYS))
        self._documents, self._keys, self._shingles = [], [], []

    def close(self) -> None:
        self._flush_records()
        self._flush()
        self._record_writer.close()
        self._document_writer.close()
        self._dropped.close()
        self._shingle_file.close()
        with pa.ipc.new_file(str(self._made / "ids.arrow"), IDS) as file:
            file.write_table(pa.table({"id": self._ids}, IDS))
        np.save(self._made / "keys.npy", np.concatenate(self._key_arrays))
        np.concatenate(self._bands, axis=1).tofile(self._made / "bands.u64")
        np.save(self._made / "starts.npy", np.array(self._starts, np.int64))
        write_json(self._made / "part.json", {**self._info, "candidates": self.num_candidates})
        shutil.rmtree(self.folder, ignore_errors=True)  # left by a task that was killed after this part
        self._made.replace(self.folder)


class Part:
    """A finished part. `first` is the number of its first candidate among those of all parts."""

    def __init__(self, folder: Path, first: int = 0):
        self.folder = folder
        self.first = first
        info = read_json(folder / "part.json")
        self.source: str = info["source"]
        self.general: bool = info["general"]
        self.why: list[dict[str, str]] = info["why"]
        self.disciplines: list[str] = info["disciplines"]
        self.num_candidates: int = info["candidates"]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def phases(self) -> tuple[str, ...]:
        return ("general",) if self.general else ("phase1", "phase2")

    @property
    def span(self) -> slice:
        """The part's candidates among those of all parts."""
        return slice(self.first, self.first + self.num_candidates)

    @cached_property
    def keys(self) -> np.ndarray:
        return np.load(self.folder / "keys.npy")

    @property
    def ids(self) -> pa.ChunkedArray:
        """Memory-mapped while referenced, not cached: mapped pages count as memory."""
        return pa.ipc.open_file(pa.memory_map(str(self.folder / "ids.arrow"))).read_all()["id"]

    def band(self, number: int) -> np.ndarray:
        """One band's keys of all candidates."""
        with open(self.folder / "bands.u64", "rb") as file:
            file.seek(8 * number * self.num_candidates)
            return np.fromfile(file, np.uint64, self.num_candidates)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.load(self.folder / "starts.npy")

    def shingles(self, index: int, count: int = 1) -> np.ndarray:
        """Of the part's candidate `index`, counted from 0 within the part, or of `count` from there end to end."""
        start, end = self._starts[index], self._starts[index + count]
        with open(self.folder / "shingles.u64", "rb") as file:
            file.seek(8 * int(start))
            return np.fromfile(file, np.uint64, int(end - start))

    def all_shingles(self) -> Iterator[np.ndarray]:
        """Of each candidate in order, read many at a time."""
        for first in range(0, self.num_candidates, BATCH):
            count = min(BATCH, self.num_candidates - first)
            cuts = self._starts[first : first + count + 1] - self._starts[first]
            yield from np.split(self.shingles(first, count), cuts[1:-1])

    def documents(self, wanted: np.ndarray) -> Iterator[tuple[int, Document]]:
        """The candidates of the mask `wanted`, each with its place in the part and its fields of TEXTUAL."""
        for batch, places in self.batches(wanted, TEXTUAL):
            yield from zip(places.tolist(), documents_in(batch), strict=True)

    def batches(
        self, wanted: np.ndarray, columns: list[str] | None = None
    ) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """The candidates of the mask `wanted`, batch by batch, each with their places in the part."""
        with pq.ParquetFile(self.folder / "documents.parquet") as parquet:
            start = 0
            for group in range(parquet.num_row_groups):
                num = parquet.metadata.row_group(group).num_rows
                places = start + np.flatnonzero(wanted[start : start + num])
                if len(places):
                    rows = pa.array(places - start)
                    yield parquet.read_row_group(group, columns).combine_chunks().to_batches()[0].take(rows), places
                start += num

    def fits(self, phase: str) -> np.ndarray:
        """By candidate: whether `phase` can use its text."""
        of_use = np.array([phase in why and not why[phase] for why in self.why], bool)
        return of_use[self.keys["why"]] if self.num_candidates else np.empty(0, bool)


def open_parts(folder: Path) -> list[Part]:
    """All parts in order."""
    found: list[Part] = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        found.append(Part(path, found[-1].span.stop if found else 0))
    return found
