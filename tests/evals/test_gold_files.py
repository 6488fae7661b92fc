"""`nsllm-lite tasks` on files of gold answers, and `nsllm-lite eval` on what it wrote and on the published form."""

import json

import pytest

from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.evals.charts import markdown
from nsllm_lite.evals.evaluate import evaluate
from nsllm_lite.evals.gold_files import read_gold_files
from nsllm_lite.evals.instruct_files import make_tasks
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks.schemas import BLANK_LIST
from nsllm_lite.tasks.task import all_tasks
from tests.corpus.small import paper, write_lines
from tests.evals.conftest import build_papers
from tests.evals.test_instruct_files import items_in
from tests.raising import raises
from tests.tasks.test_extraction import doping, material

WORDS = {"max_per_task": 100, "max_paper_chars": 1000, "seed": 0}
HOSTS = ("ZnO", "GaN", "TiO2", "SrO", "MgO", "CdS")


def asked(text, answer, **more):
    return {"system": "Extract.", "question": text, "answer": answer} | more


@pytest.fixture
def files(tmp_path):
    train = [
        asked(f"{host} with Mg.", doping([host], ["Mg"], [(0, 0)]), document=f"paper {n}")
        for n, host in enumerate(HOSTS)
    ]
    train += [asked("Held in air.", json.dumps(doping())), asked("ZnO with Mn", str(doping()))]
    test = [asked("ZNO with  mg", doping(["ZNO"])), asked("Nothing here.", doping(), document="paper 3")]
    test += [asked(f"{host} was doped with Mn.", doping([host], ["Mn"], [(0, 0)])) for host in HOSTS]
    write_lines(tmp_path / "train.jsonl", train)
    write_lines(tmp_path / "test.jsonl", test)
    return {"task": "doping", "train": [str(tmp_path / "train.jsonl")], "test": [str(tmp_path / "test.jsonl")]}


def recipe_of(out, *gold, **changes):
    return recipes.validate({"kind": "tasks", "out": str(out), "gold": list(gold), **WORDS, **changes}, "test")


