"""Packed rows: what the corpus writes and training reads.

A row holds up to `row_tokens` tokens of whole documents laid end to end, each closed by one end-of-text token, and
opened by the tokens that the model wants before a text, if any; nothing is padded. A document longer than a row is cut
into pieces, and each later piece opens a row of its own (`continued`).
On disk a set of rows is an Arrow dataset that `datasets.load_from_disk` opens, with the totals in `rows.json`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import damaged, read_object, write_json
from nsllm_lite.errors import UserError

SHARD_ROWS = 8_192
BATCH_ROWS = 256

_INTS, _TEXTS = pa.list_(pa.int32()), pa.list_(pa.string())
_LISTS = {"input_ids": _INTS, "doc_lengths": _INTS, "doc_ids": _TEXTS, "doc_sources": _TEXTS, "doc_bytes": _INTS}
OPTIONAL = ("begin_of_text_ids", "begin_of_text")
SCHEMA = pa.schema(_LISTS | {"continued": pa.bool_()})


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row. `input_ids` is int32 of shape (tokens,); the four lists have one entry a document."""

    input_ids: np.ndarray
    doc_lengths: list[int]  # tokens, with those that begin and end a text; they sum to len(input_ids)
    doc_ids: list[str]
    doc_sources: list[str]
    doc_bytes: list[int]  # UTF-8 bytes of the text behind each document's tokens
    continued: bool = False  # the first document began in another row

    @property
    def num_targets(self) -> int:
        """Tokens the loss is taken over: all but the first of each document, which has no context."""
        return len(self.input_ids) - len(self.doc_lengths)


@dataclass(slots=True)
class RowTotals:
    """The totals kept in `rows.json`, which has the two fields on what begins a text only where they say something."""

    row_tokens: int
    end_of_text_id: int
    tokenizer_sha256: str
    begin_of_text_ids: list[int] = field(default_factory=list)  # before every piece
    begin_of_text: str = "auto"  # as the recipe has it; auto: what the tokenizer itself puts before a text
    num_rows: int = 0
    num_tokens: int = 0
    num_pieces: int = 0  # documents, counting each piece of a split one
    num_bytes: int = 0
    source_tokens: dict[str, int] = field(default_factory=dict)

    @property
    def fill(self) -> float:
        """Share of the rows' capacity that holds tokens."""
        return self.num_tokens / (self.num_rows * self.row_tokens) if self.num_rows else 0.0


def write_shard(path: Path, batches: Iterable[pa.RecordBatch]) -> dict:
    """Writes rows to one Arrow file, which appears under its name when whole; returns what `finish_rows` adds up."""
    part = path.with_suffix(".part")
    totals: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    digest = xxhash.xxh3_128()
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
            lengths, ids = batch["doc_lengths"].flatten(), batch["input_ids"].flatten()
            assert pc.sum(lengths).as_py() in (len(ids), None), "a row's documents are not its tokens"
            digest.update(np.ascontiguousarray(ids.to_numpy()))
            num_bytes = pc.sum(batch["doc_bytes"].flatten()).as_py() or 0
            totals.update(rows=batch.num_rows, tokens=len(ids), pieces=len(lengths), bytes=num_bytes)
            tokens = pa.table({"source": batch["doc_sources"].flatten(), "tokens": lengths})
            sums = tokens.group_by("source").aggregate([("tokens", "sum")]).to_pylist()
            by_source.update({row["source"]: row["tokens_sum"] for row in sums})
    entry = integrity.describe(part)
    part.replace(path)
    made = {"file": path.name, "source_tokens": dict(by_source), "xxh3": digest.hexdigest(), "entry": entry}
    return made | {key: totals[key] for key in ("rows", "tokens", "pieces", "bytes")}


def finish_rows(path: Path, shards: Sequence[dict], totals: RowTotals) -> RowTotals:
    """Adds up the shards in `path` in `totals`, and writes what makes a dataset of them; `files.json` is the last."""
    by_source: Counter[str] = Counter()
    for shard in shards:
        by_source.update(shard["source_tokens"])
        totals.num_rows += shard["rows"]
        totals.num_tokens += shard["tokens"]
        totals.num_pieces += shard["pieces"]
        totals.num_bytes += shard["bytes"]
    totals.source_tokens = dict(sorted(by_source.items()))
    digest = hashlib.sha256("".join(shard["xxh3"] for shard in shards).encode())
    _write_datasets_files(path, [shard["file"] for shard in shards], digest.hexdigest())
    silent = OPTIONAL if not totals.begin_of_text_ids and totals.begin_of_text == "auto" else ()
    write_json(path / "rows.json", {key: value for key, value in asdict(totals).items() if key not in silent})
    entries = {shard["file"]: shard["entry"] for shard in shards}
    integrity.record(path, ("dataset_info.json", "rows.json", "state.json"), entries)
    return totals


