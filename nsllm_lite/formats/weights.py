"""Safetensors files read by slices, so that no model has to fit in memory.

Plain reads, because the pages of a memory map would count as resident.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_lite import safety
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import read_json, sha256_json
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.formats.tokenizer import FILES
from nsllm_lite.safety import no_safetensors, not_safetensors

if TYPE_CHECKING:
    import torch

OTHERS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4}
OTHERS |= {"F64": 8, "I64": 8, "U64": 8, "C64": 8}
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}
ITEM_BYTES = FLOATS | OTHERS
SLICE_BYTES = 2 * 2**20  # of fp32; a slice and its temporaries take about four times this, and stay in the cache
READ_BYTES = 8 * 2**20
HEAD = "lm_head.weight"
SLICE_ROWS = 64  # the least; products of 1 or 7 rows take another path in MKL, whose last bit differs from PEFT's


@dataclass(frozen=True, slots=True)
class TensorOnDisk:
    """A tensor where it lies in a safetensors file; nothing is read yet."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int

    def read(self, first_byte: int, last_byte: int) -> memoryview:
        return self.read_into(bytearray(last_byte - first_byte), first_byte, last_byte)

    def read_into(self, buffer: bytearray, first_byte: int, last_byte: int) -> memoryview:
        """The bytes first..last, at the beginning of `buffer`."""
        view = memoryview(buffer)[: last_byte - first_byte]
        with open(self.file, "rb") as file:
            file.seek(self.start + first_byte)
            if file.readinto(view) < len(view):
                raise shrank(self.file)
        return view

    def rows_into(self, buffer: bytearray, first: int, last: int) -> "torch.Tensor":
        """Rows first..last as a tensor of the stored dtype that lies in `buffer`."""
        row_bytes = self.num_bytes // self.shape[0]
        view = self.read_into(buffer, first * row_bytes, last * row_bytes)
        return as_floats(view, self.dtype).view(-1, *self.shape[1:])

    def row_slices(self) -> list[tuple[int, int]]:
        """(first, last) rows of each slice, see `slices`."""
        return list(slices(self.shape[0], 4 * math.prod(self.shape[1:])))

    def rows(self, first: int = 0, last: int | None = None) -> "torch.Tensor":
        """Rows first..last as a tensor of the stored dtype."""
        last = self.shape[0] if last is None else last
        return self.rows_into(bytearray((last - first) * (self.num_bytes // self.shape[0])), first, last)


@functools.cache
def dtypes() -> dict[str, "torch.dtype"]:
    """Imports torch, which `runs` and `show` do without."""
    import torch

    return {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "U8": torch.uint8}


def as_floats(data: bytearray | memoryview, dtype: str) -> "torch.Tensor":
    import torch

    return torch.frombuffer(data, dtype=dtypes()[dtype])


def shrank(path: Path) -> RunError:
    return RunError("file-shrank", f"{path} became shorter while it was read.", "Run the same command again.")


def not_finite(names: object, path: Path) -> UserError:
    todo = "Fetch or make that file again; if training made it, continue from an earlier checkpoint with a lower rate."
    return UserError("weights-not-finite", f"{names} holds NaN or infinity in {path}.", todo)


def read_header(path: Path) -> dict[str, TensorOnDisk]:
    """The tensors of a safetensors file, by name, in the order they lie in it.

    Raises:
        UserError: it is none, or its header and its length do not agree.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes)) if header_bytes < size else None
        header.pop("__metadata__", None)
        tensors, end = {}, 8 + header_bytes
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = entry["data_offsets"]
            sizes = (first, last, *entry["shape"])
            stored = TensorOnDisk(path, entry["dtype"], tuple(entry["shape"]), 8 + header_bytes + first, last - first)
            if not all(type(size) is int and 0 <= size < 2**63 for size in sizes) or stored.start != end:
                raise ValueError(f"{name} has no place")  # caught below
            if ITEM_BYTES[stored.dtype] * math.prod(stored.shape) != stored.num_bytes:
                raise ValueError(f"{name} has not its size")  # caught below
            tensors[name], end = stored, stored.start + stored.num_bytes
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise not_safetensors(path) from None
    if end != size:
        what = "is cut short" if end > size else "has bytes too many"
        found = f"{path} {what} at {size:,} bytes of {end:,}."
        raise UserError("weights-size-wrong", found, "Whole files are needed:", "fetch or copy it again.")
    return tensors


def model_files(folder: Path) -> list[str]:
    """The names of the weights that transformers would load from a model's directory.

    Raises:
        UserError: there are none, one is missing or lies elsewhere, or the index lists other tensors than they hold.
    """
    files = safety.weight_files(folder)
    if files == ["model.safetensors"]:
        return files
    index = folder / "model.safetensors.index.json"
    weight_map = read_json(index)["weight_map"]
    held = {name: file for file in files for name in read_header(folder / file)}
    if HEAD in weight_map and HEAD not in held and ties_embeddings(read_json(folder / "config.json")):
        weight_map = {
            name: file for name, file in weight_map.items() if name != HEAD
        }  # which transformers does not miss
    if held != weight_map:
        odd = min(name for name in {*held, *weight_map} if held.get(name) != weight_map.get(name))
        holds = f"{held[odd]} holds it" if odd in held else "no file holds it"
        named = f"names {weight_map[odd]}" if odd in weight_map else "does not name it"
        found = f"{index} differs from its files at {odd!r}: it {named}, but {holds}."
        raise UserError("weights-index-differs", found, "Fetch or copy both again.")
    return files


def ties_embeddings(config: dict) -> bool:
    """Whether config.json has the head be the embeddings; where it does not say, as transformers has it for its kind of
    model."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and part.get("tie_word_embeddings") is not None:
            return bool(part["tie_word_embeddings"])
    from transformers import AutoConfig  # takes seconds, and is seldom needed

    try:
        return bool(AutoConfig.for_model(config.get("model_type")).tie_word_embeddings)
    except (ValueError, AttributeError):  # of no kind that it knows
        return False


def require_sound(folder: Path) -> dict[str, integrity.Entry]:
    """Reads the weights of a model or an adapter once: each file is whole, finite, and what `files.json` says of it.

    Returns:
        {file of weights: its length and SHA-256}. A file that this process has read before is not read again.

    Raises:
        UserError: naming the file, and the tensors that hold NaN or infinity.
    """
    is_adapter = (folder / "adapter_config.json").is_file()
    files = ["adapter_model.safetensors"] if is_adapter else model_files(folder)
    found = integrity.verify(folder, readers=dict.fromkeys(files, _read_through))
    for name in files:
        if broken := found[name]["not finite"]:
            raise not_finite(broken, folder / name)
    return {name: {key: found[name][key] for key in ("bytes", "sha256")} for name in files}


def _read_through(path: Path) -> integrity.Entry:
    """`integrity.describe`, and "not finite": the tensors that are not."""
    tensors = read_header(path)
    digest, broken, size = hashlib.sha256(), [], path.stat().st_size
    buffer = memoryview(bytearray(min(READ_BYTES, size)))
    with open(path, "rb", buffering=0) as file:
        first = next(iter(tensors.values())).start if tensors else size
        digest.update(file.read(first))
        for name, stored in tensors.items():
            left, finite = stored.num_bytes, True
            while left:
                piece = buffer[: min(left, READ_BYTES)]
                if file.readinto(piece) != len(piece):
                    raise shrank(path)
                digest.update(piece)
                left -= len(piece)
                if stored.dtype in FLOATS:
                    finite &= all(math.isfinite(bound) for bound in as_floats(piece, stored.dtype).aminmax())
            broken += [] if finite else [name]
    return {"bytes": size, "sha256": digest.hexdigest(), "not finite": listed(broken)}


def listed(names: list[str]) -> str:
    """The first five of `names`, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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


def same_bytes(one: TensorOnDisk, other: TensorOnDisk) -> bool:
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and all(one.read(*piece) == other.read(*piece) for piece in slices(one.num_bytes, 1))


SETTINGS = ("config.json", "generation_config.json", "adapter_config.json", "training.json", *FILES)
"""Of a model's or an adapter's directory, all beside the weights that its loaded form follows from."""


def fingerprint_settings(model_dir: Path) -> str:
    """Identity of the configs, the tokenizer and the chat template of a model's directory."""
    files = {path for pattern in SETTINGS for path in Path(model_dir).glob(pattern) if path.is_file()}
    return sha256_json({str(path.relative_to(model_dir)): integrity.sha256_file(path) for path in sorted(files)})


def fingerprint_embedder_settings(model_dir: Path) -> str:
    """`fingerprint_settings`, and every other part of sentence-transformers: its JSON files, and modules' weights."""
    parts = [*model_dir.glob("*/config.json"), *model_dir.glob("*/*.safetensors"), *model_dir.glob("*.json")]
    parts = [part for part in parts if "manifest" not in part.name]
    others = {str(part.relative_to(model_dir)): integrity.sha256_file(part) for part in sorted(parts)}
    return sha256_json([fingerprint_settings(model_dir), others])


def fingerprint_weights(model_dir: Path) -> str:
    """Identity of a model directory's weights: every safetensors header, and 64 KiB at 16 places of each file.

    Reading all of an 8B model takes a minute. Models that differ only outside the sampled bytes get the same identity;
    a merge or a training step, which touch every layer, cannot produce such.

    Raises:
        UserError: the directory holds no safetensors.
    """
    files = sorted(Path(model_dir).glob("*.safetensors"))
    if not files:
        raise no_safetensors(model_dir)
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size < 8 or header_bytes > min(size, 2**27):
                raise not_safetensors(path)
            digest.update(file.read(header_bytes))
            for place in range(16):
                file.seek(max(0, (size - 65_536) * place // 15))
                digest.update(file.read(65_536))
    return digest.hexdigest()
