"""Whole evaluations of tiny models: the numbers follow from the answers on disk, and a stopped one goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import AddedToken

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.evals import evaluate as evaluating
from nsllm_lite.evals.calibration import EMPTY_INPUTS
from nsllm_lite.evals.evaluate import evaluate, read_predictions
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.models.engines import Found, open_engine
from nsllm_lite.models.generate import Engine
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import Eval, EvalExecution, EvaluatedModel
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.task import all_tasks
from tests.raising import fails, raises

from .conftest import SMALL_TASKS, make_talker


@pytest.fixture(scope="module")
def other_talker(tmp_path_factory) -> Path:
    return make_talker(tmp_path_factory.mktemp("other"), seed=2)


def own_files(folder: Path) -> list[dict]:
    names = ("moves", "title", "multiple_choice", "open")
    for name in names:
        records = [{"instruction": "", "input": text, "output": answer} for text, answer in SMALL_TASKS[name]]
        (folder / f"{name}.json").write_text(json.dumps(records))
    return [{"name": f"own {name}", "task": name, "path": str(folder / f"{name}.json")} for name in names]


def eval_recipe(folder: Path, models: dict[str, Path], **more) -> Eval:
    values = {
        "kind": "eval", "out": str(folder / "eval"), "tasks": None, "files": own_files(folder), "seed": 0,
        "calibrate": True, "cloze": True,
        "models": [{"name": name, "path": str(path)} for name, path in models.items()],
        "execution": {"device": "cpu", "batch_tokens": 2000},
    }  # fmt: skip
    return recipes.validate({**values, **more}, "eval")


@pytest.fixture(scope="module")
def two(talker, other_talker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, evaluate(eval_recipe(folder, {"one": talker, "two": other_talker}))


def test_everything_is_there_and_said(two):
    folder, results = two
    assert {path.name for path in (folder / "eval").iterdir()} == {
        "run.json", "manifest.json", "times.json", "results.json", "report.md", "radar.png", "bars.png", "predictions",
    }  # fmt: skip
    assert results == read_json(folder / "eval/results.json")
    assert len(results["scores"]) == 14
    tasks = ("moves", "title", "multiple_choice", "open")
    assert {row["set"] for row in results["differences"]} == {f"own {task}" for task in tasks}
    report = (folder / "eval/report.md").read_text()
    shown = ("| one | few-shot |", "| best floor |", "| ceiling |", ", macro-F1", "(moves) v4 with 2", "p by a")
    assert [words for words in shown if words not in report] == []
    assert read_json(folder / "eval/times.json")["models"]["one"]["forward_tokens"] > 0


def test_accuracy_is_what_the_predictions_say(two):
    folder, results = two
    (path,) = (folder / "eval/predictions/one").glob("own_multiple_choice~*.few-shot.jsonl")
    predictions = read_predictions(path)
    assert sorted(found.item for found in predictions) == list(range(8))  # of 9 one is the example
    sets = evaluating.load_sets(eval_recipe(folder, {"one": folder}))
    items = next(one for one in sets if one.name == "own multiple_choice").items
    right = sum(found.answer == items[found.item].answer for found in predictions) / 8
    row = next(r for r in results["scores"] if r["model"] == "one" and r["set"] == "own multiple_choice")
    assert row["accuracy"]["value"] == right
    assert row["unread"] == 0


def test_calibrated_answers_take_out_what_the_prompt_alone_says(two, talker):
    """A label's probability is divided by the mean of its probabilities behind the three inputs that say nothing."""
    folder, results = two
    rows = {(r["model"], r["set"]): r for r in results["scores"] if r["mode"] == "calibrated"}
    assert {name for _, name in rows} == {"own moves", "own multiple_choice"}
    asked = next(one for one in evaluating.load_sets(eval_recipe(folder, {"one": talker})) if one.name == "own moves")
    engine = open_engine(str(talker), device="cpu", how=EvalExecution())
    empty = [asked.task.few_shot_prompt(replace(asked.items[0], input=text), asked.shots) for text in EMPTY_INPUTS]
    alone = np.exp([found for _, found in sorted(engine.rank(empty, [[f" {label}" for label in asked.labels]] * 3))])
    prior = (alone / alone.sum(1, keepdims=True)).mean(0)
    raw, calibrated = (
        {found.item: found for found in read_predictions(replaced.path(folder / "eval"))}
        for replaced in (evaluating.Asked("one", mode, asked) for mode in ("few-shot", "calibrated"))
    )
    for number, found in calibrated.items():
        values = np.exp([float(word) for word in raw[number].text.split()]) / prior
        assert found.answer == asked.labels[int(values.argmax())]
        assert [float(word) for word in found.text.split()] == pytest.approx(np.log(values).tolist(), abs=2e-3)
    assert len(calibrated) == len(asked.items)
    assert len({found.answer for found in calibrated.values()}) >= len({found.answer for found in raw.values()})
    assert "| one | calibrated | " in (folder / "eval/report.md").read_text()