def write_rows(path: Path, rows: Sequence[Row], totals: RowTotals) -> RowTotals:
    """Writes rows from memory to the folder `path`, and adds them to `totals`."""
    path.mkdir(parents=True, exist_ok=True)
    shards = []
    for group in list(in_groups(rows, SHARD_ROWS)) or [[]]:
        columns = {name: [getattr(row, name) for row in group] for name in SCHEMA.names}
        batches = pa.table(columns, SCHEMA).to_batches(max_chunksize=BATCH_ROWS)
        shards.append(write_shard(path / f"data-{len(shards):05d}.arrow", batches))
    return finish_rows(path, shards, totals)


def _write_datasets_files(path: Path, files: list[str], fingerprint: str) -> None:
    """The two JSON files by which `datasets.load_from_disk` knows a dataset.

    Source: `Dataset.save_to_disk` of datasets 5.2 writes the same keys; a test loads them back.
    """
    state = {
        "_data_files": [{"filename": name} for name in files],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }

    def feature(kind: pa.DataType) -> dict:
        if pa.types.is_list(kind):
            return {"feature": feature(kind.value_type), "_type": "List"}
        return {"dtype": str(kind), "_type": "Value"}

    info = {"features": {column.name: feature(column.type) for column in SCHEMA}}
    write_atomic(path / "state.json", json.dumps(state, indent=2) + "\n")
    write_atomic(path / "dataset_info.json", json.dumps(info, indent=2) + "\n")


