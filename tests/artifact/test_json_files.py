"""Files of JSON lines that a kill cuts off: what is read of them, and what is continued."""

import json

import pytest

from nsllm_lite.artifact.json_files import cut_lines, read_json, read_lines

LINES = ['{"step": 1, "text": "α"}', '{"text": "é µm", "step": 2, "loss": 0.30000000000000004}', '{"step": 3}']
WHOLE = "".join(line + "\n" for line in LINES).encode()


def test_a_mark_that_windows_programs_put_first_is_read(tmp_path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"model_type": "qwen3"}')
    assert read_json(tmp_path / "config.json") == {"model_type": "qwen3"}


def test_a_line_that_was_cut_off_anywhere_is_not_there(tmp_path):
    path = tmp_path / "cut.jsonl"
    ends = [WHOLE.index(line.encode()) + len(line.encode()) for line in LINES]
    for size in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:size])
        there = [json.loads(line) for line, end in zip(LINES, ends, strict=True) if end <= size]
        assert read_lines(path) == there
        assert cut_lines(path) == there
        assert path.read_bytes() == WHOLE[: max((end + 1 for end in ends if end <= size), default=0)]
    assert read_lines(tmp_path / "absent.jsonl") == cut_lines(tmp_path / "absent.jsonl", 3) == []
    assert not (tmp_path / "absent.jsonl").exists()


@pytest.mark.parametrize(
    "damage", [b"{", b"7", b"\xff", b"", b"[" * 100_000], ids=["open", "number", "bytes", "empty", "deep"]
)
def test_nothing_behind_a_damaged_line_is_used(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    first, _, rest = WHOLE.partition(b"\n")
    path.write_bytes(first + b"\n" + damage + b"\n" + rest)
    assert [line["step"] for line in read_lines(path)] == [1]
    cut_lines(path, 3)
    assert path.read_bytes() == first + b"\n"


def test_what_is_later_than_the_checkpoint_is_taken_back(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(WHOLE)
    assert [line["step"] for line in cut_lines(path, 2)] == [1, 2]
    assert path.read_text() == "".join(line + "\n" for line in LINES[:2])
    path.write_text('{"current_steps": 1}\n{"step": 1}\n{"current_steps": 1}\n')
    assert cut_lines(path, 2, "current_steps") == [{"current_steps": 1}]
    assert cut_lines(path, -1, "current_steps") == []
    assert path.read_bytes() == b""
