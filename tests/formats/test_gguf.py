"""Broken and hostile GGUF files: each is refused by its code, in no time, with nothing allocated for what it claims."""

import struct
import tracemalloc

import pytest

from nsllm_lite.formats import gguf
from nsllm_lite.formats.gguf import read_gguf
from tests.raising import raises

HUGE = 2**63


def text(word: str | bytes) -> bytes:
    word = word.encode() if isinstance(word, str) else word
    return struct.pack("<Q", len(word)) + word


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str = "w", dims=(32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(*, keys=(), tensors=(), data=0, version=3, num_keys=None, num_tensors=None, magic=b"GGUF") -> bytes:
    counts = len(tensors) if num_tensors is None else num_tensors, len(keys) if num_keys is None else num_keys
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join((*keys, *tensors))
    return head + bytes(-len(head) % 32 + data)


ALIGNMENT = "general.alignment"
WHOLE = {"keys": [key("a", 4, b"\1\0\0\0")], "tensors": [tensor(), tensor("x", (32, 2), 8, 128)], "data": 128 + 68}
BROKEN = {
    "gguf-no-gguf": [file(magic=b"PK\3\4"), b"GG"[:2] + b"\0\0"],
    "gguf-version": [file(version=1), file(version=3 << 24), file(version=4)],
    "gguf-cut-short": [
        b"", b"GGUF\3", file()[:20], file(**WHOLE)[:-33], file(num_keys=HUGE), file(num_tensors=2**64 - 1),
        file(num_keys=2**60, keys=[key("a", 4, bytes(4))]), file(keys=[struct.pack("<Q", HUGE)]),
        file(keys=[key("a", 8, struct.pack("<Q", HUGE))]), file(keys=[key("a", 9, struct.pack("<IQ", 4, HUGE))]),
        file(keys=[key("a", 9, struct.pack("<IQ", 8, 2**60))]), file(tensors=[tensor(dims=(2**40,) * 4)], data=64),
        file(tensors=[tensor(dims=(2**63, 2**63))]), file(tensors=[tensor(dims=(64, 64), kind=8)], data=64),
    ],
    "gguf-damaged": [
        file(keys=[key("a", 4, bytes(4))] * 2), file(keys=[text(b"\xff") + bytes(8)]),
        file(keys=[key("a", 13, bytes(8))]),
        file(keys=[key("a", 9, struct.pack("<IQIQ", 9, 1, 4, 0))]), file(tensors=[tensor(dims=())]),
        file(tensors=[tensor(dims=(1,) * 5)]), file(tensors=[text("w") + struct.pack("<I", 2**32 - 1)], data=64),
        file(tensors=[tensor()] * 2, data=512), file(tensors=[tensor(), tensor("x")], data=512),  # overlapping
        file(tensors=[tensor(), tensor("x", offset=HUGE)], data=512), file(tensors=[tensor(offset=32)], data=512),
        file(tensors=[tensor(dims=(0,))], data=64), file(tensors=[tensor(dims=(33, 2), kind=8)], data=512),
        file(tensors=[tensor()], data=128 + 64), file(num_keys=2**17, data=2**21),
        file(keys=[key(ALIGNMENT, 4, bytes(4))]),
        file(keys=[key(ALIGNMENT, 4, struct.pack("<I", 48))]), file(keys=[key(ALIGNMENT, 8, text("32"))]),
        file(keys=[key(ALIGNMENT, 10, struct.pack("<Q", 2**62))]),
    ],
    "gguf-split": [file(keys=[key("split.count", 2, b"\2\0")])],
    "gguf-type-unknown": [file(tensors=[tensor(kind=kind)], data=512) for kind in (16, 24, 4, 2**31)],
}  # fmt: skip


@pytest.mark.parametrize(("code", "number"), [(code, n) for code, files in BROKEN.items() for n in range(len(files))])
def test_a_broken_file_is_refused_by_its_code(tmp_path, code, number):
    path = tmp_path / "x.gguf"
    path.write_bytes(BROKEN[code][number])
    tracemalloc.start()
    try:
        with raises(code, path):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_whole_file_is_read(tmp_path, monkeypatch):
    path = tmp_path / "x.gguf"
    path.write_bytes(file(**WHOLE))
    read = read_gguf(path)
    assert read.metadata == {"a": 1}
    assert [(one.dtype, one.shape, one.num_bytes) for one in read.tensors.values()] == [
        ("F32", (32,), 128), ("Q8_0", (2, 32), 68)
    ]  # fmt: skip
    path.write_bytes(file(**WHOLE) + bytes(28))  # padded at the end
    assert read_gguf(path) == read
    with raises("gguf-type-unknown", "IQ2_XXS", "blk.0"):
        path.write_bytes(file(tensors=[tensor("blk.0", kind=16)], data=64))
        read_gguf(path)
    monkeypatch.setattr(gguf, "MAX_HEADER_BYTES", 64)
    path.write_bytes(file(keys=[key("a", 8, text("x" * 60))]))
    with raises("gguf-header-too-large", 64):
        read_gguf(path)
    with raises("gguf-missing", "none.gguf"):
        read_gguf(tmp_path / "none.gguf")