class Rows:
    """Rows on disk, memory-mapped: `rows[i]` is O(1) wherever i is."""

    def __init__(self, path: Path):
        """Raises UserError where `path` holds no finished rows, or damaged ones."""
        self.path = Path(path)
        if not (self.path / "rows.json").is_file():
            found = f"No packed rows at {self.path}."
            needed = "Training needs rows made by `nsllm-lite corpus`."
            raise UserError("rows-missing", found, needed, "Run it first, or set `rows=` to where they are.")
        integrity.verify(self.path, ("rows.json", "state.json"))
        self.totals = _totals(self.path / "rows.json")
        self._batches: list[pa.RecordBatch] = []
        self._whole: set[int] = set()  # the batches that are validated
        for file in _data_files(self.path / "state.json"):
            try:
                with pa.memory_map(str(file)) as source:
                    batches = pa.ipc.open_stream(source).read_all().to_batches()
            except (pa.ArrowException, OSError) as error:
                raise damaged(file, error) from None
            if batches and not batches[0].schema.equals(SCHEMA):
                raise damaged(file, f"its columns are {', '.join(batches[0].schema.names)}")
            self._batches += batches
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        if self._starts[-1] != self.totals.num_rows:
            found = f"{self.path} holds {self._starts[-1]} rows where rows.json says {self.totals.num_rows}."
            needed = "The files were damaged or mixed."
            raise UserError("rows-count-differs", found, needed, "Delete the folder and run `nsllm-lite corpus` again.")

    def __len__(self) -> int:
        return self.totals.num_rows

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        self._require_whole(number)
        columns = self._batches[number].slice(index - self._starts[number], 1)
        values = {name: columns[name][0] for name in SCHEMA.names}
        input_ids = values.pop("input_ids").values.to_numpy(zero_copy_only=False).astype(np.int32)
        row = Row(input_ids=input_ids, **{name: value.as_py() for name, value in values.items()})
        if (num_tokens := sum(row.doc_lengths)) != len(row.input_ids):
            raise damaged(self.path, f"row {index} has {len(row.input_ids)} tokens, its documents {num_tokens}")
        return row

    def _require_whole(self, number: int) -> None:
        """Validates a batch before it is first read, because Arrow aborts on offsets outside it; raises UserError."""
        if number in self._whole:
            return
        batch = self._batches[number]
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise damaged(self.path, f"rows {self._starts[number]} to {self._starts[number + 1]}: {error}") from None
        lists = [batch[name] for name in _LISTS]
        if any(column.null_count for column in (*batch.columns, *(column.flatten() for column in lists))):
            raise damaged(self.path, f"values are missing in rows {self._starts[number]} to {self._starts[number + 1]}")
        self._whole.add(number)

    def require_sound(self, vocab: int = 2**31) -> None:
        """Reads all rows through once: the files are what was written, and every token is below `vocab`.

        Raises:
            UserError: naming the file, or the document of the token.
        """
        integrity.verify(self.path)
        for number, (first, batch) in enumerate(zip(self._starts, self._batches, strict=False)):
            self._require_whole(number)
            ids = batch["input_ids"].flatten()
            bounds = pc.min_max(ids).as_py()
            if len(ids) and not 0 <= bounds["min"] <= bounds["max"] < vocab:
                self._name_wrong_token(int(first), batch.num_rows, vocab)

    def among(self, names: set[str]) -> list[str]:
        """Those of the documents `names` of which a piece is in these rows, in alphabetical order."""
        wanted = pa.array(sorted(names), pa.string())
        found = (pc.unique(batch["doc_ids"].flatten()) for batch in self._batches)
        return sorted(set().union(*(ids.filter(pc.is_in(ids, wanted)).to_pylist() for ids in found)))

    @cached_property
    def row_bytes(self) -> np.ndarray:
        """UTF-8 bytes of the text behind each row, (rows,)."""
        counts = [np.empty(0, np.int64)]
        for number, batch in enumerate(self._batches):
            self._require_whole(number)
            before = np.concatenate(([0], np.cumsum(batch["doc_bytes"].flatten().to_numpy(zero_copy_only=False))))
            bounds = batch["doc_bytes"].offsets.to_numpy()
            counts.append(np.diff(before[bounds - bounds[0]]))
        return np.concatenate(counts)

    def longer_than(self, num_tokens: int) -> int:
        """How many documents, or pieces of them, have more tokens."""
        lengths = (batch["doc_lengths"].flatten() for batch in self._batches)
        return sum(pc.sum(pc.greater(of_batch, num_tokens)).as_py() or 0 for of_batch in lengths)

    def _name_wrong_token(self, first: int, count: int, vocab: int) -> None:
        for index in range(first, first + count):
            row = self[index]
            wrong = np.flatnonzero((row.input_ids < 0) | (row.input_ids >= vocab))
            if len(wrong):
                number = int(np.searchsorted(np.cumsum(row.doc_lengths), wrong[0], side="right"))
                token, name = row.input_ids[wrong[0]], row.doc_ids[number]
                found = f"{self.path} holds token {token}, but the model knows {vocab} (row {index}, document {name})."
                needed = "The corpus was tokenised for another model, or was damaged."
                raise UserError("rows-token-unknown", found, needed, "Build it again with this model as `tokenizer=`.")

    @property
    def sha256(self) -> str:
        """Identity of these rows: state.json holds the digest of all token ids, rows.json the totals."""
        text = (self.path / "rows.json").read_text() + (self.path / "state.json").read_text()
        return hashlib.sha256(text.encode()).hexdigest()


def _totals(path: Path) -> RowTotals:
    """The totals in rows.json; UserError where one is absent or of another type."""
    found = read_object(path)
    kinds = {"tokenizer_sha256": str, "source_tokens": dict, "begin_of_text_ids": list, "begin_of_text": str}
    names = [field.name for field in fields(RowTotals) if field.name in found or field.name not in OPTIONAL]
    typed = sorted(found) == sorted(names) and all(type(found[key]) is kinds.get(key, int) for key in names)
    if not typed or not all(type(id_) is int and 0 <= id_ < 2**31 for id_ in found.get("begin_of_text_ids", ())):
        raise damaged(path, f"it needs {', '.join(names)}: all numbers but the hash, what begins a text and the last")
    return RowTotals(**found)


def _data_files(path: Path) -> list[Path]:
    """The Arrow files that state.json names, each in its own folder; UserError where it names none so."""
    files = read_object(path, _data_files=list)["_data_files"]
    names = [file.get("filename") if isinstance(file, dict) else None for file in files]
    if odd := [name for name in names if not isinstance(name, str) or Path(name).name != name or "\0" in name]:
        raise damaged(path, f"{odd[0]!r} is no file of its folder")
    return [path.parent / name for name in names]


def in_groups(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """`rows` in order, `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