def test_cloze_ranks_each_choices_own_words_without_listing_them(two, talker):
    folder, results = two
    rows = {(r["model"], r["set"]): r for r in results["scores"] if r["mode"] == "cloze"}
    assert set(rows) == {("one", "own multiple_choice"), ("two", "own multiple_choice")}
    asked = evaluating.load_sets(eval_recipe(folder, {"one": talker}))[2]
    (shot,) = asked.shots
    example = f"Question: {shot.input.partition('?')[0]}?\nAnswer: {shot.choices[shot.answer]}\n\n"
    engine = open_engine(str(talker), device="cpu", how=EvalExecution())
    found = {one.item: one for one in read_predictions(evaluating.Asked("one", "cloze", asked).path(folder / "eval"))}
    assert len(found) == len(asked.items) == 8
    for number, item in enumerate(asked.items):
        prompt = f"{example}Question: {item.input.partition('?')[0]}?\nAnswer:"
        ((_, values),) = engine.rank([prompt], [[f" {text}" for text in item.choices.values()]])
        assert found[number].answer == "ABC"[int(np.argmax(values))]
        assert [float(word) for word in found[number].text.split()] == pytest.approx(values, abs=2e-3)
    right = sum(found[number].answer == item.answer for number, item in enumerate(asked.items))
    assert rows["one", "own multiple_choice"]["accuracy"]["value"] == right / 8


def test_modes_of_the_recipe_are_those_of_models_that_state_none(tmp_path, talker, monkeypatch):
    rooms = []
    generate = Engine.generate

    def spied(self, prompts, new_tokens, stops, *more):
        rooms.append((new_tokens, not stops))
        return generate(self, prompts, new_tokens, stops, *more)

    monkeypatch.setattr(Engine, "generate", spied)
    other = {"name": "two", "path": str(talker), "modes": ["instruction"]}
    recipe = eval_recipe(tmp_path, {"one": talker}, modes=["few-shot"], chat_tokens=3)
    recipe = recipe.model_copy(update={"models": [*recipe.models, EvaluatedModel(**other)]})
    results = evaluate(recipe)
    assert {row["mode"] for row in results["scores"] if row["model"] == "one"} == {"few-shot", "calibrated", "cloze"}
    assert {row["mode"] for row in results["scores"] if row["model"] == "two"} == {"instruction"}
    assert {tokens for tokens, is_instruction in rooms if is_instruction} == {3}


