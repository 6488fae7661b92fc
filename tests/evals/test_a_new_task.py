"""A new task is one file and one line in TASKS, as CONTRIBUTING.md shows: nothing else knows of it."""

import json
import sys
from pathlib import Path

import pytest

import nsllm_lite.tasks
from docs.harness import yaml_of
from nsllm_lite.evals.evaluate import evaluate
from nsllm_lite.evals.instruct_files import make_tasks
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import TASKS
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.lm_eval import functions
from nsllm_lite.tasks.task import all_tasks
from tests.corpus.small import paper
from tests.evals.conftest import build_papers
from tests.test_contributing import code


@pytest.fixture
def last_word(tmp_path, monkeypatch):
    """The task of the page."""
    (tmp_path / "last_word.py").write_text(code("# nsllm_lite/tasks/last_word.py"))
    monkeypatch.setattr(nsllm_lite.tasks, "__path__", [*nsllm_lite.tasks.__path__, str(tmp_path)])
    lines = {}
    exec(code("# nsllm_lite/recipe/evals.py"), {"TASKS": lines})
    monkeypatch.setitem(TASKS, "last_word", lines["last_word"])
    yield all_tasks()["last_word"]
    del sys.modules["nsllm_lite.tasks.last_word"]


def test_it_is_made_asked_scored_and_floored(last_word, talker, tmp_path, capsys):
    build_papers(tmp_path, "corpus", [paper(number) for number in range(30)])
    made = {"kind": "tasks", "out": str(tmp_path / "tasks"), "corpus": str(tmp_path / "corpus"), "questions": []}
    results = make_tasks(recipes.validate(made | {"max_per_task": 99, "max_paper_chars": 1000, "seed": 0}, "x"))
    assert results["tasks"]["last_word"]["train"] > results["tasks"]["last_word"]["test"] > 0
    assert "last_word" in capsys.readouterr().out
    path = tmp_path / "tasks/test/last_word.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    assert record["instruction"] == last_word.instruction
    assert record["input"].startswith("Title ")
    item = Item(number=0, input="Enzymes at low", output="temperature", choices={})
    answers = [last_word.parse(text, ()) for text in ("Temperature.", "", "heat")]
    assert [last_word.score(answer, item).value for answer in answers] == [1, 0, 0]

    values = {"kind": "eval", "seed": 0, "models": [{"name": "m", "path": str(talker)}], "execution": {"device": "cpu"}}
    own = [{"name": "mine", "task": "last_word", "path": str(path)}]
    for name, asked in (("all", {"tasks": str(tmp_path / "tasks")}), ("own", {"tasks": None, "files": own})):
        results = evaluate(recipes.validate(values | asked | {"out": str(tmp_path / name), "max_items": 3}, "x"))
        about = next(one for one in results["sets"] if one["task"] == "last_word")
        assert about["version"] == 1
        (rule,) = about["floors"]
        report = (tmp_path / name / "report.md").read_text()
        assert f"{about['name']}, accuracy" in report
        assert f"({rule})" in report
        assert next(row for row in results["scores"] if row["set"] == about["name"])["accuracy"]["value"] <= 1
    assert "task: nsllm_last_word" in yaml_of(last_word)
    assert len(functions.dataset("last_word", tasks=str(tmp_path / "tasks"))["shots"]) == last_word.shots


def test_every_task_has_its_own_file():
    for name, where in TASKS.items():
        assert where == f"nsllm_lite.tasks.{name}:TASK"
        assert all_tasks()[name].name == name
        assert (Path(functions.__file__).parents[1] / f"{name}.py").is_file()
