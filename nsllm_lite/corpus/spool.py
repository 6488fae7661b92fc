"""Rendered texts on disk between rendering and packing: one Parquet file a phase and split."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite.corpus.pack import Text

SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("text", pa.string())])
BATCH = 512


class Spool:
    """Texts written in order, then read in order; at most BATCH of them are in memory."""

    def __init__(self, path: Path):
        self.path = path
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._batch: list[Text] = []
        self.num_texts = 0
        self.num_chars = 0

    def add(self, text: Text) -> None:
        self._batch.append(text)
        self.num_texts += 1
        self.num_chars += len(text.text)
        if len(self._batch) == BATCH:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.table(dict(zip(SCHEMA.names, zip(*self._batch, strict=True), strict=True)), SCHEMA))
        self._batch = []

    def close(self) -> None:
        if self._batch:
            self._flush()
        self._writer.close()

    def __iter__(self) -> Iterator[Text]:
        with pq.ParquetFile(self.path) as parquet:
            for batch in parquet.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    yield Text(**row)