def test_a_stopped_evaluation_goes_on(two, talker, other_talker, capsys, monkeypatch):
    folder, results = two
    before = {path: path.read_text() for path in (folder / "eval/predictions").rglob("*.jsonl")}
    (folder / "eval/manifest.json").unlink()
    (cut,) = (folder / "eval/predictions/two").glob("own_title~*.few-shot.jsonl")
    cut.write_text(before[cut][: len(before[cut]) // 2])  # in the middle of a line
    next((folder / "eval/predictions/two").glob("own_open~*.few-shot.jsonl")).unlink()
    recipe = eval_recipe(folder, {"one": talker, "two": other_talker})
    assert evaluate(recipe) == results
    for path, text in before.items():
        assert sorted(path.read_text().splitlines()) == sorted(text.splitlines())
    evaluate(recipe)
    assert "finished, skipped" in capsys.readouterr().out
    (folder / "eval/manifest.json").unlink()
    monkeypatch.setattr("nsllm_lite.models.engines.open_engine", lambda *_, **__: pytest.fail("a model was loaded"))
    assert evaluate(recipe) == results, "nothing is missing, nothing is asked"
    with raises("finished-result-differs", folder / "eval", "models"):
        evaluate(eval_recipe(folder, {"one": talker}))


def test_distinct_names_have_distinct_predictions(tmp_path):
    names = ["a_b", "a/b", "a b", "a?b", "Qwen3-8B_v1.5+x", ".", "..", "_", "_."]
    one = evaluating.load_sets(eval_recipe(tmp_path, {"m": tmp_path}))[0]
    paths = [evaluating.Asked(name, "few-shot", one).path(tmp_path).resolve() for name in names]
    paths += [evaluating.Asked("m", "few-shot", replace(one, name=name)).path(tmp_path).resolve() for name in names]
    assert len(set(paths)) == 2 * len(names)
    assert {path.parents[1] for path in paths} == {tmp_path / "predictions"}
    assert (paths[0].parent.name, paths[4].parent.name) == (names[0], names[4])


class Said:
    """An engine that says what it is told to."""

    num_cut = num_short = forward_tokens = 0
    added_tokens_decoder = {9: AddedToken("<answer>", special=True)}  # noqa: RUF012
    notes = ("it says what it is told to",)

    def __init__(self, texts: list[str], chat_template: str | None = "yes"):
        self.texts, self.tokenizer, self.asked = texts, self, []
        self.chat_template = chat_template

    def apply_chat_template(self, messages, **options):
        assert options.pop("strftime_now")("%Y") == "2024"
        assert options == {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return f"<user>{messages[0]['content']}<answer>"

    def generate(self, prompts, new_tokens, stops, done, rendered):
        assert rendered
        self.asked += prompts
        yield from enumerate(self.texts[: len(prompts)])


def test_answers_that_cannot_be_read_are_wrong_and_counted(tmp_path, monkeypatch):
    """Of 12 sentences 10 are scored by hand: the denominator stays, whatever the model says."""
    texts = ["Results", "objective", "no idea", "", "Methods or Results", "<think>Methods", "Methods", "Methods"] * 2
    engine = Said(texts)
    monkeypatch.setattr("nsllm_lite.models.engines.open_engine", lambda *_, **__: engine)
    own = SimpleNamespace(load=lambda: engine.tokenizer)
    monkeypatch.setattr("nsllm_lite.models.engines.find_model", lambda *_, **__: Found(tmp_path, None, {}, own))
    monkeypatch.setattr(evaluating, "require_plain_model", lambda folder: {})
    models = [{"name": "one", "path": "some/hub", "modes": ["instruction"]}]
    one = recipes.update(eval_recipe(tmp_path, {"m": tmp_path}, files=own_files(tmp_path)[:1]), models=models)
    (row,) = evaluate(one)["scores"]
    items = evaluating.load_sets(one)[0].items
    answers = ["Results", "Objective", None, None, None, None, "Methods", "Methods"] * 2
    assert len(items) == 10
    assert row["unread"] == answers[: len(items)].count(None)
    right = sum(a == item.answer for a, item in zip(answers, items, strict=False))
    assert row["accuracy"]["value"] == pytest.approx(right / len(items))
    assert engine.asked[0].startswith("<user>Which part of a ")
    assert "Answer with one of: Methods, Objective, Results.<answer>" in engine.asked[0]
    report = (tmp_path / "eval/report.md").read_text()
    assert "could not be read" in report
    assert "one: it says what it is told to." in report.splitlines()


def test_reasoning_that_the_prompt_opens_is_no_answer(tmp_path, monkeypatch):
    engine = Said(["Methods, or Results?</think>Results", "Methods", "<think>\nMethods"])
    monkeypatch.setattr(engine, "apply_chat_template", lambda *_, **__: "<user>?<answer><think>\n")
    one = evaluating.load_sets(eval_recipe(tmp_path, {"m": tmp_path}))[0]
    found = list(evaluating._predict(evaluating.Asked("m", "instruction", one), set(), engine))
    assert [prediction.answer for prediction in found] == ["Results", None, None]
    assert found[1].text == "<think>Methods"


def test_without_a_chat_template_the_prompt_is_that_of_tuning_and_one_that_refuses_ends_the_evaluation(monkeypatch):
    item, task = Item(0, "Light.", "x", {}, "Write a title."), all_tasks()["title"]
    assert evaluating.as_told(Said([], None), task, item, ()) == "Write a title.\n\nLight.\n\nAnswer:\n"
    engine = Said([])
    monkeypatch.setattr(engine, "apply_chat_template", lambda *_, **__: {}["roles"])
    with raises("eval-chat-template-refused", "KeyError: 'roles'", "modes: [few-shot]"):
        evaluating.as_told(engine, task, item, ())


def test_by_words_on_the_command_line(talker, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_files(tmp_path)
    words = ["eval", str(talker), "--file", "open=open.json", "--file", "moves=moves.json", "--out", "here"]
    assert cli.main([*words, "--max-items", "3"]) == 0
    results = read_json(tmp_path / "here/results.json")
    assert {about["name"]: about["items"] for about in results["sets"]} == {"open": 3, "moves": 3}
    absent = str(tmp_path / "absent")
    assert absent in fails(capsys, "model-not-found", "eval", absent, "--file", "open=open.json", "--out", "there")


def test_an_adapter_is_put_on_the_base_that_it_was_trained_on(talker, other_talker, tmp_path):
    """By the weights that its training wrote down, before anything is written; to the last bit before it is loaded."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(talker / "model.safetensors", adapter / "adapter_model.safetensors")
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": str(talker)})
    about = {"quantisation": "none", "double_quantisation": True, "compute_dtype": "float32", "base": "other"}
    recipe, files = eval_recipe(tmp_path, {"m": adapter}), {"model.safetensors": {"sha256": "0"}}
    for fingerprint, base_files, code in (
        (fingerprint_weights(other_talker), {}, "merge-base-differs"),
        (fingerprint_weights(talker), files, "merge-base-changed"),
        (fingerprint_weights(talker), {}, "adapter-tensors-unread"),  # the next that is wrong with it
        (None, {}, "adapter-tensors-unread"),
    ):
        write_json(adapter / "training.json", about | {"base_fingerprint": fingerprint, "base_files": base_files})
        with raises(code, adapter):
            evaluate(recipe)
        assert (tmp_path / "eval").exists() == (code != "merge-base-differs")
        shutil.rmtree(tmp_path / "eval", ignore_errors=True)
