"""Texts by number, in a file that is mapped into memory and not held there."""

import re
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

CHUNK = 4_096  # texts of a record batch
_WORD = re.compile(r"\w+")


def plain(text: str) -> str:
    """The words of a text in small letters, with a space between: what two texts are compared by."""
    return " ".join(_WORD.findall(text.casefold()))


def key64(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class TextWriter:
    """Writes a file of `Texts`; a text is known by its number from then on, and `keys` are those of all so far."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._schema = pa.schema([("text", pa.large_string())])
        self._path = path
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._waiting: list[str] = []
        self.keys: list[int] = []

    def add(self, text: str) -> int:
        self._waiting.append(text)
        self.keys.append(key64(plain(text)))
        if len(self._waiting) == CHUNK:
            self._flush()
        return len(self.keys) - 1

    def _flush(self) -> None:
        self._writer.write_batch(pa.record_batch([pa.array(self._waiting, pa.large_string())], self._schema))
        self._waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._waiting and error is None:
            self._flush()
        self._writer.close()

    def opened(self) -> "Texts":
        """What was written, once this is closed."""
        return Texts(self._path, np.array(self.keys, np.uint64))


class Texts:
    """`keys` (n,) are the same for texts of the same words."""

    def __init__(self, path: Path, keys: np.ndarray):
        self.keys = keys
        self._chunks = pa.ipc.open_file(pa.memory_map(str(path))).read_all()["text"].chunks if len(keys) else []

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> str:
        return self._chunks[number // CHUNK][number % CHUNK].as_py()
