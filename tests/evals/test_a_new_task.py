"""A new task is one file and one line in TASKS: nothing else knows of it."""

import json
from pathlib import Path

import pytest

from nsllm_lite.corpus.build import build
from nsllm_lite.evals.evaluate import evaluate
from nsllm_lite.evals.instruct_files import make_tasks
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import TASKS
from nsllm_lite.tasks.lm_eval import functions
from nsllm_lite.tasks.task import all_tasks
from tests.corpus.small import paper, prose, write_lines
from tests.corpus.small import values as corpus_values

TOY = '''
"""How many words a title has."""

from nsllm_lite.tasks.floors import commonest
from nsllm_lite.tasks.task import ItemOrReason, Score, Task


class Words(Task):
    metrics = {"near": "nearness"}

    def parse(self, text, options):
        return next((word for word in text.split() if word.isdigit()), None)

    def score(self, answer, item):
        value = 0.0 if answer is None else 1 / (1 + abs(int(answer) - int(item.answer)))
        return Score(answer is not None, value, value == 1, {"near": value})

    def rules(self, asked, seed):
        common = commonest([item.answer for item in asked.items])
        return {f"always {common}": [common] * len(asked.items)}

    def of_paper(self, paper, making):
        if not paper.title:
            return [ItemOrReason(None, "no title")]
        name = f"{paper.id}/{self.name}"
        return [ItemOrReason(self.record(name, paper.id, paper.title, str(len(paper.title.split()))))]


TASK = Words(
    name="words", version=3, title="Words of a title", instruction="How many words has this title?",
    lead="Title", cue="Words", shots=2, new_tokens=4, chat_tokens=64,
)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_task.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TASKS, "words", "toy_task:TASK")
    return all_tasks()["words"]


def test_it_is_made_asked_scored_and_floored(toy, talker, tmp_path, capsys):
    write_lines(tmp_path / "arxiv.jsonl", [paper(number) for number in range(30)])
    write_lines(tmp_path / "general.jsonl", [{"id": f"g{n}", "text": prose(5000 + n)} for n in range(8)])
    sources = [{"name": "arxiv", "path": str(tmp_path / "arxiv.jsonl")}]
    build(recipes.validate(corpus_values(tmp_path, "corpus", sources), "x"))
    made = {"kind": "tasks", "out": str(tmp_path / "tasks"), "corpus": str(tmp_path / "corpus"), "questions": []}
    results = make_tasks(recipes.validate(made | {"max_per_task": 99, "max_paper_chars": 1000, "seed": 0}, "x"))
    assert results["tasks"]["words"]["train"] > results["tasks"]["words"]["test"] > 0
    assert "words" in capsys.readouterr().out
    path = tmp_path / "tasks/test/words.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    assert record["instruction"] == toy.instruction
    assert record["output"] == str(len(record["input"].split()))

    values = {"kind": "eval", "seed": 0, "models": [{"name": "m", "path": str(talker)}], "execution": {"device": "cpu"}}
    own = [{"name": "mine", "task": "words", "path": str(path)}]
    for name, asked in (("all", {"tasks": str(tmp_path / "tasks")}), ("own", {"tasks": None, "files": own})):
        results = evaluate(recipes.validate(values | asked | {"out": str(tmp_path / name), "max_items": 3}, "x"))
        about = next(one for one in results["sets"] if one["task"] == "words")
        assert about["version"] == 3
        (rule,) = about["floors"]
        report = (tmp_path / name / "report.md").read_text()
        assert f"{about['name']}, nearness" in report
        assert f"({rule})" in report
        assert next(row for row in results["scores"] if row["set"] == about["name"])["near"]["value"] <= 1
    assert "task: nsllm_words" in functions.yaml_of(toy)
    assert len(functions.dataset("words", tasks=str(tmp_path / "tasks"))["shots"]) == 2


def test_every_task_has_its_own_file():
    for name, where in TASKS.items():
        assert where == f"nsllm_lite.tasks.{name}:TASK"
        assert all_tasks()[name].name == name
        assert (Path(functions.__file__).parents[1] / f"{name}.py").is_file()
