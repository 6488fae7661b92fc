"""The weights of a result, shard by shard: reading and arithmetic in threads, writing and hashing beside them.

Memory does not depend on the model's size: each tensor passes through in slices of rows, by plain reads, because the
pages of a memory map would count as resident. What no adapter touches is copied as bytes.

`progress.jsonl` says up to where the shards are on the disk. A call after a kill cuts its last shard there, hashes
what is left, and goes on with the next tensor.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import torch
from tqdm import tqdm

from nsllm_lite import terminal
from nsllm_lite.artifact.json_files import cut_lines, write_json
from nsllm_lite.formats.weights import SLICE_BYTES, TensorOnDisk, slices
from nsllm_lite.merge.arithmetic import Buffers, Figures, Operands, copy_bytes, merge_rows, prepare
from nsllm_lite.merge.plan import PlannedTensor, Rounding

PROGRESS = "progress.jsonl"
SYNC_BYTES = 256 * 2**20  # so much at the most is done again after a kill
SAMPLED = 8  # one slice in so many of a tensor, its first included, is checked more closely


class Planned(Protocol):
    """A tensor of the result, in `dtype`; `source` has its shape."""

    @property
    def source(self) -> TensorOnDisk: ...
    @property
    def dtype(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...


Slice = tuple[bool, Callable[..., tuple[memoryview, Figures]], tuple]
"""Whether it is the last of its tensor; what gives its bytes, which lie in the slot; the arguments but for the slot."""
Cut = Callable[[str, Planned, "Workers"], Iterator[Slice]]


class Shard(NamedTuple):
    file: str
    tensors: Mapping[str, Planned]

    @property
    def header(self) -> bytes:
        """Source: the format's README, https://github.com/huggingface/safetensors (header length, JSON header)."""
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, planned in self.tensors.items():
            ends = [offset, offset + planned.num_bytes]
            header[name] = {"dtype": planned.dtype, "shape": planned.source.shape, "data_offsets": ends}
            offset = ends[1]
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def cut_shards(plan: Mapping[str, Planned], shard_bytes: int) -> list[Shard]:
    """Shards of at most `shard_bytes`, unless one tensor alone is larger; wide entries come first: all are aligned."""
    shards, filled = [[]], 0
    for name, planned in plan.items():
        if shards[-1] and filled + planned.num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += planned.num_bytes

    def width(name: str) -> int:
        return plan[name].num_bytes // max(1, math.prod(plan[name].source.shape))

    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    return [
        Shard(file, {name: plan[name] for name in sorted(names, key=lambda name: -width(name))})
        for file, names in zip(files, shards, strict=True)
    ]


@dataclass(slots=True)
class Written:
    """What is known of the weights on the disk: `figures` by tensor, `sha256` by finished shard."""

    figures: dict[str, Figures]
    sha256: dict[str, str]
    shard: str = ""  # the one at work, and how much of it is finished
    num_tensors: int = 0
    num_bytes: int = 0

    @classmethod
    def read(cls, path: Path) -> "Written":
        """From the lines of a killed merge."""
        written = cls({}, {})
        for values in cut_lines(path):
            written.figures |= {name: Figures(*figures) for name, figures in values["figures"].items()}
            written.shard, written.num_tensors, written.num_bytes = values["shard"], values["tensors"], values["bytes"]
            if values["sha256"]:
                written.sha256[values["shard"]] = values["sha256"]
                written.num_tensors = written.num_bytes = 0
        return written


def write_weights(
    folder: Path, plan: Mapping[str, Planned], shard_bytes: int, cut: Cut, slot_entries: int, workers: int, what: str
) -> Written:
    """Writes the shards, and their index where there are several; continues what a killed call left in `folder`. `cut`
    gives the slices of a tensor, none of more than `slot_entries` entries."""
    shards = cut_shards(plan, shard_bytes)
    written = Written.read(folder / PROGRESS)
    if any(not _is_there(folder, shard, written) for shard in shards):
        (folder / PROGRESS).unlink()
        written = Written({}, {})
    total = sum(planned.num_bytes for planned in plan.values())
    done = sum(plan[n].num_bytes for s in shards if s.file in written.sha256 for n in s.tensors) + written.num_bytes
    for path in set(folder.glob("*.safetensors")) - {folder / shard.file for shard in shards}:
        path.unlink()
    with (
        Workers(workers, slot_entries) as pool,
        open(folder / PROGRESS, "ab", buffering=0) as progress,
        terminal.progress(total, done, what, "B", unit_scale=True, unit_divisor=1024) as bar,
    ):
        for shard in shards:
            if shard.file not in written.sha256:
                write_shard(folder, shard, written, cut, pool, progress, bar)
    if len(shards) > 1:
        weight_map = {name: shard.file for shard in shards for name in shard.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)
    return written


def _is_there(folder: Path, shard: Shard, written: Written) -> bool:
    """Whether the file holds at least what `written` records of it."""
    path = folder / shard.file
    size = path.stat().st_size if path.is_file() else 0
    if shard.file in written.sha256:
        return size == len(shard.header) + sum(planned.num_bytes for planned in shard.tensors.values())
    return size >= (written.num_bytes if shard.file == written.shard else 0)


