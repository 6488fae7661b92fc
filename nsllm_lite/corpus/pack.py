"""The last stage: documents -> texts -> tokens -> packed rows, shard by shard; nothing truncated, nothing lost.

A document of n tokens (its end-of-text token among them) that is longer than a row is cut so that the remainder,
n mod row_tokens, comes FIRST and the rest fills whole rows. The remainder is then an item like any short document, so
that documents far longer than a row pack as tightly as short ones, and a continued piece always has a row of its own.
Where the model wants tokens that begin a text, every piece opens with them: it is a sequence of its own to the model.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite.artifact import integrity
from nsllm_lite.corpus.dedup import runs_of
from nsllm_lite.corpus.encoder import Encoder, string_starts
from nsllm_lite.corpus.texts.render import COLUMNS, texts_of
from nsllm_lite.formats.documents import STATED
from nsllm_lite.formats.rows import BATCH_ROWS, SCHEMA, write_shard

NO_TEXT = frozenset(STATED) - {"language"}
SHARD_DOCUMENTS = 100_000
SHARD_TOKENS = 25 << 20  # bounds the memory of a shard of full texts; 100,000 abstracts are fewer
CHUNK_DOCUMENTS = 8_192
CHUNK_BYTES = 8 << 20  # of text, about; small chunks reuse memory

T = TypeVar("T")


class PackTask(NamedTuple):
    """One set of rows (`phase`/`split`), or a stretch of it: documents of `files`, those where `masks` is true."""

    phase: str
    split: str
    number: int
    files: tuple[Path, ...]
    masks: tuple[np.ndarray, ...]
    num_chars: int


class Frame(NamedTuple):
    """What surrounds the tokens of a text: those that begin every piece of it, and the one that ends the last."""

    begin: tuple[int, ...]
    end: int
    row_tokens: int

    @property
    def room(self) -> int:
        """Tokens of a row that a piece which fills it has for its text and end-of-text."""
        return self.row_tokens - len(self.begin)


class Chunk(NamedTuple):
    """Tokenised documents: those of document i are ids[starts[i]:starts[i + 1]], without what frames them."""

    names: pa.Array
    sources: pa.Array
    ids: np.ndarray
    starts: np.ndarray
    first_bytes: np.ndarray  # UTF-8 bytes behind each document's first piece
    later_bytes: np.ndarray  # and behind the later pieces, document by document


def pack(task: PackTask, encoder: Encoder, frame: Frame, min_chars: int, rows: Path, counts: Path) -> dict:
    """Writes ROWS/data-NNNNN-KKK.arrow, and COUNTS/tokens-NNNNN.npy with each document's tokens in order.

    Returns the shards as `finish_rows` takes them, and the library that tokenised.
    """
    rows.mkdir(parents=True, exist_ok=True)
    counts.mkdir(parents=True, exist_ok=True)
    shards: list[dict] = []
    tokens: list[np.ndarray] = [np.empty(0, np.int32)]

    def write(shard: list[Chunk]) -> None:
        num_tokens = np.concatenate([np.diff(chunk.starts) for chunk in shard]) + 1
        layout = lay_out(shard, num_tokens, frame)
        batches = batches_of(layout, shard, frame)
        shards.append(write_shard(rows / f"data-{task.number:05d}-{len(shards):03d}.arrow", batches))
        num_pieces = _cut(num_tokens, frame.room)[1] + 1
        tokens.append((num_tokens + len(frame.begin) * num_pieces).astype(np.int32))

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:  # the tokenizer releases the GIL
        pending: Future[None] | None = None
        texts = ((batch, texts_of(task.phase, batch, min_chars)) for batch in documents_of(task))
        for shard in _shards(_chunks(_ahead(texts, reader), encoder, frame.room)):
            if pending:
                pending.result()
            pending = writer.submit(write, shard)
        if pending:
            pending.result()
    if not shards:
        shards.append(write_shard(rows / f"data-{task.number:05d}-000.arrow", []))
    lengths = counts / f"tokens-{task.number:05d}.npy"
    np.save(lengths, np.concatenate(tokens))
    work = counts.parents[2]
    files = {os.path.relpath(rows / shard["file"], work): shard["entry"] for shard in shards}
    return {"shards": shards, "encoder": encoder.name, "files": files | integrity.describe_all(work, [lengths])}


def documents_of(task: PackTask) -> Iterator[pa.RecordBatch]:
    """The task's documents, a batch at a time, in order."""
    for path, mask in zip(task.files, task.masks, strict=True):
        start = 0
        with pq.ParquetFile(path) as parquet:
            mean_bytes = _text_bytes(parquet.metadata) / max(1, parquet.metadata.num_rows)
            size = min(CHUNK_DOCUMENTS, int(CHUNK_BYTES / (mean_bytes + 1)) + 1)
            for batch in parquet.iter_batches(batch_size=size, columns=COLUMNS[task.phase]):
                wanted = mask[start : start + batch.num_rows]
                start += batch.num_rows
                if wanted.any():
                    yield batch if wanted.all() else batch.filter(pa.array(wanted))


