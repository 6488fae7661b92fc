"""Weights as they lie on disk: safetensors files read by slices, so that no model need fit in memory.

Plain reads, because the pages of a memory map would count as resident.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
SLICE_BYTES = 2 * 2**20  # of fp32; a slice and its temporaries take about four times this, and stay in the cache
SLICE_ROWS = 64  # the least; products of 1 or 7 rows take another path in MKL, whose last bit differs from PEFT's


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor where it lies in a safetensors file; nothing is read yet."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int

    def read(self, first_byte: int = 0, last_byte: int | None = None) -> bytearray:
        last_byte = self.num_bytes if last_byte is None else last_byte
        buffer = bytearray(last_byte - first_byte)
        self.read_into(buffer, first_byte, last_byte)
        return buffer

    def read_into(self, buffer: bytearray, first_byte: int, last_byte: int) -> memoryview:
        """The bytes first..last, at the beginning of `buffer`."""
        view = memoryview(buffer)[: last_byte - first_byte]
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.start + first_byte)
            done = 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise RuntimeError(f"{self.file} became shorter while it was read. Run the merge again.")
                done += count
        return view

    def rows_into(self, buffer: bytearray, first: int, last: int) -> torch.Tensor:
        """Rows first..last as a tensor of the stored dtype that lies in `buffer`."""
        row_bytes = self.num_bytes // self.shape[0]
        view = self.read_into(buffer, first * row_bytes, last * row_bytes)
        return torch.frombuffer(view, dtype=DTYPES[self.dtype]).view(-1, *self.shape[1:])

    def rows(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows first..last as a tensor of the stored dtype."""
        row_bytes = self.num_bytes // self.shape[0]
        buffer = self.read(first * row_bytes, self.num_bytes if last is None else last * row_bytes)
        return torch.frombuffer(buffer, dtype=DTYPES[self.dtype]).view(-1, *self.shape[1:])


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, by name, in the order they lie in it.

    Raises:
        ValueError: it is no such file, is cut short, or says of a tensor what cannot be.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes)) if header_bytes < size else None
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        tensors = {name: _stored(path, 8 + header_bytes, entry) for name, entry in entries}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is not a safetensors file. Whole files are needed: fetch or copy it again.") from None
    if any(stored.start + stored.num_bytes > size for stored in tensors.values()):
        raise ValueError(f"{path} is cut short at {size} bytes. Whole files are needed: fetch or copy it again.")
    return tensors


def _stored(path: Path, data_start: int, entry: dict) -> Stored:
    """The tensor of a header's entry. Raises ValueError, KeyError or TypeError where it is none."""
    (first, last), dtype, shape = entry["data_offsets"], entry["dtype"], tuple(entry["shape"])
    numbers = (first, last, *shape)
    if not isinstance(dtype, str) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise TypeError("a type is a name, offsets and sizes are whole numbers")
    if last < first or (dtype in DTYPES and last - first != math.prod(shape) * DTYPES[dtype].itemsize):
        raise ValueError("its bytes are not those of its shape")
    return Stored(path, dtype, shape, data_start + first, last - first)


def slices(num_rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, last) rows: multiples of 64 of about SLICE_BYTES; a remainder joins the slice before it.

    A product of few rows is rounded differently by MKL; 3,200 random shapes cut this way were all bit-equal to the
    whole product, and a remainder of 6 rows left alone was not.
    """
    step = max(SLICE_ROWS, SLICE_BYTES // max(row_bytes, 1) // SLICE_ROWS * SLICE_ROWS)
    starts = list(range(0, num_rows, step))
    if len(starts) > 1 and num_rows - starts[-1] < step:
        starts.pop()
    for number, first in enumerate(starts, 1):
        yield first, starts[number] if number < len(starts) else num_rows


def same_bytes(one: Stored, other: Stored) -> bool:
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and all(one.read(*piece) == other.read(*piece) for piece in slices(one.num_bytes, 1))


def as_bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())
