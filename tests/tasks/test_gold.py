"""Gold answers as others publish them: read, repaired by name, left out by name, never lost."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.errors import UserError
from nsllm_lite.tasks import gold
from nsllm_lite.tasks.items import read_items
from nsllm_lite.tasks.schemas import BLANK_LIST, BLANK_TEXT, ONE_TEXT
from nsllm_lite.tasks.table_text import Table, read_table
from nsllm_lite.tasks.task import all_tasks
from tests.corpus.small import write_lines
from tests.raising import raises
from tests.tasks.test_extraction import GOLD, doping, material

DOPING, GENERAL, TITLE = (all_tasks()[name] for name in ("doping", "mof_general", "title"))
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ASKED = {"system": "Extract.", "question": "ZnO with Mg."}


def test_both_forms_and_an_answer_as_an_object_or_as_text(tmp_path):
    value = doping(["ZnO"], ["Mg"], [(0, 0)])
    rows = [
        ASKED | {"answer": value},
        ASKED | {"answer": f" {json.dumps(value, indent=1)}", "document": "10.1/a", "id": "own"},
        {"instruction": "Extract.", "input": "ZnO with Mg.", "output": json.dumps(value)},
        {"input": "ZnO with Mg.", "output": json.dumps(value)},
    ]
    write_lines(tmp_path / "lines.jsonl", rows)
    (tmp_path / "list.json").write_text("\ufeff" + json.dumps(rows))
    for name in ("lines.jsonl", "list.json"):
        found = DOPING.read_gold(tmp_path / name)
        assert {one.item["output"] for one in found} == {DOPING.canonical(value)}
        assert [one.item["instruction"] for one in found] == ["Extract."] * 3 + [""]
        assert {one.item["input"] for one in found} == {"ZnO with Mg."}
        assert (found[1].item["document"], found[1].item["id"]) == ("10.1/a", "own")
    items = DOPING.read_items(tmp_path / "lines.jsonl")
    assert [(item.number, item.document) for item in items] == [(0, ""), (1, "10.1/a"), (2, ""), (3, "")]
    (text,) = TITLE.read_gold(write(tmp_path, [ASKED | {"answer": "A title"}]))
    assert text.item["output"] == "A title"


def write(folder, rows) -> Path:
    write_lines(folder / "gold.jsonl", rows)
    return folder / "gold.jsonl"


def test_the_three_repairs_are_named_and_nothing_else_is_repaired(tmp_path):
    rows = [
        [material("gold", description=[""], applications=[""])],
        [material(["gold"])],
        [material("gold", structure_or_phase="")],
        [material("gold", description=["", "x"])],
        [material(["gold", "silver"])],
        [material("gold", description="red")],
    ]
    found = GENERAL.read_gold(write(tmp_path, [ASKED | {"answer": json.dumps(row)} for row in rows]))
    repairs = [(BLANK_LIST, BLANK_LIST), (ONE_TEXT,), (BLANK_TEXT,), (), (), ()]
    assert [one.repairs for one in found] == repairs
    plain = GENERAL.canonical([material("gold")])
    assert [one.item["output"] for one in found[:3]] == [plain] * 3
    assert json.loads(found[3].item["output"])[0]["description"] == ["", "x"]
    assert [(one.line, one.reason, one.what) for one in found[4:]] == [
        (5, "its answer breaks the schema", "0.name: Input should be a valid string"),
        (6, "its answer breaks the schema", "0.description: Input should be a valid list"),
    ]
    assert gold.counts_of(found) == {
        "left_out": {"its answer breaks the schema": 2}, "repaired": {BLANK_LIST: 1, ONE_TEXT: 1, BLANK_TEXT: 1},
    }  # fmt: skip


def test_what_cannot_be_used_costs_itself_alone_and_is_told(tmp_path, capsys):
    path = tmp_path / "gold.jsonl"
    (tmp_path / "half").mkdir()
    empty = json.dumps(doping())
    rows = [
        ASKED | {"answer": doping()}, ASKED | {"answer": str(doping())}, ASKED | {"answer": None}, ASKED, [3],
        {"question": 5, "answer": empty}, ASKED | {"answer": empty, "history": [["a", "b"]]},
        ASKED | {"answer": doping(["\ud800"])}, {"question": "\ud800", "answer": empty},
        ASKED | {"answer": {"basemats": {"x": "ZnO"}, "dopants": {}, "dopants2basemats": {}}},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n" + json.dumps(rows[0]) + "\n")
    found = DOPING.read_gold(path)
    assert [one.line for one in found if one.item] == [1, 12]
    assert [one.reason for one in found[1:11]] == [
        "its answer is no JSON (python)", "its answer breaks the schema", "its answer breaks the schema", "no record",
        "no question that is text, and no table", "a part of its question is elsewhere", "its answer breaks the schema",
        "half a character", "its answer breaks the schema", "not read as JSON",
    ]  # fmt: skip
    deep = [material("gold", description=json.loads("[" * 900 + "]" * 900))]
    for task, value in ((DOPING, doping(["\ud800"])), (GENERAL, [material("\ud800")]), (GENERAL, deep)):
        with raises("gold-none-used", "its answer breaks the schema"):
            task.read_gold(write(tmp_path / "half", [ASKED | {"answer": value}]))
    assert len(DOPING.read_items(path)) == 2
    printed = capsys.readouterr().out
    assert "left out, its answer is no JSON (python): 1 (line 2)" in printed
    assert "left out, its answer breaks the schema: 4 (line 3, 4, 8, 10)" in printed


def test_keys_that_are_not_used_are_told(tmp_path, capsys):
    DOPING.read_gold(write(tmp_path, [ASKED | {"answer": doping(), "tid": 3}] * 2))
    assert "keys of its records that are not used: tid (2)" in capsys.readouterr().out


def test_files_that_are_none(tmp_path):
    path = tmp_path / "gold.jsonl"
    for content in (POINTER, "\ufeff" + POINTER):
        path.write_text(content)
        for task in (DOPING, TITLE):
            with raises("gold-unreadable", path, "Git LFS pointer", "git lfs pull"):
                task.read_gold(path)
        with raises("items-file-unreadable", path, "Git LFS pointer"):
            read_items(path)
    path.write_bytes(b"\xff\xfe")
    with raises("gold-unreadable", "utf-8"):
        DOPING.read_gold(path)
    path.write_text(json.dumps([ASKED | {"answer": doping()}])[:-3])
    with raises("gold-unreadable", "line 1"):
        DOPING.read_gold(path)
    with raises("gold-unreadable", "No such file"):
        DOPING.read_gold(tmp_path / "absent")
    for text, words in (("", "no records"), (json.dumps(ASKED), "its answer breaks the schema")):
        path.write_text(text)
        with raises("gold-none-used", words):
            DOPING.read_gold(path)


SEED = json.dumps(ASKED | {"answer": doping(["ZnO"], ["Mg"], [(0, 0)])}) + "\n"
PIECES = st.sampled_from(["null", "true", "-1", "NaN", "[]", "{}", '"', "'", "\\", "\n", ",", "b0", "\ud800", "\x00"])


@given(cuts=st.lists(st.tuples(st.integers(0, 160), st.integers(0, 9), PIECES | st.text(max_size=3)), max_size=4))
def test_changed_files_and_answers_are_read_or_refused_by_name(cuts):
    text, answer = SEED * 2, DOPING.canonical(GOLD["doping"][0][1])
    for place, length, piece in cuts:
        text = text[:place] + piece + text[place + length :]
        answer = answer[:place] + piece + answer[place + length :]
    kind, read = DOPING.read(answer)
    assert (DOPING.parse(answer, ()) is not None) == (kind == "json")
    assert read is None or DOPING.read(read) == ("json", read)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gold.jsonl"
        path.write_bytes(text.encode(errors="surrogatepass"))
        try:
            known = all((one.item is None) == bool(one.reason) for one in DOPING.read_gold(path))
        except UserError as error:
            known = "gold.jsonl" in str(error)
        assert known


def test_a_table_in_place_of_a_question_is_written_in_the_layout_of_prompts(tmp_path):
    answer = {"comp_table": [0], "regex_table": [0]}
    table = {"caption": "Hardness", "rows": [["Glass", "GPa"], ["S1", "5.6"]], "footer": {"a": "at 1 N"}}
    odd = [table | change for change in ({"rows": [["Glass", 5]]}, {"rows": []}, {"rows": "x"}, {"footer": "x"})]
    path = tmp_path / "tables.jsonl"
    path.write_text("".join(json.dumps(one | {"answer": answer}) + "\n" for one in (table, *odd)))
    first, *others = all_tasks()["table_roles"].read_gold(path)
    assert read_table(first.item["input"]) == Table("Hardness", (("Glass", "GPa"), ("S1", "5.6")), {"a": "at 1 N"})
    assert "['ROW=1', 'COL=0 : S1', 'COL=1 : 5.6']" in first.item["input"]
    assert [one.item for one in others] == [None] * 4


def test_a_link_to_no_material_is_no_gold(tmp_path):
    links = [doping(["ZnO"]) | {"dopants2basemats": {"d5": ["b9"]}}, doping(["ZnO"], ["Mg"], [(0, 0), (0, 3)])]
    found = DOPING.read_gold(write(tmp_path, [ASKED | {"answer": one} for one in (*links, doping())]))
    why = "a link of its answer is to no material of it"
    assert [(one.reason, one.what) for one in found] == [(why, "no d5 in no b9"), (why, "Mg in no b3"), ("", "")]


def test_a_document_of_the_name_0_and_half_a_character_in_a_name(tmp_path):
    more = [{"document": 0, "id": 0}, {"document": ""}, {"document": "\ud800"}, {"id": "\udfff"}]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(ASKED | {"answer": doping()} | one) + "\n" for one in more))
    first, second, *halves = DOPING.read_gold(path)
    assert (first.item["document"], first.item["id"]) == ("0", "0")
    assert "document" not in second.item
    assert [one.reason for one in halves] == ["half a character"] * 2
    write_lines(path, [{"input": "x", "output": "y", "document": 0}])
    assert read_items(path)[0].document == "0"


def test_a_part_that_is_stated_twice(tmp_path):
    answer, table = {"answer": doping()}, {"caption": "", "rows": [["a"]], "footer": {}}
    rows = [
        ASKED | answer | {"instruction": "Other."}, ASKED | answer | {"input": "Other."},
        ASKED | answer | {"output": json.dumps(doping(["ZnO"]))}, ASKED | answer | table,
        ASKED | answer | {"instruction": "Extract.", "input": "ZnO with Mg.", "output": doping()},
        ASKED | answer | {"instruction": None, "input": ""},
    ]  # fmt: skip
    found = DOPING.read_gold(write(tmp_path, rows))
    parts = ["instruction and system", "input and question", "output and answer", "a question and a table", "", ""]
    assert [one.what for one in found] == parts
    assert {one.reason for one in found[:4]} == {"a part of it is stated twice, unlike"}
    assert [(one.item["instruction"], one.item["input"]) for one in found[4:]] == [("Extract.", "ZnO with Mg.")] * 2
