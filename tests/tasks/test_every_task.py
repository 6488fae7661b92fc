"""What holds of every task in TASKS: its gold answers score 1, no answer 0, and no mutilation of one ever more."""

import json
from dataclasses import replace

import pytest

from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import TASKS
from nsllm_lite.tasks.sets import load_sets
from tests.raising import raises

EVAL = {"kind": "eval", "out": "x", "models": [{"name": "m", "path": "m"}], "seed": 0, "tasks": "bundled"}


@pytest.fixture(scope="module")
def sets():
    return {one.name: one for one in load_sets(recipes.validate(EVAL | {"max_items": 40}, "x"))}


def mutilations(gold: str, other: str, options: tuple[str, ...]) -> dict[str, str]:
    return {
        "truncated": gold[: len(gold) // 2],
        "doubled": f"{gold} {gold}",
        "wrong case": gold.swapcase(),
        "JSON broken": json.dumps({"answer": gold})[:-2],
        "unicode noise": "\u202e".join(gold) + "\ufffd\x00\U0001f9ea",
        "other answer": other,
        "whitespace": f" \n\t{gold}\n\n ",
        "prefix": f"Well, let me think: {gold}",
        "suffix": f"{gold} or so, I would say",
        "all options": ", ".join(options or (gold, other)),
    }


@pytest.mark.parametrize("name", TASKS)
def test_gold_scores_one_in_every_metric_nothing_scores_more_and_no_floor_comes_near(sets, name):
    task, items, labels = sets[name].task, sets[name].items, sets[name].labels
    for number, item in enumerate(items[:8]):
        options, other = task.options(item, labels), items[number - 1].answer
        gold = task.score(task.parse(item.output, options), item)
        assert (gold.read, gold.value, gold.exact) == (True, 1.0, True)
        for text in ("", " \n"):
            assert task.score(task.parse(text, options), item)[:3] == (False, 0.0, False)
        for what, text in mutilations(item.answer, other, options).items():
            answer = task.parse(text, options)
            score = task.score(answer, item)
            assert score.read == (answer is not None), what
            assert 0 <= score.value <= gold.value, what
            assert score.parts.keys() == gold.parts.keys() <= task.metrics.keys(), what
        assert task.score(task.parse(f" {item.answer}\n", options), item).exact, "spaces around it do not matter"
    assert task.figures([item.answer for item in items], sets[name]) == dict.fromkeys(task.metrics, 1.0)
    assert task.figures([None] * len(items), sets[name]) == dict.fromkeys(task.metrics, 0.0)
    floors = task.floors(sets[name], 0)
    assert floors
    assert all(0 <= value < 0.9 for figures in floors.values() for value in figures.values())


def test_a_task_that_is_not_there_is_named():
    with raises("task-unknown", "'titel'", "title"):
        recipes.validate(EVAL | {"files": [{"name": "x", "task": "titel", "path": "x"}]}, "x")


@pytest.mark.parametrize("name", TASKS)
def test_the_instruction_of_tuning_is_that_of_scoring(sets, name):
    one = sets[name]
    records = [one.task.record("id", "paper", item.input, item.answer, one.labels) for item in one.items]
    asked = [one.task.chat_prompt(replace(item, instruction=""), one.labels) for item in one.items]
    for record, item, prompt in zip(records, one.items, asked, strict=True):
        assert record["instruction"].startswith(one.task.instruction)
        assert sorted(prompt.split()) == sorted(f"{record['instruction']} {record['input']}".split())
        assert item.instruction.startswith(one.task.instruction), "the bundled items are such records"
