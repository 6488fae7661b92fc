"""Published forms of labelled words, pairs and texts; what is unfit is named and counted."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.evals import WORD_TASKS
from nsllm_lite.tasks import gold
from nsllm_lite.tasks.gold_words import DOUBLE_ENCODED, repaired
from nsllm_lite.tasks.named_entities import APART, WITH_O
from nsllm_lite.tasks.task import all_tasks
from tests.raising import raises

BIO = "x B-MAT\nof O\ngrain B-PRO\nsize I-PRO\n\nit O\nwas O\n\nx O\nin O\nx 2 B-MAT\n"
TABLE = {
    "columns": ["tokens", "token_labels", "slot_labels"], "index": [0, 1, 2],
    "data": [
        [["at", "650", "C"], ["O", "B-VALUE", "I-VALUE"], ["O", "B-temperature", "I-temperature"]],
        [["CH4"], ["B-MATERIAL"], ["O"]],
        [["a", "b"], ["O"], ["O"]],
    ],
}  # fmt: skip
SPANS = {
    "data": [
        {
            "text": "Sr doped  oxide: Sr", "t_span_dict": {"T1": [0, 2], "T2": [3, 8], "T3": [10, 15], "T4": [17, 19]},
            "t_type_dict": {"T1": "Element", "T2": "Doping", "T3": "Main", "T4": "Element"},
            "e_trig_dict": {"E1": "T2", "E2": "T2"},
            "e_args_dict": {"E1": [["Dopant", "T1"], ["Site", "T3"]], "E2": []},
            "r_args_dict": {"R1": ["E1", "T3"], "R2": ["T9", "T1"]}, "r_type_dict": {"R1": "Target", "R2": "Target"},
        }
    ]
}  # fmt: skip
ACTIONS = [
    {"sentence": "It was heated .", "annotations": [
        {"token": "It", "tag": ""}, {"token": "was", "tag": ""}, {"token": "heated", "tag": "Heating"},
    ], "doi": "10.1/x"},
    {"sentence": "It was .", "annotations": [{"token": "It", "tag": ""}]},
    {"sentence": "Bad .", "annotations": [{"token": 5, "tag": ""}]},
]  # fmt: skip
MENTIONS = [
    {
        "sentText": "V of 5 V",
        "docId": 7,
        "relationMentions": [{"arg1Text": "V", "arg2Text": "5 V", "relText": "Voltage"}],
    },
    {"sentText": "None", "relationMentions": []},
]

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


def written(path: Path, value) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def read(path: Path, task: str):
    """(its first record, reasons and repairs, how many records)"""
    found = all_tasks()[task].read_gold(path)
    kept = [one.item for one in found if one.item]
    assert len({item["id"] for item in kept}) == len(kept)
    return kept, gold.counts_of(found)


def test_words_and_tags_as_text_and_as_listed_words(tmp_path):
    path = written(
        tmp_path / "test.txt",
        BIO.replace("x 2 B", "x 2\tB").replace(" B-", "\tB-").replace(" I-", "\tI-").replace(" O", "\tO"),
    )
    kept, counts = read(path, "named_entities")
    assert [(one["input"], one["output"]) for one in kept] == [
        ("x of grain size", "x : B-MAT\ngrain : B-PRO\nsize : I-PRO"), ("it was", "none"),
        ("x in x 2", "x : B-MAT\n2 : I-MAT"),
    ]  # fmt: skip
    assert kept[0]["instruction"].endswith("or with none. Labels: B-MAT, B-PRO, I-PRO.")
    assert counts == {"left_out": {}, "repaired": {APART: 1}}, "every sentence is there"
    kept, counts = read(path, "entity_words")
    assert kept[0]["input"] == "WORDS: x, grain, size\nSENTENCE: x of grain size"
    assert counts["left_out"] == {"no labelled word": 1}
    kept, counts = read(written(tmp_path / "o.txt", "x O\nin O\nx B-MAT\n"), "named_entities")
    assert (kept[0]["output"], counts["repaired"]) == ("x : O\nx : B-MAT", {WITH_O: 1})


def test_a_table_of_words_with_types_and_slots(tmp_path):
    path = written(tmp_path / "t.json", TABLE)
    entities, counts = read(path, "named_entities")
    assert [one["output"] for one in entities] == ["650 : B-VALUE\nC : I-VALUE", "CH4 : B-MATERIAL"]
    assert counts["left_out"] == {"not in the form of its file": 1}
    slots, counts = read(path, "slots")
    assert [(one["input"], one["output"]) for one in slots] == [
        ("WORDS: 650, C\nSENTENCE: at 650 C", "650 : B-temperature\nC : I-temperature")
    ]
    assert counts["left_out"] == {"no labelled word": 1, "not in the form of its file": 1}
    dicts = {"columns": ["tokens", "labels"], "index": [0], "data": [["x of y", {"x": "B-MAT", "of": "O"}]]}
    kept, _ = read(written(tmp_path / "d.json", dicts), "entity_words")
    assert (kept[0]["input"], kept[0]["output"]) == ("WORDS: x\nSENTENCE: x of y", "x : B-MAT")
    with raises("gold-columns-missing", "tokens, labels", "slot_labels"):
        read(tmp_path / "d.json", "slots")


def test_texts_with_spans(tmp_path):
    path = written(tmp_path / "s.json", SPANS)
    kept, _ = read(path, "entity_words")
    assert kept[0]["output"] == "Sr : Element\ndoped : Doping\noxide : Main\nSr : Element"
    assert kept[0]["document"] == f"{tmp_path.name}/s/1"
    kept, counts = read(path, "event_arguments")
    assert kept[0]["input"] == "EVENT: Doping\nTRIGGER: doped\nWORDS: Sr, oxide\nSENTENCE: Sr doped oxide: Sr"
    assert kept[0]["output"] == "Sr : Dopant\noxide : Site"
    assert counts["left_out"] == {"an event without arguments": 1}
    kept, counts = read(path, "relations")
    assert (kept[0]["input"], kept[0]["output"]) == (
        "FIRST: doped\nSECOND: oxide\nSENTENCE: Sr doped oxide: Sr",
        "Target",
    )
    assert counts["left_out"] == {"not in the form of its file": 1}, "T9 is no span"


def test_annotated_sentences_and_relations_of_lines(tmp_path):
    kept, counts = read(written(tmp_path / "a.json", ACTIONS), "synthesis_actions")
    assert (kept[0]["input"], kept[0]["output"]) == ("WORDS: heated\nSENTENCE: It was heated .", "heated : Heating")
    assert kept[0]["document"] == "10.1/x"
    assert counts["left_out"] == {"no labelled word": 1, "not in the form of its file": 1}
    path = written(tmp_path / "r.json", "\n".join(map(json.dumps, MENTIONS)) + '\n{"sentText": \n')
    kept, counts = read(path, "relations")
    assert (kept[0]["input"], kept[0]["document"]) == ("FIRST: V\nSECOND: 5 V\nSENTENCE: V of 5 V", "7")
    assert kept[0]["instruction"].endswith("Answer with one of: Voltage.")
    kept, _ = read(written(tmp_path / "0.json", [MENTIONS[0] | {"docId": 0}]), "relations")
    assert kept[0]["document"] == "0", "a name of a document too"
    assert counts["left_out"] == {"no relation in it": 1, "not read as JSON": 1}


def test_a_table_of_texts_with_its_own_labels(tmp_path, capsys):
    garbled = "SiO2 – glass, 5 µm".encode().decode("latin-1")
    rows = [[garbled, 1], ["naïve", 0], ["plain", 0], ["odd", None], [" ", 1]]
    table = {"columns": ["Abstract", "Label"], "index": [], "data": rows}
    kept, counts = read(written(tmp_path / "g.json", table), "paper_class")
    assert [(one["input"], one["output"]) for one in kept] == [
        ("SiO2 – glass, 5 µm", "yes"), ("naïve", "no"), ("plain", "no"),
    ]  # fmt: skip
    assert (
        kept[0]["instruction"] == "Is the research in this abstract about inorganic glass? Answer with one of: no, yes."
    )
    assert counts["repaired"] == {DOUBLE_ENCODED: 1}
    assert counts["left_out"] == {"its label is no word or whole number": 1, "no text": 1}
    assert ": 1 texts with other characters" in capsys.readouterr().out, "the one that is as it should be"
    table["data"] = [["one", "Glass"], ["two", "Steel"]]
    kept, _ = read(written(tmp_path / "w.json", table), "paper_class")
    assert kept[0]["output"] == "Glass"
    assert kept[0]["instruction"].endswith("this abstract belong? Answer with one of: Glass, Steel.")
    assert [repaired(text) for text in ("é", "\u2013", "Â°")] == [("é", ()), ("\u2013", ()), ("°", (DOUBLE_ENCODED,))]


def test_published_questions_and_what_their_answers_may_not_be(tmp_path):
    ask = {"system": "Say it.", "question": "WORDS: Sr\nSENTENCE: Sr"}
    answers = ["Sr : b-mat\nx : o", "{'Sr': 'b-mat'}", "['Sr : b-mat']", ["Sr"], "Sr is b-mat", ""]
    path = written(tmp_path / "q.jsonl", "\n".join(json.dumps(ask | {"answer": one}) for one in answers))
    found = all_tasks()["entity_words"].read_gold(path)
    assert found[0].item == {"instruction": "Say it.", "input": ask["question"], "output": "Sr : b-mat\nx : o"}
    assert gold.counts_of(found)["left_out"] == {
        "a line of its answer is no `word : label`": 1, "its answer is a Python or JSON literal, not lines": 2,
        "its answer is no text": 2,
    }  # fmt: skip
    (item,) = all_tasks()["entity_words"].read_items(path)
    assert all_tasks()["entity_words"].lines(item.answer) == [("Sr", "b-mat")]


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    path = written(tmp_path / name, LFS)
    for task in ("entity_words", "paper_class"):
        with raises("gold-words-unreadable", path, "git lfs pull"):
            all_tasks()[task].read_gold(path)


def test_what_is_no_file_of_records_is_called_by_its_name(tmp_path):
    for name in ("absent.txt", "absent.json", "table.csv", "table.tsv", "."):
        if name.startswith("table"):
            written(tmp_path / name, "text,label")
        with raises("gold-words-unreadable", tmp_path / name):
            all_tasks()["paper_class"].read_gold(tmp_path / name)


def test_labels_that_are_none(tmp_path):
    """A JSON literal, a pair that reads as one label, and whole sentences in the place of labels."""
    task = all_tasks()["paper_class"]

    def records(*answers):
        lines = (json.dumps({"input": f"Text {number}.", "output": one}) for number, one in enumerate(answers))
        return written(tmp_path / "r.jsonl", "\n".join(lines))

    kept = task.read_gold(records("glass", '{"a": 1}', "other"))
    assert [one.item["output"] for one in kept if one.item] == ["glass", "other"]
    assert (kept[1].item, kept[1].line) == (None, 2)
    with raises("task-labels-alike", "'Other'", "'other'"):
        task.read_gold(records("glass", "other", "Other"))
    with raises("task-labels-unfit", "30"):
        task.read_gold(records(*(f"Sentence {number} is of glass." for number in range(30))))
    assert len(task.read_gold(records("glass", "glass"))) == 2


def test_files_of_no_form_or_of_another_tasks_form(tmp_path):
    task = all_tasks()["slots"]
    for text, code in (
        ("[{", "gold-words-unreadable"),
        ("[]", "gold-form-unknown"),
        ('[{"a": 1}]', "gold-form-unknown"),
    ):
        with raises(code, tmp_path / "x.json"):
            task.read_gold(written(tmp_path / "x.json", text))
    with raises("gold-words-unreadable", tmp_path / "absent.json"):
        task.read_gold(tmp_path / "absent.json")
    with raises("gold-form-unfit", "sentences with annotations", "slots"):
        task.read_gold(written(tmp_path / "a.json", ACTIONS))
    with raises("gold-words-none-used", "no labelled word"):
        all_tasks()["synthesis_actions"].read_gold(written(tmp_path / "none.json", ACTIONS[1:2]))
    path = written(
        tmp_path / "records.jsonl", '{"question": "?", "answer": ["x"]}\n{"question": "?", "answer": "no line"}'
    )
    with raises("gold-none-used", "line 1: its answer is no text", "no line"):
        task.read_gold(path)
    with raises("gold-unreadable", "git lfs pull"):
        gold.read_gold(written(tmp_path / "lfs.json", LFS))
    table = {"columns": ["a", "b", "c"], "index": [], "data": [["x", 1, 2]]}
    with raises("gold-columns-missing", "a, b, c"):
        all_tasks()["paper_class"].read_gold(written(tmp_path / "c.json", table))


def places(value: Any, above: tuple = ()) -> list[tuple]:
    """Where each part of a value stands in it."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above] * bool(above) + [place for key, part in parts for place in places(part, (*above, key))]


