"""Known figures of extraction on LLaMat's public files, and of two systems' published answers."""

import json
import re

import pytest

from nsllm_lite.tasks import gold
from nsllm_lite.tasks.schemas import BLANK_LIST, BLANK_TEXT, ONE_TEXT
from nsllm_lite.tasks.table_text import read_table, write_table
from nsllm_lite.tasks.task import TaskSet, all_tasks

FILES = {
    "doping": ("doping_test.jsonl", "doping_train.jsonl"),
    "mof_general": ("mof1_test.jsonl", "mof1_train.jsonl"),
    "mof": ("mof2_test.jsonl", "mof2_train.jsonl"),
    "table_roles": ("discomat_test_valfile.jsonl",),
}


def set_of(real_data, name) -> TaskSet:
    task = all_tasks()[name]
    items, *pool = (tuple(task.read_items(real_data / "llamat" / file)) for file in FILES[name])
    return TaskSet(name, task, items, pool[0] if pool else (), (), ())


@pytest.mark.parametrize(("name", "size"), [("doping", 232), ("mof_general", 62), ("mof", 51), ("table_roles", 737)])
def test_gold_scores_one_and_nothing_scores_nothing(real_data, name, size):
    one = set_of(real_data, name)
    assert len(one.items) == size
    figures = one.task.figures([one.task.parse(item.output, ()) for item in one.items], one)
    grounded = figures.pop("grounded", 0.9)
    assert figures == dict.fromkeys(figures, 1.0)
    assert 0.85 < grounded <= 1
    assert set(one.task.figures([None] * size, one).values()) == {0.0}


def test_floors(real_data):
    found = {name: one.task.floors(one, 0) for name in FILES for one in [set_of(real_data, name)]}
    assert found["doping"]["always empty"]["exact"] == pytest.approx(169 / 232)  # 0.728
    assert found["table_roles"]["always empty"]["exact"] == pytest.approx(380 / 737)  # 0.516
    assert found["doping"]["always empty"]["f1"] == 0
    assert 0 < found["doping"]["dictionary"]["f1"] < 1
    assert found["mof_general"]["always empty"]["exact"] == pytest.approx(17 / 62)


def test_other_ids_and_another_order_say_the_same(real_data):
    one = set_of(real_data, "doping")
    renamed = [re.sub(r'"([bd])([0-9]+)"', lambda m: f'"{m[1]}{9 - int(m[2])}"', item.output) for item in one.items]
    assert one.task.figures(renamed, one)["exact"] == 1
    as_published = sum(text == item.output for text, item in zip(renamed, one.items, strict=True))
    assert as_published == 169, "as texts none with a fact is the same"


def test_an_invented_material_on_every_negative(real_data):
    one = set_of(real_data, "doping")
    invented = '{"basemats":{"b0":"GaN"},"dopants":{},"dopants2basemats":{}}'
    answers = [invented if one.task.group(item) == "none" else item.output for item in one.items]
    figures = one.task.figures(answers, one)
    assert (figures["exact"], figures["negatives"]) == (pytest.approx(0.272, abs=5e-4), 0)
    assert figures["f1 basemats"] == pytest.approx(0.415, abs=5e-4)
    told = one.task.told(answers, answers, one, 0)["hallucinated"]
    assert told == {
        "negatives": {"items": 169, "with": 169, "facts": 169}, "positives": {"items": 63, "with": 0, "facts": 0},
    }  # fmt: skip


def published(real_data) -> tuple[TaskSet, list[dict]]:
    path = real_data / "llamat/discomat_predictions.jsonl"
    one, records = all_tasks()["table_roles"], [json.loads(line) for line in path.open(encoding="utf-8")]
    return TaskSet("d", one, tuple(one.read_items(path)), (), (), ()), records