def test_files_of_gold_become_instruction_files_and_every_line_is_accounted_for(files, tmp_path, capsys):
    write_lines(tmp_path / "mof.jsonl", [asked("Gold.", json.dumps([material("gold", description=[""])]))])
    more = {"task": "mof_general", "test": [str(tmp_path / "mof.jsonl")]}
    results = make_tasks(recipe_of(tmp_path / "out", files, more))
    train, test = (items_in(tmp_path / "out", split) for split in ("train", "test"))
    left_out = {"its question is in test": 1, "its document is in test": 1, "its answer is no JSON (python)": 1}
    assert results["tasks"] == {
        "doping": {"train": 5, "test": 8, "left_out": left_out, "repaired": {}},
        "mof_general": {"train": 0, "test": 1, "left_out": {}, "repaired": {BLANK_LIST: 1}},
    }
    assert train.keys() == {"doping"}
    assert train["doping"][0] == {
        "id": "doping/train/1/2", "document": "paper 1", "instruction": "Extract.", "input": "GaN with Mg.",
        "output": '{"basemats":{"b0":"GaN"},"dopants":{"d0":"Mg"},"dopants2basemats":{"d0":["b0"]}}',
    }  # fmt: skip
    assert [item["id"] for item in test["doping"]] == [f"doping/test/1/{n}" for n in range(1, 9)]
    told = [json.loads(line) for line in (tmp_path / "out/gold.jsonl").open()]
    places = {(one["file"], one["line"], one.get("left_out") or one["repaired"]) for one in told}
    assert places == {
        ("train.jsonl", 1, "its question is in test"), ("train.jsonl", 4, "its document is in test"),
        ("train.jsonl", 8, "its answer is no JSON (python)"), ("mof.jsonl", 1, BLANK_LIST),
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "its question is in test 1" in printed
    assert f"mof_general: gold answers repaired: {BLANK_LIST}: 1" in printed
    assert set(read_manifest(tmp_path / "out")["inputs"]) == {
        "gold:doping:train:1",
        "gold:doping:test:1",
        "gold:mof_general:test:1",
    }
    # a second call does nothing, a changed file is seen
    assert make_tasks(recipe_of(tmp_path / "out", files, more)) == results
    assert "finished, skipped" in capsys.readouterr().out
    write_lines(tmp_path / "mof.jsonl", [asked("Silver.", "[]")])
    with raises("finished-result-differs"):
        make_tasks(recipe_of(tmp_path / "out", files, more))


def test_at_most_so_many_and_an_instruction_of_the_task_where_a_record_has_none(files, tmp_path):
    write_lines(
        tmp_path / "bare.jsonl", [{"input": f"Held at {n} K.", "output": json.dumps(doping())} for n in range(9)]
    )
    results = make_tasks(recipe_of(tmp_path / "out", files | {"test": [str(tmp_path / "bare.jsonl")]}, max_per_task=4))
    assert results["tasks"]["doping"]["left_out"]["max_per_task"] == 5 + 3
    items = items_in(tmp_path / "out", "test")["doping"]
    assert [item["instruction"] for item in items] == [all_tasks()["doping"].instruction] * 4


def test_beside_a_corpus(files, tmp_path):
    build_papers(tmp_path, "corpus", [paper(number) for number in range(12)])
    results = make_tasks(recipe_of(tmp_path / "out", files, corpus=str(tmp_path / "corpus")))
    assert results["tasks"]["title"]["train"] > 0
    assert results["tasks"]["doping"]["test"] == 8
    assert (tmp_path / "out/test/doping.jsonl").is_file()


def test_what_is_refused(files, tmp_path):
    for gold, changes, code in (
        ([], {}, "tasks-of-nothing"), ([files], {"questions": ["bundled:questions"]}, "tasks-questions-alone"),
        ([files | {"task": "ner"}], {}, "gold-task-unknown"), ([{"task": "doping"}], {}, "gold-without-files"),
        ([files, files], {}, "names-repeat"),
    ):  # fmt: skip
        with raises(code):
            recipe_of(tmp_path / "out", *gold, **changes)
    for name in ("bundled:materials/absent.jsonl", str(tmp_path / "absent.jsonl")):
        with raises("gold-absent", name):
            make_tasks(recipe_of(tmp_path / "out", files | {"test": [name]}))
    with raises("gold-outside-sample", "bundled:../x.jsonl"):
        make_tasks(recipe_of(tmp_path / "out", files | {"test": ["bundled:../x.jsonl"]}))
    assert not (tmp_path / "out").exists()


def test_scores_of_the_published_form_and_of_what_was_made(files, talker, tmp_path, capsys):
    make_tasks(recipe_of(tmp_path / "gold", files))
    values = {
        "kind": "eval",
        "seed": 0,
        "models": [{"name": "m", "path": str(talker)}],
        "modes": ["few-shot"],
        "max_items": 3,
    }
    own = [{"name": "own", "task": "doping", "path": files["test"][0], "shots": files["train"][0]}]
    capsys.readouterr()
    for name, given in (("made", {"tasks": str(tmp_path / "gold")}), ("own", {"tasks": None, "files": own})):
        out = tmp_path / name
        recipe = values | given | {"out": str(out), "execution": {"device": "cpu"}}
        if name == "own":
            with raises("eval-examples-scored"):
                evaluate(recipes.validate(recipe, "x"))
            own[0].pop("shots")
        results = evaluate(recipes.validate(recipe, "x"))
        ((about,), (row,)) = results["sets"], results["scores"]
        assert (about["task"], about["items"], about["metrics"]) == ("doping", 3, ["f1", "exact", "f1 links"])
        assert {"item_f1", "f1 basemats", "similarity", "lenient", "read"} <= row.keys()
        assert sum(row["read"].values()) == 3
        assert row["unread"] == 3 - row["read"].get("json", 0)
        report = (out / "report.md").read_text()
        assert "F1 of links" in report
        assert "read leniently F1 " in report
        assert "always empty" in report
    printed = capsys.readouterr().out
    assert "left out, its answer is no JSON (python): 1 (line 8)" in printed
    assert "no items in" not in printed, "a folder of gold answers promises no titles"


def test_records_in_one_line_have_ids_of_their_own_and_a_document_0_is_one(tmp_path):
    rows = [asked(f"Held at {n} K.", doping(), document=n) for n in range(3)]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    (tmp_path / "train.json").write_text(json.dumps([asked("In air.", doping(), document=0)] * 2 + rows[:1]))
    gold = read_gold_files({("doping", split, 1): tmp_path / f"{split}.json" for split in ("test", "train")})
    assert [item["id"] for item in gold.items["doping", "test"]] == [f"doping/test/1/{n}" for n in (1, 2, 3)]
    assert gold.left_out["doping"] == {"its document is in test": 2, "its question is in test": 1}
    assert {line["line"] for line in gold.lines} == {1}


def test_a_training_text_that_holds_a_question_of_test_or_is_a_part_of_one_is_left_out(tmp_path):
    long = "The films of ZnO that were doped with aluminium were annealed in air"
    test = [asked(f"Sentence: {long}.", doping()), asked("ZnO with Mg.", doping())]
    train = [asked(long, doping()), asked(f"Say it. Sentence: {long}. And so on", doping())]
    train += [asked("ZnO with Mg and more.", doping()), asked(long.replace("aluminium", "tin"), doping())]
    for name, rows in (("test", test), ("train", train)):
        write_lines(tmp_path / f"{name}.jsonl", rows)
    gold = read_gold_files({("doping", split, 1): tmp_path / f"{split}.jsonl" for split in ("test", "train")})
    assert gold.left_out["doping"] == {"its question holds one of test, or is a part of one": 2}
    assert [item["id"] for item in gold.items["doping", "train"]] == ["doping/train/1/3", "doping/train/1/4"]


def test_a_figure_that_one_models_answers_do_not_have_is_a_dash_in_its_column():
    """One model gives texts, the other none; no sentence has a link."""
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    told = {"read": {}, "lenient": {}, "unread": 0, "mode": "few-shot", "set": "own"}
    told["hallucinated"] = {key: {"facts": 0, "with": 0, "items": 1} for key in ("negatives", "positives")}
    scores = [told | {"model": "a", "f1": figure, "grounded": figure}, told | {"model": "b", "f1": figure}]
    about = {"name": "own", "task": "doping", "metrics": ["f1", "f1 links"], "details": ["grounded"], "version": 2}
    about |= {"floors": {}, "ceiling": 1.0, "items": 1, "shots": 0}
    text = markdown({"sets": [about], "scores": scores, "warnings": [], "differences": []})
    assert "| b | few-shot | 0.500 [0.400, 0.600] | – |" in text
    assert "| given texts that are in the input | 0.500 [0.400, 0.600] | – | |" in text
