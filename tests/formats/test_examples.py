"""Records of users' files are read, counted, or an error with their line."""

import json

import pytest

from nsllm_lite.formats.examples import Example, Pair, read_labelled, read_pairs
from tests.raising import raises


def write(tmp_path, text: str, name: str = "a.jsonl"):
    path = tmp_path / name
    path.write_text(text)
    return path


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_single_labels_with_what_is_not_used(tmp_path):
    text = lines({"text": "a b", "label": "x", "metadata": {}}, {"text": "c", "label": 1, "paper": 7})
    found = read_labelled(write(tmp_path, text))
    assert found.items == (Example(1, "a b", ("x",)), Example(2, "c", ("1",), "7"))
    assert not found.multi
    assert any("metadata (1)" in note for note in found.notes)


def test_files_of_tasks_are_read_as_texts_with_labels(tmp_path):
    text = lines({"instruction": "Which?", "input": "a", "output": "x", "document": "p1"})
    found = read_labelled(write(tmp_path, text))
    assert found.items == (Example(1, "a", ("x",), "p1"),)
    assert any("input as text" in note for note in found.notes)


def test_lists_of_labels_in_both_forms(tmp_path):
    as_json = read_labelled(write(tmp_path, lines({"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []})))
    as_table = read_labelled(write(tmp_path, 'text,labels\n"a",x; y\n"b",\n', "a.csv"))
    assert [one.labels for one in as_json.items] == [one.labels for one in as_table.items] == [("x", "y"), ()]
    assert as_json.multi
    assert as_table.multi
    assert any(note.startswith("1 of 2 texts") for note in as_json.notes)


def test_a_table_with_another_delimiter_and_line_breaks_in_cells(tmp_path):
    found = read_labelled(write(tmp_path, 'label;text\nx;"a, b\nc"\n', "a.csv"))
    assert found.items == (Example(3, "a, b\nc", ("x",)),)


@pytest.mark.parametrize(
    ("name", "text", "quoted"),
    [
        ("a.jsonl", '{"text": "a"}\n', "line 1"),
        ("a.jsonl", '{"text": " ", "label": "x"}\n', "line 1"),
        ("a.jsonl", '{"text": "a", "label": ""}\n', "line 1"),
        ("a.jsonl", '{"text": "a", "label": ["x", "y"]}\n', "line 1"),
        ("a.jsonl", '{"text": "a", "labels": ["x"]}\n{"text": "b", "label": "x"}\n', "line 2"),
        ("a.jsonl", '{"text": "a", "labels": {"x": 1}}\n', "line 1"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n["a"]\n', "line 2"),
        ("a.csv", "text,label\na,x,z\n", "line 2"),
        ("a.csv", 'text,label\n"a,x\nb,y\n', "line 3"),
        ("a.csv", "text,text\na,x\n", "line 1"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(tmp_path, name, text, quoted):
    with raises("example-unfit", quoted):
        read_labelled(write(tmp_path, text, name))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abstract,category\nTin melts.,metal\n", "abstract, category."),
        ("Tin melts.,metal\nIce melts.,water\n", "Tin melts., metal."),
        (f"{'a' * 99},metal\n", f" {'a' * 40}..., metal."),
        ("text,category\nTin melts.,metal\n", "text, category."),
        ("text,input\nTin melts.,metal\n", "text, input."),
    ],
)
def test_a_table_without_the_columns_is_told_them_once_and_no_record_is_blamed(tmp_path, text, columns):
    needed = "text (or input, sentence, sentence1) and label (or output) or labels"
    with raises("examples-columns-missing", columns, needed):
        read_labelled(write(tmp_path, text, "a.csv"))


def test_files_that_cannot_be_read(tmp_path):
    with raises("examples-file-empty"):
        read_labelled(write(tmp_path, ""))
    with raises("examples-file-empty"):
        read_labelled(write(tmp_path, "text,label\n", "a.csv"))
    with raises("examples-file-unreadable"):
        read_labelled(write(tmp_path, '{"text": '))
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe\xfa,x\n")
    with raises("examples-file-unreadable"):
        read_labelled(tmp_path / "a.csv")


def test_texts_with_several_labels_are_counted(tmp_path):
    text = lines({"text": "a", "label": "x"}, {"text": "a ", "label": "y"}, {"text": "b", "label": "x"})
    notes = read_labelled(write(tmp_path, text)).notes
    assert [note[:2] for note in notes] == ["1 ", "1 "]


def test_pairs(tmp_path):
    text = lines({"text": "a", "text_pair": "b", "label": 1}, {"text": "a", "text_pair": "c", "label": False})
    found = read_pairs(write(tmp_path, text))
    assert found.items == (Pair(1, "a", "b", True), Pair(2, "a", "c", False))
    with raises("example-unfit", "'maybe'"):
        read_pairs(write(tmp_path, lines({"text": "a", "text_pair": "b", "label": "maybe"})))
