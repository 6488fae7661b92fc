"""The rows of a Parquet file as dicts, a small batch in memory at a time. The file is not trusted.

Only Arrow reads it; pandas' metadata and its pickles are never read. A damaged row group loses only its own rows.
"""

import io
from collections.abc import Collection, Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite.corpus.files.streams import Budget, TooLargeError

BATCH_ROWS = 64
MAX_BATCH_BYTES = 1 << 28
MAX_ROW_BYTES = 1 << 26
MAX_CHUNK_BYTES, MAX_CHUNK_RATIO = 1 << 29, 1_000  # a column in a row group that is above both is a bomb
BUFFER_BYTES = 1 << 20
NO_VALUE = (ValueError, OverflowError, pa.ArrowException)  # text that is no UTF-8, dates out of range
ERRORS = (pa.ArrowException, OSError, ValueError, NotImplementedError, MemoryError)


def open_parquet(file: BinaryIO, dense: bool = True) -> pq.ParquetFile:
    """The file as Arrow opens it, or one of ERRORS; `dense` is false where repeated texts stay dictionary-encoded."""
    options = {"pre_buffer": False, "buffer_size": BUFFER_BYTES, "page_checksum_verification": True}
    parquet = pq.ParquetFile(file, **options)
    if dense:
        return parquet
    columns = map(parquet.schema.column, range(len(parquet.schema)))
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(file, metadata=parquet.metadata, read_dictionary=texts, **options)


def iter_rows(file: BinaryIO, columns: Iterable[str], beside: Collection[str] = ()) -> Iterator[dict | str]:
    """Rows in order with these top-level columns, a message for a row or a row group that cannot be read. A value of
    the columns `beside` that cannot be read is None instead."""
    try:
        parquet, dictionaries = open_parquet(file), open_parquet(file, dense=False)
    except ERRORS as error:
        yield f"damaged Parquet, nothing is read: {named(error)}"
        return
    columns, total = list(columns), 0
    budget = Budget(file.seek(0, io.SEEK_END))
    for group in range(parquet.num_row_groups):
        left = parquet.metadata.row_group(group).num_rows
        total += left
        try:
            _require_bounded(parquet.metadata.row_group(group), columns)
            # Fewer rows a batch where a large text is stored once and used in many rows: a file of some kB would else
            # be as large as memory when unpacked. A group has one dictionary a column, before its first row.
            first = next(dictionaries.iter_batches(1, [group], columns, use_threads=False), None)
            batch_rows = max(1, min(BATCH_ROWS, MAX_BATCH_BYTES // max(first.nbytes if first else 0, 1)))
            for batch in parquet.iter_batches(batch_rows, [group], columns, use_threads=False):
                left -= batch.num_rows
                for row in _rows(batch, beside):
                    budget.spend(_num_chars(row))  # of a value that is stored once and used in many rows, each time
                    yield row
            reason = "it ends early"
        except TooLargeError as error:
            yield f"nothing is read from row group {group} on: it {error}"
            return
        except ERRORS as error:
            reason = named(error)
        if left > 0:
            yield f"row group {group} is damaged, {left:,} of its rows are not read: {reason}"
    if total != parquet.metadata.num_rows:
        yield f"the file says it has {parquet.metadata.num_rows:,} rows, its row groups say {total:,}"


def _require_bounded(group: pq.RowGroupMetaData, columns: Collection[str]) -> None:
    """Raises ValueError where a column is a bomb: Arrow unpacks a page at once, before a row of it can be measured."""
    for chunk in map(group.column, range(group.num_columns)):
        unpacked = chunk.total_uncompressed_size
        is_read = chunk.path_in_schema.partition(".")[0] in columns
        if is_read and unpacked > MAX_CHUNK_BYTES and unpacked > MAX_CHUNK_RATIO * chunk.total_compressed_size:
            found = f"{chunk.path_in_schema!r} unpacks from {chunk.total_compressed_size:,} bytes to {unpacked:,}"
            raise ValueError(f"{found}; refused as a bomb")  # caught by iter_rows


def _rows(batch: pa.RecordBatch, beside: Collection[str]) -> Iterator[dict | str]:
    names = batch.schema.names
    has_large = batch.nbytes > MAX_ROW_BYTES
    for number in range(batch.num_rows):
        if has_large and batch.slice(number, 1).nbytes > MAX_ROW_BYTES:
            yield f"the row is longer than {MAX_ROW_BYTES >> 20} MiB"
            continue
        try:
            yield {name: column[number].as_py() for name, column in zip(names, batch.columns, strict=True)}
        except NO_VALUE:
            yield _row(batch, number, beside)


def _num_chars(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict | list):
        return sum(map(_num_chars, value.values() if isinstance(value, dict) else value))
    return 1


def _row(batch: pa.RecordBatch, number: int, beside: Collection[str]) -> dict | str:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[number].as_py()
        except NO_VALUE as error:
            if name not in beside:
                return named(error)
            row[name] = None
    return row


def named(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
