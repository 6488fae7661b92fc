"""Evaluations that ask with the grammar of the answers too, beside the free ones."""

import json
import shutil

import jsonschema
import pytest

from nsllm_lite import cli
from nsllm_lite.evals import evaluate as evaluating
from nsllm_lite.evals.evaluate import evaluate, read_predictions
from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.models.generate import Engine
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import TASKS, Eval
from tests.evals.conftest import SMALL_TASKS
from tests.evals.extraction import RECORDS, SCHEMA
from tests.raising import fails, raises

MODES = ("few-shot", "few-shot, constrained", "instruction", "instruction, constrained")


@pytest.fixture(scope="module", autouse=True)
def small_doping():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "small_doping", "tests.evals.extraction:TASK")
        yield


def recipe_of(folder, model, **more) -> Eval:
    titles = [{"instruction": "", "input": text, "output": answer} for text, answer in SMALL_TASKS["title"]]
    for name, records in (("doping", RECORDS), ("title", titles)):
        (folder / f"{name}.json").write_text(json.dumps(records))
    files = [
        {"name": "doping", "task": "small_doping", "path": str(folder / "doping.json")},
        {"name": "heads", "task": "title", "path": str(folder / "title.json")},
    ]
    values = {
        "kind": "eval", "out": str(folder / "eval"), "tasks": None, "files": files, "seed": 0,
        "constrain": True, "chat_tokens": 12,
        "models": [{"name": "one", "path": str(model), "modes": ["few-shot", "instruction"]}],
        "execution": {"device": "cpu", "batch_tokens": 400},
    }  # fmt: skip
    return recipes.validate(values | more, "eval")


@pytest.fixture(scope="module")
def scored(talker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("constrained")
    return folder, evaluate(recipe_of(folder, talker))


def predictions(folder) -> dict[str, list]:
    found = {}
    for mode, one in ((mode, one) for mode in MODES for one in evaluating.load_sets(recipe_of(folder, folder))):
        path = evaluating.Asked("one", mode, one).path(folder / "eval")
        if path.is_file():
            found[mode, one.name] = sorted(read_predictions(path))
    return found


def test_what_has_a_schema_is_asked_with_its_grammar_too(scored):
    folder, results = scored
    asked = [(row["mode"], row["set"]) for row in results["scores"]]
    assert asked == [
        ("few-shot", "doping"), ("few-shot", "heads"), (MODES[1], "doping"),
        ("instruction", "doping"), ("instruction", "heads"), (MODES[3], "doping"),
    ]  # fmt: skip
    items = evaluating.load_sets(recipe_of(folder, folder))[0].items
    held = [number for number, item in enumerate(items) if "CdS" not in item.input]
    assert len(held) == 4, "one of six is the example, one has no schema"
    found = predictions(folder)
    unread = {row["mode"]: row["unread"] for row in results["scores"] if row["set"] == "doping"}
    for mode in (MODES[1], MODES[3]):
        texts = [found[mode, "doping"][number] for number in held]
        for one in texts:
            if one.answer is not None:
                jsonschema.validate(json.loads(one.text), SCHEMA)
        assert sum(one.answer is None for one in texts) == unread[mode]
        free = next(number for number in range(len(items)) if number not in held)
        assert found[mode, "doping"][free] == found[mode.partition(",")[0], "doping"][free]
    assert unread[MODES[1]] == 0
    assert unread[MODES[3]] > 0, "12 tokens end no answer"
    report = (folder / "eval/report.md").read_text()
    for words in (f"| one | {MODES[1]} | ", f"one, {MODES[3]}, doping: ", "Constrained: each token"):
        assert words in report
    page = folder / "page.html"
    assert cli.main(["show", str(folder / "eval"), "--html", str(page)]) == 0
    assert MODES[1] in page.read_text()


def test_free_answers_are_those_of_an_evaluation_without_grammars(scored, talker, tmp_path):
    folder, _ = scored
    evaluate(recipe_of(tmp_path, talker, constrain=False))
    free, both = predictions(tmp_path), predictions(folder)
    assert len(free) == 4
    assert {key: both[key] for key in free} == free


def test_a_stopped_evaluation_goes_on(scored, talker, monkeypatch):
    folder, results = scored
    before = predictions(folder)
    (folder / "eval/manifest.json").unlink()
    first, second = sorted((folder / "eval/predictions/one").glob("doping.*constrained*.jsonl"))
    first.write_text(first.read_text()[: len(first.read_text()) // 2])  # in the middle of a line
    second.unlink()
    calls, generate = [], Engine.generate
    monkeypatch.setattr(Engine, "generate", lambda *given, **more: calls.append(more) or generate(*given, **more))
    assert evaluate(recipe_of(folder, talker)) == results
    assert predictions(folder) == before
    assert [list(more) for more in calls] == [["schemas"]] * 2


def test_what_cannot_be_constrained_is_refused_before_anything_starts(talker, tmp_path, capsys, monkeypatch):
    recipe_of(tmp_path, talker)
    words = ["eval", str(talker), "--file", f"title={tmp_path}/title.json", "--constrain", "--out", f"{tmp_path}/eval"]
    assert "title (title)" in fails(capsys, "eval-nothing-to-constrain", *words)
    monkeypatch.setitem(SCHEMA, "uniqueItems", True)
    with raises("grammar-schema-unfit", "'uniqueItems'"):
        evaluate(recipe_of(tmp_path, talker))
    del SCHEMA["uniqueItems"]
    other = shutil.copytree(talker, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer | {"decoder": {"type": "Fuse"}}))
    assert load_auto_tokenizer(other).decode([40, 41])
    with raises("grammar-vocabulary-unreadable", other, "decoder"):
        evaluate(recipe_of(tmp_path, other))
    assert not (tmp_path / "eval").exists()