def slice_entries(planned: PlannedTensor) -> int:
    """Entries of the largest slice of a tensor, as they lie in a slot."""
    if planned.is_copy:
        return SLICE_BYTES // 2
    return max(last - first for first, last in planned.source.row_slices()) * math.prod(planned.source.shape[1:])


class Workers(ThreadPoolExecutor):
    """Threads with one torch thread each, and the memory of the slices at work."""

    def __init__(self, count: int, slot_entries: int):
        super().__init__(count, initializer=torch.set_num_threads, initargs=(1,))
        self.free = [Buffers(slot_entries, 4 * slot_entries) for _ in range(2 * count + 2)]

    def __exit__(self, *error: object) -> None:
        self.shutdown(cancel_futures=True)


def write_shard(
    folder: Path, shard: Shard, written: Written, cut: Cut, pool: Workers, progress: BinaryIO, bar: tqdm
) -> None:
    """One file from the tensor where `written` says that it ends; its hash and figures are added there."""
    pending: deque[tuple[str, Buffers, Future, bool]] = deque()
    with open(folder / shard.file, "ab+", buffering=0) as file, ThreadPoolExecutor(1) as syncing:
        output = ShardFile(file, syncing, shard, written, progress)

        def finish_first() -> None:
            name, slot, future, ends_tensor = pending.popleft()
            data, figures = future.result()
            output.add(name, data, figures, ends_tensor)
            bar.update(len(data))
            pool.free.append(slot)

        for name, planned in list(shard.tensors.items())[written.num_tensors :]:
            for ends_tensor, function, arguments in cut(name, planned, pool):
                if not pool.free:
                    finish_first()
                slot = pool.free.pop()
                pending.append((name, slot, pool.submit(function, *arguments, slot), ends_tensor))
        while pending:
            finish_first()
        output.finish()


class ShardFile:
    """A shard as it is written, with its hash. The thread of `syncing` fsyncs it, and then records it in `progress`."""

    def __init__(self, file: BinaryIO, syncing: ThreadPoolExecutor, shard: Shard, written: Written, progress: BinaryIO):
        self._file, self._syncing, self._progress = file, syncing, progress
        self._name, self._written = shard.file, written
        self._file.truncate(written.num_bytes)
        self._digest = hashlib.sha256()
        self._file.seek(0)
        while block := self._file.read(SLICE_BYTES):
            self._digest.update(block)
        self._place, self._num_tensors = written.num_bytes, written.num_tensors
        self._since_sync: dict[str, Figures] = {}
        self._unsynced_bytes = 0
        self._synced: list[Future] = []
        if not self._place:
            self._write(shard.header)

    def add(self, name: str, data: memoryview, figures: Figures, ends_tensor: bool) -> None:
        """The next bytes, of tensor `name`."""
        self._write(data)
        total = self._written.figures.get(name, Figures()).plus(figures)
        self._written.figures[name] = total
        if ends_tensor:
            self._num_tensors += 1
            self._since_sync[name] = total
            if self._unsynced_bytes >= SYNC_BYTES:
                self._sync(None)

    def finish(self) -> None:
        self._sync(self._digest.hexdigest())
        for done in self._synced:
            done.result()
        self._written.sha256[self._name] = self._digest.hexdigest()
        self._written.num_tensors = self._written.num_bytes = 0

    def _write(self, data: bytes | memoryview) -> None:
        put(self._file, data)
        self._digest.update(data)
        self._place += len(data)
        self._unsynced_bytes += len(data)

    def _sync(self, sha256: str | None) -> None:
        values = {"shard": self._name, "tensors": self._num_tensors, "bytes": self._place, "sha256": sha256}
        line = json.dumps({**values, "figures": self._since_sync}).encode() + b"\n"
        self._since_sync, self._unsynced_bytes = {}, 0

        def sync() -> None:
            os.fsync(self._file.fileno())
            put(self._progress, line)
            os.fsync(self._progress.fileno())

        self._synced.append(self._syncing.submit(sync))


def put(file: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def merging(rounding: Rounding) -> Cut:
    """The slices of a merge's tensors."""

    def cut(name: str, planned: PlannedTensor, pool: Workers) -> Iterator[Slice]:
        source = planned.source
        if planned.is_copy:
            for first, last in list(slices(source.num_bytes, 1)) or [(0, 0)]:
                yield last == source.num_bytes, copy_bytes, (name, source, first, last)
            return
        operands = pool.submit(prepare, name, planned, rounding)
        for number, (first, last) in enumerate(source.row_slices()):
            sampled = number % SAMPLED == 0
            yield last == source.shape[0], _merge_job, (name, planned, operands, first, last, sampled)

    return cut


def _merge_job(
    name: str, planned: PlannedTensor, operands: "Future[Operands]", first: int, last: int, sampled: bool, slot: Buffers
) -> tuple[memoryview, Figures]:
    return merge_rows(name, planned, operands.result(), first, last, slot, sampled)
