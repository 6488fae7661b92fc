"""Labels of words through a whole evaluation: answers of several lines, from published, converted and tagged files."""

import json
from pathlib import Path

import pytest

from nsllm_lite.evals.evaluate import evaluate
from nsllm_lite.models.generate import Engine
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks.sets import load_sets
from nsllm_lite.tasks.task import all_tasks

WORDS = ("lattice", "oxide", "film", "glass", "Sr", "Co", "growth", "heating")


@pytest.fixture(scope="module")
def tags(tmp_path_factory) -> Path:
    """24 sentences of words and tags; every fourth has no entity."""
    path = tmp_path_factory.mktemp("tags") / "test.txt"
    sentences = []
    for number in range(24):
        one, two = WORDS[number % 8], WORDS[(number * 3 + 1) % 8]
        tagged = ["O", "O"] if number % 4 == 3 else ["B-PRO", "I-PRO"]
        rows = [("paper", "O"), (str(number), "O"), (one, tagged[0]), (two, tagged[1]), ("in", "O"), ("air", "O")]
        sentences.append("\n".join(" ".join(row) for row in rows))
    path.write_text("\n\n".join(sentences) + "\n")
    return path


def recipe(folder: Path, talker: Path, files: list[dict], **more):
    values = {"kind": "eval", "out": str(folder / "eval"), "tasks": None, "files": files, "seed": 0}
    values |= {"models": [{"name": "m", "path": str(talker)}], "execution": {"device": "cpu", "batch_tokens": 2000}}
    return recipes.validate(values | more, "eval")


def test_answers_of_several_lines_are_read_whole_behind_a_few_shot_prompt(tags, talker, tmp_path, monkeypatch):
    """A model that knows the answers and goes on with another question scores 1."""
    own = [{"name": "bio", "task": "named_entities", "path": str(tags)}]
    asked = recipe(tmp_path, talker, own, modes=["few-shot"])
    (one,) = load_sets(asked)
    assert len(one.shots) == 4
    assert {one.task.group(shot) for shot in one.shots} == {"entities", "none"}
    golds = {one.task.few_shot_prompt(item, one.shots): item.answer for item in one.items}

    def knows(self, prompts, new_tokens, stops, done=(), rendered=False):
        for number, prompt in enumerate(prompts):
            text = f" {golds[prompt]}\n\nSentence: and so on\nEntities: x : B-PRO"
            yield number, min((text.partition(stop)[0] for stop in stops), key=len)

    monkeypatch.setattr(Engine, "generate", knows)
    results = evaluate(asked)
    (row,) = results["scores"]
    assert row["unread"] == 0
    assert {name: row[name]["value"] for name in one.task.metrics} == dict.fromkeys(one.task.metrics, 1.0)
    (about,) = results["sets"]
    assert (about["items"], about["metrics"][0]) == (20, "entity_f1")
    assert about["floors"].keys() == {"always none", "always B-PRO", "dictionary"}
    assert "bio, entity F1" in (tmp_path / "eval/report.md").read_text()


def test_a_converted_file_is_asked_as_the_file_itself(tags, talker, tmp_path, capsys):
    """A pico model's answers are scored, with intervals; nothing it says is right."""
    for task in ("named_entities", "entity_words"):
        rows = [one.item for one in all_tasks()[task].read_gold(tags) if one.item]
        (tmp_path / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [
        {"name": f"{task} {kind}", "task": task, "path": str(path)}
        for task in ("named_entities", "entity_words")
        for kind, path in (("itself", tags), ("converted", tmp_path / f"{task}.jsonl"))
    ]
    sets = load_sets(recipe(tmp_path, talker, files))
    assert "left out, no labelled word: 6 (line 4, 8, 12, 16, 20, ...)" in capsys.readouterr().out
    for first, second in (sets[:2], sets[2:]):
        assert [(i.instruction, i.input, i.output) for i in first.items] == [
            (i.instruction, i.input, i.output) for i in second.items
        ]
    results = evaluate(recipe(tmp_path, talker, files[1:2], modes=["few-shot"], max_items=4))
    (row,) = results["scores"]
    assert row["entity_f1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert row["exact"]["value"] < 1