def test_llamat_3s_published_tables(real_data):
    """Its answers are Python literals: strictly none is read. By the published rule, a literal before "<|im_e", 408 of
    the 612 that can be read are right, and all 737 were asked."""
    one, records = published(real_data)
    texts = [(record["llamat3"] or "").partition("<|im_e")[0] for record in records]
    answers = [one.task.parse(text, ()) for text in texts]
    assert answers == [None] * 737
    assert one.task.figures(answers, one)["exact"] == 0
    read = [one.task.read(text) for text in texts]
    literals = [answer if kind == "python" else None for kind, answer in read]
    assert 737 - literals.count(None) == 612
    assert one.task.figures(literals, one)["exact"] == pytest.approx(408 / 737)  # 0.554
    rows = one.task.results(literals, one)["f1"][0].given.sum(axis=0)
    right, there, said = rows[one.task.fields.index("comp_table")].tolist()
    assert (right, there, said) == (205, 357, 217)  # F1 0.714; the published rule knows 281 in place of 357: 0.823
    told = one.task.told(texts, answers, one, 0)
    assert told["read"] == {"cut": 77, "empty": 4, "none": 1, "prose": 43, "python": 612}
    assert told["lenient"]["exact"]["value"] == pytest.approx(409 / 737), "one more stands before other text"


def test_discomats_own_network(real_data):
    one, records = published(real_data)
    answers = [one.task.canonical(_roles(record["discomat"])) for record in records]
    figures = one.task.figures(answers, one)
    assert figures["exact"] == pytest.approx(599 / 737)  # 0.813
    assert figures["f1 comp_table"] == pytest.approx(0.879, abs=5e-4)
    assert figures["f1 regex_table"] == pytest.approx(0.867, abs=5e-4)


def _roles(answer: dict) -> dict:
    """Table type 0: compositions by a regular expression; 1, 2: others; 3: none. Labels 2 are constituents, 1
    compositions, whose indices are of the other axis in the answer, 3 identifiers."""
    kind, labels = answer["pred_table_type_labels"], answer["pred_row_col_labels"]
    found = {"comp_table": [int(kind < 3)], "regex_table": [int(kind == 0)]}
    for axis in ("row", "col"):
        for label, role in ((1, "composition"), (2, "chemical"), (3, "gid")):
            if places := [place for place, value in enumerate(labels[axis]) if value == label]:
                found[f"{role}_{axis}_index"] = places[:1] if role == "gid" else places
    return found


def test_what_is_repaired_and_left_out(real_data):
    found = {
        file: gold.counts_of(all_tasks()[name].read_gold(real_data / "llamat" / file))
        for name, files in FILES.items() for file in files
    }  # fmt: skip
    blank, one, text = BLANK_LIST, ONE_TEXT, BLANK_TEXT
    repairs = {
        "mof1_test.jsonl": {blank: 43}, "mof1_train.jsonl": {blank: 353, text: 1},
        "mof2_test.jsonl": {blank: 48, one: 2}, "mof2_train.jsonl": {blank: 429, one: 3},
    }  # fmt: skip
    assert {file: counts["repaired"] for file, counts in found.items() if counts["repaired"]} == repairs
    left_out = {file: counts["left_out"] for file, counts in found.items() if counts["left_out"]}
    assert left_out == {"mof1_train.jsonl": {"its answer breaks the schema": 1}}
    (lost,) = (one for one in all_tasks()["mof_general"].read_gold(real_data / "llamat/mof1_train.jsonl") if one.reason)
    assert (lost.line, lost.what) == (415, "2.acronym: Field required")


def test_every_table_of_the_prompts_is_written_as_it_is_read(real_data):
    items = set_of(real_data, "table_roles").items
    tables = [read_table(item.input) for item in items]
    assert [write_table(table) for table in tables] == [item.input.strip() for item in items]
    for table, item in zip(tables, items, strict=True):
        roles = json.loads(item.output)
        assert max(roles.get("composition_row_index", [0])) < len(table.rows), item.number
