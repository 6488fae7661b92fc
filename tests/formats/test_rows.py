import json

import numpy as np
import pytest

from nsllm_lite.formats import rows
from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from tests.raising import raises


def some_rows(count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        lengths = rng.integers(1, 6, 3).tolist()
        made.append(
            Row(
                rng.integers(0, 9, sum(lengths)).astype(np.int32),
                lengths,
                [f"{number}µ-{i}" for i in range(3)],
                ["a", "b", "a"],
                [5, 6, 7],
                bool(number % 2),
            )
        )
    return made


def test_rows_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "SHARD_ROWS", 7)
    made = some_rows(20)
    totals = write_rows(tmp_path / "rows", made, RowTotals(16, 0, "t"))
    assert len(list((tmp_path / "rows").glob("*.arrow"))) == 3
    opened = Rows(tmp_path / "rows")
    assert len(opened) == 20
    for number in (0, 6, 7, 19, 3):  # any order
        row, back = made[number], opened[number]
        assert back.input_ids.tolist() == row.input_ids.tolist()
        assert (back.doc_lengths, back.doc_ids, back.doc_sources, back.doc_bytes, back.continued) == (
            row.doc_lengths, row.doc_ids, row.doc_sources, row.doc_bytes, row.continued)  # fmt: skip
        assert back.num_targets == len(row.input_ids) - 3
    with pytest.raises(IndexError):
        opened[20]
    assert totals.num_tokens == sum(len(r.input_ids) for r in made) == sum(totals.source_tokens.values())
    assert totals.num_bytes == 20 * 18
    assert totals.fill == totals.num_tokens / (20 * 16)
    assert opened.totals == totals


def test_datasets_opens_them(tmp_path):
    from datasets import load_from_disk

    made = some_rows(5)
    write_rows(tmp_path / "rows", made, RowTotals(16, 0, "t"))
    dataset = load_from_disk(tmp_path / "rows")
    assert dataset.column_names == rows.SCHEMA.names
    assert dataset[4]["input_ids"] == made[4].input_ids.tolist()
    assert dataset[1]["continued"] is True


def test_identity_follows_the_tokens(tmp_path):
    made = some_rows(5)
    write_rows(tmp_path / "a", made, RowTotals(16, 0, "t"))
    write_rows(tmp_path / "b", made, RowTotals(16, 0, "t"))
    made[2].input_ids[0] += 1
    write_rows(tmp_path / "c", made, RowTotals(16, 0, "t"))
    assert Rows(tmp_path / "a").sha256 == Rows(tmp_path / "b").sha256 != Rows(tmp_path / "c").sha256


def test_absent_and_damaged_rows(tmp_path):
    with raises("rows-missing", tmp_path):
        Rows(tmp_path)
    write_rows(tmp_path / "rows", some_rows(5), RowTotals(16, 0, "t"))
    totals = json.loads((tmp_path / "rows/rows.json").read_text())
    (tmp_path / "rows/rows.json").write_text(json.dumps(totals | {"num_rows": 6}))
    with raises("file-changed", tmp_path / "rows/rows.json"):
        Rows(tmp_path / "rows")
    (tmp_path / "rows/files.json").unlink()
    with raises("rows-count-differs", tmp_path / "rows", 5, 6):
        Rows(tmp_path / "rows")


@pytest.mark.parametrize(
    ("file", "content", "quoted"),
    [
        ("rows.json", b'{"num_rows": 5}', "row_tokens, "),
        ("state.json", b'{"_data_files": [{"filename": "../rows.arrow"}]}', "'../rows.arrow'"),
        ("state.json", b"[" * 100_000, "recursion"),
        ("data-00000.arrow", b"\xff\xff\xff\xff\x10\0\0\0" + bytes(40), ""),
    ],
)
def test_damaged_files_of_rows(tmp_path, file, content, quoted):
    write_rows(tmp_path / "rows", some_rows(5), RowTotals(16, 0, "t"))
    (tmp_path / "rows" / file).write_bytes(content)
    (tmp_path / "rows/files.json").unlink()  # which would tell that it was changed
    with raises("file-damaged", tmp_path / "rows" / file, quoted):
        Rows(tmp_path / "rows")


def test_a_row_that_points_outside_its_file_is_no_abort(tmp_path):
    """Arrow itself ends the process on such offsets."""
    write_rows(tmp_path / "rows", some_rows(5), RowTotals(16, 0, "t"))
    path = tmp_path / "rows/data-00000.arrow"
    content = path.read_bytes()
    ends = np.cumsum([0, *(len(row.input_ids) for row in some_rows(5))]).astype(np.int32).tobytes()
    assert content.count(ends) == 1
    path.write_bytes(content.replace(ends, ends[:8] + np.int32(25_185).tobytes() + ends[12:]))
    with raises("file-damaged", tmp_path / "rows", "rows 0 to 5: "):
        Rows(tmp_path / "rows")[1]


def test_no_rows_is_a_set_of_rows(tmp_path):
    write_rows(tmp_path / "rows", [], RowTotals(16, 0, "t"))
    assert len(Rows(tmp_path / "rows")) == 0
    assert Rows(tmp_path / "rows").totals.fill == 0