QUESTIONS = [{"system": "Label it.", "question": "q w", "answer": "q : B-X"}] * 2
TEXTS = {"columns": ["text", "label"], "index": [], "data": [["one", 0], ["two", 1]]}
ODD = [None, 5, -1, 1.5, True, "", "x", " \n", "a:b\nc", "\u00a0", "\ud800", [], {}, [[]], ["x", "y", "z"], {"x": 1}]


@given(st.sampled_from([TABLE, SPANS, ACTIONS, MENTIONS, QUESTIONS, TEXTS]), st.integers(0, 999), st.sampled_from(ODD))
def test_whatever_a_file_holds_it_is_read_or_refused_by_name(form, number, odd):
    """Items that are read from a file with one part changed have gold answers that score 1."""
    value = json.loads(json.dumps(form))
    *above, last = places(value)[number % len(places(value))]
    holder = value
    for key in above:
        holder = holder[key]
    holder[last] = odd
    with TemporaryDirectory() as folder:
        path = written(Path(folder) / "x.json", json.dumps(value))
        for name in WORD_TASKS:
            task = all_tasks()[name]
            try:
                items = task.fitted(tuple(task.read_items(path)), "x")
            except UserError:
                continue
            labels = sorted({item.answer for item in items}) if task.is_ranked else ()
            assert all(task.score(task.parse(item.output, labels), item).exact for item in items)