def _text_bytes(of: pq.FileMetaData) -> int:
    """Bytes of a file of documents without what it states of the papers, of which no text is made."""
    groups = [of.row_group(number) for number in range(of.num_row_groups)]
    beside = {number for number in range(of.num_columns) if of.schema.column(number).path.split(".")[0] in NO_TEXT}
    return sum(g.total_byte_size - sum(g.column(n).total_uncompressed_size for n in beside) for g in groups)


def _ahead(items: Iterator[T], reader: ThreadPoolExecutor) -> Iterator[T]:
    """The same items, each made by the thread `reader` while the one before is processed."""
    coming = reader.submit(next, items, None)
    while (item := coming.result()) is not None:
        coming = reader.submit(next, items, None)
        yield item


def _chunks(batches: Iterator[tuple[pa.RecordBatch, pa.Array]], encoder: Encoder, room: int) -> Iterator[Chunk]:
    checked: set[str] = set()  # sources of which a sample has been compared with the reference
    for batch, texts in batches:
        sources = set(batch["source"].unique().to_pylist())
        ids, starts = encoder.encode(texts, check=not sources <= checked)
        checked |= sources
        yield Chunk(batch["id"], batch["source"], ids, starts, *_piece_bytes(texts, ids, starts, encoder, room))


def _cut(num_tokens: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens of the first piece, whole rows after it) of documents of `num_tokens`, end-of-text included."""
    first_tokens = (num_tokens - 1) % room + 1
    return first_tokens, (num_tokens - first_tokens) // room


def _places(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, and so on."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _piece_bytes(
    texts: pa.Array, ids: np.ndarray, starts: np.ndarray, encoder: Encoder, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """`first_bytes` and `later_bytes` of a `Chunk`."""
    first_bytes = np.diff(string_starts(texts)).astype(np.int64)
    first_tokens, num_later = _cut(np.diff(starts) + 1, room)
    long = np.flatnonzero(num_later)
    if not len(long):
        return first_bytes, np.empty(0, np.int64)
    counts = num_later[long] + 1
    documents, place = np.repeat(long, counts), _places(counts)
    begins = starts[documents] + np.where(place, first_tokens[documents] + (place - 1) * room, 0)
    last = np.append(place[1:] == 0, True)
    ends = np.where(last, starts[documents + 1], np.append(begins[1:], 0))
    sizes = encoder.bytes_between(ids, begins, ends)
    heads = np.flatnonzero(place == 0)
    wrong = np.flatnonzero(np.add.reduceat(sizes, heads) != first_bytes[long])
    for document, head, count in zip(long[wrong].tolist(), heads[wrong].tolist(), counts[wrong].tolist(), strict=True):
        cuts = np.append(begins[head : head + count], ends[head + count - 1]) - starts[document]
        sizes[head : head + count] = encoder.bytes_of(texts[document].as_py(), cuts)
    first_bytes[long] = sizes[heads]
    return first_bytes, np.delete(sizes, heads)


def _shards(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    shard: list[Chunk] = []
    for chunk in chunks:
        shard.append(chunk)
        num_documents = sum(len(c.names) for c in shard)  # each closed by an end-of-text token
        if num_documents >= SHARD_DOCUMENTS or num_documents + sum(len(c.ids) for c in shard) >= SHARD_TOKENS:
            yield shard
            shard = []
    if shard:
        yield shard


class Layout(NamedTuple):
    """How documents lie in rows, piece by piece: later pieces first, a row each, then the bins of first pieces."""

    documents: np.ndarray
    skipped: np.ndarray  # tokens of the text before the piece
    lengths: np.ndarray  # tokens, with those that begin and end a text
    closes: np.ndarray  # whether the document ends here
    row_starts: np.ndarray  # the first piece of each row, and the number of pieces
    num_bytes: np.ndarray  # UTF-8 bytes behind the piece
    num_later: int


def batches_of(layout: Layout, shard: list[Chunk], frame: Frame) -> Iterator[pa.RecordBatch]:
    """The shard's documents as packed rows. A batch's tokens are in memory that the next batch overwrites."""
    names = pa.concat_arrays([chunk.names for chunk in shard]).take(pa.array(layout.documents))
    sources = pa.concat_arrays([chunk.sources for chunk in shard]).take(pa.array(layout.documents))
    lengths, num_bytes = (pa.array(values, pa.int32()) for values in (layout.lengths, layout.num_bytes))
    first_documents = np.cumsum([0, *(len(chunk.names) for chunk in shard)])
    chunk_of = np.searchsorted(first_documents, layout.documents, side="right") - 1
    starts = np.concatenate([chunk.starts[:-1] for chunk in shard])[layout.documents] + layout.skipped
    ends = starts + layout.lengths - layout.closes - len(frame.begin)
    places = np.cumsum(np.concatenate(([0], layout.lengths)))
    buffer = np.empty(BATCH_ROWS * frame.row_tokens, np.int32)  # reused: fresh memory is slower than writing to it
    for row in range(0, len(layout.row_starts) - 1, BATCH_ROWS):
        row_starts = layout.row_starts[row : row + BATCH_ROWS + 1]
        pieces = slice(row_starts[0], row_starts[-1])
        token_starts = places[row_starts] - places[row_starts[0]]
        into = (places[pieces] - places[row_starts[0]] + len(frame.begin)).tolist()
        of = zip(into, chunk_of[pieces].tolist(), starts[pieces].tolist(), ends[pieces].tolist(), strict=True)
        for place, chunk, start, end in of:
            buffer[place : place + end - start] = shard[chunk].ids[start:end]
        closing = places[1:][pieces][layout.closes[pieces]] - places[row_starts[0]] - 1
        buffer[closing] = frame.end
        for place, token in enumerate(frame.begin):
            buffer[places[pieces] - places[row_starts[0]] + place] = token

        def lists(offsets: np.ndarray, values: pa.Array) -> pa.ListArray:
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)

        in_row, count = row_starts - row_starts[0], int(row_starts[-1] - row_starts[0])
        start = int(row_starts[0])
        columns = {
            "input_ids": lists(token_starts, pa.array(buffer[: token_starts[-1]])),
            "doc_lengths": lists(in_row, lengths.slice(start, count)),
            "doc_ids": lists(in_row, names.slice(start, count)),
            "doc_sources": lists(in_row, sources.slice(start, count)),
            "doc_bytes": lists(in_row, num_bytes.slice(start, count)),
            "continued": pa.array(np.arange(row, row + len(row_starts) - 1) < layout.num_later),
        }
        yield pa.record_batch(columns, SCHEMA)


def lay_out(shard: list[Chunk], num_tokens: np.ndarray, frame: Frame) -> Layout:
    """`num_tokens` of each document, end-of-text included."""
    first_tokens, num_later = _cut(num_tokens, frame.room)
    first_lengths = first_tokens + len(frame.begin)
    later = np.repeat(np.arange(len(num_tokens)), num_later)
    rank = _places(num_later)
    order, bin_sizes = best_fit_decreasing(first_lengths, frame.row_tokens)
    first_bytes = np.concatenate([chunk.first_bytes for chunk in shard])
    later_bytes = np.concatenate([chunk.later_bytes for chunk in shard])
    return Layout(
        documents=np.concatenate((later, order)),
        skipped=np.concatenate((first_tokens[later] + rank * frame.room, np.zeros(len(order), np.int64))),
        lengths=np.concatenate((np.full(len(later), frame.row_tokens), first_lengths[order])),
        closes=np.concatenate((rank == num_later[later] - 1, num_later[order] == 0)),
        row_starts=np.cumsum(np.concatenate(([0], np.ones(len(later), np.int64), bin_sizes))),
        num_bytes=np.concatenate((later_bytes, first_bytes[order])),
        num_later=len(later),
    )


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """(items bin by bin, items a bin): the longest first, each into the bin it leaves the least room in.

    Items of one size are placed together: the tightest bins that have room r take r // size of them each, as placing
    one by one would do. Bit r of `open_rooms` is set where a bin with room r is open.
    """
    by_size = np.argsort(-sizes, kind="stable")
    bin_of = np.empty(len(sizes), np.int64)  # by place in `by_size`
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = num_bins = place = 0
    starts, counts = runs_of(sizes[by_size])
    for size, count in zip(sizes[by_size][starts].tolist(), counts.tolist(), strict=True):
        while count:
            fitting = open_rooms >> size
            room = size + (fitting & -fitting).bit_length() - 1 if fitting else capacity
            each = room // size
            wanted = -(-count // each)
            if fitting:
                bins = with_room[room][-wanted:]
                del with_room[room][-wanted:]
                if not with_room[room]:
                    open_rooms ^= 1 << room
            else:
                bins = list(range(num_bins, num_bins + wanted))
                num_bins += wanted
            placed = min(count, each * len(bins))
            bin_of[place : place + placed] = np.repeat(bins, each)[:placed]
            place, count = place + placed, count - placed
            in_last = placed - each * (len(bins) - 1)
            for left, those in ((room - each * size, bins[:-1]), (room - in_last * size, bins[-1:])):
                if left and those:
                    with_room[left] += those
                    open_rooms |= 1 << left
    order = np.argsort(bin_of, kind="stable")
    return by_size[order], np.bincount(bin_of, minlength=num_bins)
