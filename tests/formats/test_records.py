"""Records of JSON files: every form, every line, and an error with its line for whatever is not read."""

import io

import pytest

from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.formats import records
from nsllm_lite.formats.records import RecordError, iter_values, read_records

FORMS = {
    "lines": '{"a": 1}\n{"a": 2}\n',
    "lines with empty ones between": '\n{"a": 1}\n\n \n{"a": 2}',
    "a byte order mark": '\ufeff{"a": 1}\n{"a": 2}\n',
    "files of lines joined, each with its mark": '\ufeff{"a": 1}\n\ufeff\n\ufeff{"a": 2}\n',
    "lines that end in commas": '{"a": 1},\r\n{"a": 2},\r\n',
    "a list": '[{"a": 1}, {"a": 2}]',
    "a list over lines": '[\n {"a":\n 1},\n {"a": 2}\n]\n',
    "objects over lines": '{\n"a": 1}\n{"a":\n2}',
    "two lists": '[{"a": 1}]\n\n[{"a": 2}]',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form, tmp_path, monkeypatch):
    for size in (1 << 20, 3):
        monkeypatch.setattr(records, "CHUNK_CHARS", size)
        assert list(iter_records(io.StringIO(FORMS[form]))) == [{"a": 1}, {"a": 2}]
        if form != "two lists":
            (tmp_path / "x.json").write_text(FORMS[form])
            assert [value for _, value in read_records(tmp_path / "x.json")] == [{"a": 1}, {"a": 2}]


def lines_of(text: str) -> list[tuple[int, object]]:
    return [(n, type(v.cause).__name__ if isinstance(v, RecordError) else v) for n, v in iter_values(io.StringIO(text))]


def test_each_record_has_its_line():
    assert lines_of('\n{"a": 1}\n\n{"a": 2}\n') == [(2, {"a": 1}), (4, {"a": 2})]
    assert lines_of('[\n\n{"a":\n1},\n{"a": 2}\n]') == [(3, {"a": 1}), (5, {"a": 2})]
    assert lines_of("") == lines_of("[]") == []
    assert str(lines_of('{"a": [NaN, Infinity]}')) == "[(1, {'a': [nan, inf]})]", "numbers that JSON has not"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}\n{broken\n{"a": 2}', [(1, {"a": 1}), (2, "JSONDecodeError"), (3, {"a": 2})]),
        ('[{"a": 1},\n{"a": ', [(1, {"a": 1}), (2, "JSONDecodeError")]),
        ('[{"a": 1},\n', [(1, {"a": 1}), (2, "EOFError")]),
        ('[{"a": 1}]\nand more', [(1, [{"a": 1}]), (2, "JSONDecodeError")]),
        ('{"a": 1}\n{"a": ' + "[" * 100_000 + "\n", [(1, {"a": 1}), (2, "RecursionError")]),
        ('{"a": 1}\n{"a": 0, "a": 1}\n{"a": 2}', [(1, {"a": 1}), (2, "ValueError"), (3, {"a": 2})]),
        ('[{"a": 1},\n{"b": {"a": 0, "a": 1}},\n{"a": 2}]', [(1, {"a": 1}), (2, "ValueError"), (3, {"a": 2})]),
        ('{"a": 1}\n{"a": ' + "9" * 5000 + "}\n", [(1, {"a": 1}), (2, "ValueError")]),
    ],
)
def test_what_is_not_read_is_named(text, found, tmp_path):
    assert lines_of(text) == found
    (tmp_path / "x.json").write_text(text)
    line = next(number for number, value in found if isinstance(value, str))
    with pytest.raises(RecordError) as caught:
        list(read_records(tmp_path / "x.json"))
    assert caught.value.line == line
    messages = [record for record in iter_records(io.StringIO(text)) if isinstance(record, str)]
    assert len(messages) == 1
    assert messages[0].startswith("not JSON")


def test_bytes_that_are_not_utf8_have_a_line(tmp_path):
    (tmp_path / "x.json").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(RecordError) as caught:
        list(read_records(tmp_path / "x.json"))
    assert (caught.value.line, type(caught.value.cause)) == (2, UnicodeDecodeError)


@pytest.mark.parametrize("form", ["{}\n{}\n", "[{},\n{}]"])
@pytest.mark.parametrize("bad", ['{"a": ["x \\ud800"]}', '{"\\uDFFF": 1}', '{"a": "\\ude00\\ud83d"}'])
def test_half_a_character_has_a_line(tmp_path, form, bad):
    whole = '{"a": "\\ud83d\\ude00 \\\\ud800"}'  # an emoji as two halves, and a backslash before letters
    (tmp_path / "x.json").write_text(form.format(whole, whole))
    assert list(read_records(tmp_path / "x.json"))[1] == (2, {"a": "\U0001f600 \\ud800"})
    (tmp_path / "x.json").write_text(form.format(whole, bad))
    with pytest.raises(RecordError) as caught:
        list(read_records(tmp_path / "x.json"))
    assert caught.value.line == 2
    assert "surrogate" in str(caught.value)
    assert len(list(read_records(tmp_path / "x.json", allow_surrogates=True))) == 2


def test_a_record_that_is_no_object_is_a_message():
    assert list(iter_records(io.StringIO('[1, {"a": 2}]'))) == [
        "a int where a record (an object) is needed", {"a": 2},
    ]  # fmt: skip
