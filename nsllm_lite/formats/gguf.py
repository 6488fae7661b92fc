"""GGUF files: metadata, and where each tensor lies. Nothing in a file is believed before it is compared with its size.

Own code, because the gguf package's reader allocates what the file asks for and checks no offset.
Source: the format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and ggml's own checks (src/gguf.cpp).
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import TensorOnDisk, listed

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""Types of tensors that are read, by ggml's names."""
UNQUANTISED = TYPES[:3]

SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?"}
SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
"""Value types that are one number, as NumPy has them."""
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 64 * 2**20  # the largest vocabularies, of 260,000 tokens, take 12 MiB
MAX_COUNT = 2**16  # of keys and of tensors; real files have 40 and, with 100 layers, 1,200
MAX_DIMENSIONS = 4  # ggml's


class Gguf(NamedTuple):
    """`tensors` have ggml's name of their type as dtype, and their shape as torch has it, rows first. Numbers of the
    metadata are Python's, arrays of numbers NumPy's."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorOnDisk]


def read_gguf(path: Path) -> Gguf:
    """Raises UserError where the file is none, is damaged or cut short, is one of several parts, or has a tensor of a
    type that is not read."""
    if not path.is_file():
        raise UserError("gguf-missing", f"There is no file {path}.", "Correct the path.")
    with open(path, "rb") as file:
        head = _Head(path, file, path.stat().st_size)
        if (magic := head.take(4)) != b"GGUF":
            found = f"{path} begins with {magic!r}, which no GGUF file does."
            raise UserError("gguf-no-gguf", found, "Fetch or copy it again.")
        if (version := head.number("<u4")) not in VERSIONS:
            found = f"{path} is of version {version}" + (", or big-endian." if version & 0xFFFF == 0 else ".")
            todo = "Convert the model anew with a current llama.cpp."
            raise UserError("gguf-version", found, f"Read are {VERSIONS[0]} and {VERSIONS[1]}, little-endian.", todo)
        num_tensors, num_keys = head.number("<u8"), head.number("<u8")
        head.require_room(num_keys, 8 + 4 + 1)
        head.require_room(num_tensors, 8 + 4 + 8 + 4 + 8)
        if max(num_keys, num_tensors) > MAX_COUNT:
            raise damaged(path, f"it has {num_keys:,} keys and {num_tensors:,} tensors")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            if (key := head.text()) in metadata:
                raise damaged(path, f"the key {key[:80]!r} stands twice")
            metadata[key] = head.value(key)
        if type(count := metadata.get("split.count", 1)) is not int or count > 1:
            found = f"{path} is part {metadata.get('split.no', 0)} of {metadata['split.count']} (split.count)."
            raise UserError("gguf-split", found, "Join them first: llama-gguf-split --merge FIRST_PART WHOLE.gguf")
        stated = [head.tensor() for _ in range(num_tensors)]
    return Gguf(path, metadata, _placed(path, stated, head, metadata.get("general.alignment", 32)))


class _Stated(NamedTuple):
    """A tensor as the header has it, its innermost dimension first."""

    name: str
    dims: tuple[int, ...]
    type_id: int
    offset: int


class _Head:
    """The header, read in order. Raises UserError where it asks for more than there is."""

    def __init__(self, path: Path, file: BinaryIO, size: int):
        self.path, self.file, self.size, self.place = path, file, size, 0

    def require_room(self, count: int, item_bytes: int) -> None:
        end = self.place + count * item_bytes
        if end > self.size:
            raise cut_short(self.path, self.size, end)
        if end > MAX_HEADER_BYTES:
            found = f"The header of {self.path} has {end:,} bytes or more."
            todo = "Look whether the file is damaged, and fetch it again."
            raise UserError("gguf-header-too-large", found, f"At most {MAX_HEADER_BYTES:,} are read.", todo)

    def take(self, count: int) -> bytes:
        self.require_room(count, 1)
        self.place += count
        if len(data := self.file.read(count)) < count:  # it became shorter
            raise cut_short(self.path, self.place - count + len(data), self.place)
        return data

    def number(self, dtype: str) -> Any:
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(kind.itemsize), kind)[0].item()

    def text(self) -> str:
        (count,) = struct.unpack("<Q", self.take(8))
        try:
            return self.take(count).decode("utf-8")
        except UnicodeDecodeError:
            raise damaged(self.path, f"the text before byte {self.place:,} is not UTF-8") from None

    def value(self, key: str) -> Any:
        if (kind := self.number("<u4")) == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise damaged(self.path, f"{key[:80]!r} is of the unknown type {kind}")
        kind, count = self.number("<u4"), self.number("<u8")
        if kind == STRING:
            self.require_room(count, 8)
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise damaged(self.path, f"{key[:80]!r} is an array of the type {kind}")
        self.require_room(count, np.dtype(SCALARS[kind]).itemsize)
        return np.frombuffer(self.take(count * np.dtype(SCALARS[kind]).itemsize), SCALARS[kind])

    def tensor(self) -> _Stated:
        name, num_dims = self.text(), self.number("<u4")
        if not 1 <= num_dims <= MAX_DIMENSIONS:
            raise damaged(self.path, f"the tensor {name[:80]!r} has {num_dims:,} dimensions")
        dims = tuple(self.number("<u8") for _ in range(num_dims))
        return _Stated(name, dims, self.number("<u4"), self.number("<u8"))


def _placed(path: Path, stated: list[_Stated], head: _Head, alignment: Any) -> dict[str, TensorOnDisk]:
    """The tensors where they lie: one after the other, as ggml requires, each on a multiple of `alignment`."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise damaged(path, f"general.alignment is {alignment!r}, which is no small power of 2")
    names = {kind.value: kind.name for kind in GGMLQuantizationType}
    kinds = [(one.name[:80], names.get(one.type_id, str(one.type_id))) for one in stated]
    if others := [(name, kind) for name, kind in kinds if kind not in TYPES]:
        found = f"{path} has tensors of type {', '.join(sorted({kind for _, kind in others}))} "
        found += f"({listed([name for name, _ in others])})."
        todo = "Take a file with others, such as Q8_0 or Q4_K_M."
        raise UserError("gguf-type-unknown", found, f"Read are {', '.join(TYPES)}.", todo)
    start = -(-head.place // alignment) * alignment
    tensors: dict[str, TensorOnDisk] = {}
    place = 0
    for name, dims, type_id, offset in stated:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(type_id)]
        if name in tensors:
            raise damaged(path, f"the tensor {name[:80]!r} stands twice")
        if not all(dims) or dims[0] % block:
            raise damaged(path, f"the tensor {name[:80]!r} of type {names[type_id]} has the dimensions {dims}")
        if offset != place:
            raise damaged(path, f"the tensor {name[:80]!r} lies at {offset:,}, where {place:,} is free")
        num_bytes = math.prod(dims) // block * block_bytes
        tensors[name] = TensorOnDisk(path, names[type_id], dims[::-1], start + offset, num_bytes)
        if start + offset + num_bytes > head.size:
            raise cut_short(path, head.size, start + offset + num_bytes)
        place = -(-(offset + num_bytes) // alignment) * alignment
    if head.size > start + place:
        raise damaged(path, f"{head.size - start - place:,} bytes lie behind its last tensor")
    return tensors


def cut_short(path: Path, size: int, needed: int) -> UserError:
    found = f"{path} ends at {size:,} bytes, but by its header it has {needed:,} or more."
    return UserError("gguf-cut-short", found, "A whole file is needed:", "fetch or copy it again.")


def damaged(path: Path, what: str) -> UserError:
    return UserError("gguf-damaged", f"{path} is damaged: {what}.", "Fetch or copy the file again.")


def dequantise(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of whole rows, in fp32. Source: the gguf package, as transformers has it."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = np.frombuffer(data, np.uint8).reshape(math.prod(shape[:-1]), -1)
    return dequantize(rows, GGMLQuantizationType[dtype]).reshape(shape)
