"""The table of several stages of instruction tuning, from the results that they left."""

import json
from pathlib import Path

import pytest

from nsllm_lite.artifact.step import begin, finish
from nsllm_lite.evals.stages import forgotten, own_files, stages
from nsllm_lite.recipe.evals import Stages
from tests.raising import raises


def finished_step(folder: Path, results: dict) -> Path:
    begin(folder, {"kind": "sft", "name": folder.name}, {})
    finish(folder, "sft", {"kind": "sft", "name": folder.name}, {}, results, 0)
    return folder


def tuned(folder: Path, before: dict[str, tuple[float, int]], after: dict[str, tuple[float, int]]) -> Path:
    """A finished training whose held-out answers have these losses and tokens."""
    answers = [
        {"answers": {name: {"loss": loss, "tokens": tokens} for name, (loss, tokens) in found.items()}}
        for found in (before, after)
    ]
    return finished_step(folder, {"heldout": dict(zip(("before", "after"), answers, strict=True))})


def scored(folder: Path) -> Path:
    """Scores of the models before and after two stages on a set with a floor."""
    row = {"mode": "instruction", "set": "doping", "unread": 0}
    values = {"before": 0.1, "general": 0.3, "task": 0.8}
    scores = [row | {"model": m, "exact": {"value": v, "low": v - 0.1, "high": v + 0.1}} for m, v in values.items()]
    about = {"name": "doping", "metrics": ["accuracy"], "items": 10, "floors": {"always empty": {"accuracy": 0.7}}}
    for score in scores:
        score["accuracy"] = score.pop("exact")
    finished_step(folder, {})
    (folder / "results.json").write_text(json.dumps({"sets": [about], "scores": scores}))
    return folder


@pytest.fixture
def files(tmp_path):
    """Held-out files: two of the first stage in a folder, one of the second."""
    (tmp_path / "test").mkdir()
    for name in ("test/moves.jsonl", "test/title.jsonl", "test/README.md", "doping.jsonl"):
        (tmp_path / name).write_text("{}\n")
    return tmp_path


@pytest.fixture
def recipe(files):
    tuned(
        files / "a",
        before={"moves": (4.0, 10), "title": (2.0, 30), "doping": (5.0, 8)},
        after={"moves": (2.0, 10), "title": (1.0, 30), "doping": (4.0, 8)},
    )
    tuned(
        files / "b",
        before={"moves": (2.1, 10), "title": (1.1, 30), "doping": (4.1, 8)},
        after={"moves": (3.0, 10), "title": (2.0, 30), "doping": (0.5, 8)},
    )
    listed = [
        {"name": "general", "sft": str(files / "a"), "heldout": [str(files / "test")]},
        {"name": "task", "sft": str(files / "b"), "heldout": [str(files / "doping.jsonl")]},
    ]
    scores = str(scored(files / "eval"))
    return Stages.model_validate({"kind": "stages", "out": str(files / "out"), "stages": listed, "scores": scores})


@pytest.mark.pictures
def test_losses_of_all_stages_after_each_and_what_a_later_one_forgot(recipe, capsys):
    results = stages(recipe)
    assert results["stages"] == ["general", "task"]
    assert results["answer_tokens"] == {"general": 40, "task": 8}
    assert results["losses"] == {
        "before": {"general": 2.5, "task": 5.0},  # (4 x 10 + 2 x 30) / 40
        "general": {"general": 1.25, "task": 4.0},
        "task": {"general": 2.25, "task": 0.5},
    }
    assert results["forgotten"] == {"general": 1.0}
    text = (Path(recipe.out) / "stages.md").read_text()
    assert text.split("\n\n", 1)[1].strip() in capsys.readouterr().out
    assert "| task | 2.2500 | **0.5000** | 0.800 [0.700, 0.900] |" in text
    assert "| before | 2.5000 | 5.0000 | 0.100 [0.000, 0.200] |" in text
    assert "| best floor | | | 0.700 (always empty) |" in " ".join(text.split())
    assert "| of | 40 tokens | 8 tokens | 10 items |" in text
    assert "general +1.0000" in text
    assert (Path(recipe.out) / "stages.png").stat().st_size > 10_000


def test_a_finished_table_is_not_made_again_and_other_results_are_told(recipe, files, capsys):
    stages(recipe)
    capsys.readouterr()
    stages(recipe)
    assert "finished, skipped" in capsys.readouterr().out
    again = {"moves": (1.0, 10), "title": (1.0, 30), "doping": (1.0, 8)}
    (files / "b/manifest.json").unlink()
    tuned(files / "b", again, again)
    with raises("finished-result-differs", "stage:task"):
        stages(recipe)


def test_without_scores_the_table_has_losses_alone(recipe):
    stages(recipe.model_copy(update={"scores": None}))
    assert "floor" not in (Path(recipe.out) / "stages.md").read_text().split("| of |")[1]


def test_what_does_not_fit_is_refused_before_anything_is_written(recipe, files):
    with raises("stages-step-unfinished", files / "eval/none"):
        stages(recipe.model_copy(update={"scores": str(files / "eval/none")}))
    (files / "test/abstract.jsonl").write_text("{}\n")
    with raises("stages-heldout-differs", "general", "abstract"):
        stages(recipe)
    assert not (Path(recipe.out) / "stages.json").exists()
    (files / "test/abstract.jsonl").unlink()
    (files / "b/manifest.json").unlink()
    fewer = {"moves": (2.0, 9), "title": (1.0, 30), "doping": (4.0, 8)}
    tuned(files / "b", fewer, fewer)
    with raises("stages-answers-differ", "task", "39", "general"):
        stages(recipe.model_copy(update={"out": str(files / "other")}))


def test_two_stages_with_one_name_of_a_file_cannot_be_told_apart(files):
    (files / "test/doping.json").write_text("[]")
    listed = [
        {"name": name, "sft": "x", "heldout": [str(files / of)]} for name, of in (("a", "test"), ("b", "doping.jsonl"))
    ]
    recipe = Stages.model_validate({"kind": "stages", "out": "x", "stages": listed})
    with raises("names-repeat", "doping"):
        own_files(recipe.stages)


def test_a_stage_that_holds_out_no_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("{}")
    listed = [{"name": "a", "sft": "x", "heldout": [str(tmp_path)]}]
    with raises("stages-heldout-empty", tmp_path):
        own_files(Stages.model_validate({"kind": "stages", "out": "x", "stages": listed}).stages)
    listed[0]["heldout"] = [str(tmp_path / "held.ndjson")]  # a file that is named is one, as trainings have it
    assert own_files(Stages.model_validate({"kind": "stages", "out": "x", "stages": listed}).stages) == {"a": ["held"]}


def test_the_last_stage_has_forgotten_nothing_yet():
    losses = {"before": {"a": 3, "b": 3}, "a": {"a": 1, "b": 2}, "b": {"a": 2, "b": 1}}
    assert forgotten(losses) == {"a": 1}
