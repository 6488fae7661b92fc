from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.formats import rows
from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from tests.raising import raises


def some_rows(count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    written = []
    for number in range(count):
        lengths = rng.integers(1, 6, 3).tolist()
        ids = rng.integers(0, 9, sum(lengths)).astype(np.int32)
        names = [f"{number}µ-{i}" for i in range(3)]
        written.append(Row(ids, lengths, names, ["a", "b", "a"], [5, 6, 7], continued=bool(number % 2)))
    return written


def write(folder: Path, written: list[Row]) -> RowTotals:
    return write_rows(folder, written, RowTotals(16, 0, "t"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five rows on disk."""
    write(tmp_path / "rows", some_rows(5))
    return tmp_path / "rows"


def test_rows_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "SHARD_ROWS", 7)
    written = some_rows(20)
    totals = write(tmp_path / "rows", written)
    assert len(list((tmp_path / "rows").glob("*.arrow"))) == 3
    opened = Rows(tmp_path / "rows")
    assert len(opened) == 20
    for number in (0, 6, 7, 19, 3):  # any order
        row, back = written[number], opened[number]
        as_lists = [asdict(each) | {"input_ids": each.input_ids.tolist()} for each in (row, back)]
        assert as_lists[0] == as_lists[1]
        assert back.num_targets == len(row.input_ids) - 3
    with pytest.raises(IndexError):
        opened[20]
    assert totals.num_tokens == sum(len(r.input_ids) for r in written) == sum(totals.source_tokens.values())
    assert totals.num_bytes == 20 * 18
    assert totals.fill == totals.num_tokens / (20 * 16)
    assert opened.totals == totals
    write(tmp_path / "none", [])
    none = Rows(tmp_path / "none")
    assert (len(none), none.totals.fill) == (0, 0)


def test_datasets_opens_them(folder):
    from datasets import load_from_disk

    dataset = load_from_disk(folder)
    assert dataset.column_names == rows.SCHEMA.names
    assert dataset[4]["input_ids"] == some_rows(5)[4].input_ids.tolist()
    assert dataset[1]["continued"] is True


def test_identity_follows_the_tokens(folder, tmp_path):
    written = some_rows(5)
    write(tmp_path / "same", written)
    written[2].input_ids[0] += 1
    write(tmp_path / "other", written)
    assert Rows(folder).sha256 == Rows(tmp_path / "same").sha256 != Rows(tmp_path / "other").sha256


def test_absent_and_damaged_rows(folder, tmp_path):
    with raises("rows-missing", tmp_path):
        Rows(tmp_path)
    write_json(folder / "rows.json", read_json(folder / "rows.json") | {"num_rows": 6})
    with raises("file-changed", folder / "rows.json"):
        Rows(folder)
    (folder / "files.json").unlink()
    with raises("rows-count-differs", folder, 5, 6):
        Rows(folder)


@pytest.mark.parametrize(
    ("file", "content", "quoted"),
    [
        ("rows.json", b'{"num_rows": 5}', "row_tokens, "),
        ("rows.json", b'{"begin_of_text_ids": 5}', "begin_of_text_ids, "),
        ("state.json", b'{"_data_files": [{"filename": "../rows.arrow"}]}', "'../rows.arrow'"),
        ("state.json", b"[" * 100_000, "recursion"),
        ("data-00000.arrow", b"\xff\xff\xff\xff\x10\0\0\0" + bytes(40), ""),
    ],
)
def test_damaged_files_of_rows(folder, file, content, quoted):
    (folder / file).write_bytes(content)
    (folder / "files.json").unlink()  # which would tell that it was changed
    with raises("file-damaged", folder / file, quoted):
        Rows(folder)


def test_a_row_that_points_outside_its_file_is_no_abort(folder):
    """Arrow itself ends the process on such offsets."""
    path = folder / "data-00000.arrow"
    content = path.read_bytes()
    ends = np.cumsum([0, *(len(row.input_ids) for row in some_rows(5))]).astype(np.int32).tobytes()
    assert content.count(ends) == 1
    path.write_bytes(content.replace(ends, ends[:8] + np.int32(25_185).tobytes() + ends[12:]))
    with raises("file-damaged", folder, "rows 0 to 5: "):
        Rows(folder)[1]
