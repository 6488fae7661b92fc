"""A single step from its recipe, with paths that are given or taken from a run."""

from pathlib import Path

from nsllm_lite.artifact.step import begin
from nsllm_lite.commands import typed
from nsllm_lite.commands.arguments import build_parser
from nsllm_lite.commands.stories import load_run
from nsllm_lite.recipe.load import identity
from tests.raising import raises

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe_of(*words: str):
    return typed.recipe_of(build_parser().parse_args([str(word) for word in words]))


def test_paths_of_a_run_are_taken_where_none_is_stated():
    run = load_run(RECIPES / "nano", out="runs/mine")
    for name in ("corpus", "phase1", "phase2", "merge", "report", "tasks", "sft", "eval"):
        step = run["model1" if name == "merge" else name]
        assert recipe_of(step.kind, RECIPES / f"nano/{name}.yaml", "--run", "runs/mine/") == step
    changes = ("out=runs/slow", "rows=mine", "seed=9")
    again = recipe_of("train", RECIPES / "nano/phase1.yaml", *changes, "--run", "runs/mine")
    assert (again.out, again.rows, again.seed, again.model) == ("runs/slow", "mine", 9, "runs/mine/base/model")


def test_the_base_of_a_run_is_what_its_phase_1_began_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = load_run(RECIPES / "smollm2", out="runs/mine")
    begin(tmp_path / "runs/mine/phase1", identity(run["phase1"]), {})
    for name in ("merge", "report", "eval"):
        step = run["model1" if name == "merge" else name]
        assert recipe_of(step.kind, RECIPES / f"smollm2/{name}.yaml", "--run", "runs/mine") == step
    (tmp_path / "models/smollm2-135m").mkdir(parents=True)
    monkeypatch.chdir(RECIPES)
    merge = recipe_of("merge", RECIPES / "smollm2/merge.yaml", "--run", tmp_path / "runs/mine")
    assert merge.base == str(tmp_path / "models/smollm2-135m")


def test_a_run_without_a_recipe_or_with_one_that_is_no_step_of_it_is_refused(tmp_path):
    for words in (("merge", "--base", "B", "--adapter", "A", "--out", "O"), ("eval", "DIR")):
        with raises("run-without-recipe", "--run runs/mine"):
            recipe_of(*words, "--run", "runs/mine")
    path = tmp_path / "own.yaml"
    path.write_text((RECIPES / "nano/phase1.yaml").read_text())
    with raises("run-without-step", "own.yaml"):
        recipe_of("train", path, "--run", "runs/mine")
    with raises("recipe-invalid", "out: ", "rows: ", "--run"):
        recipe_of("train", path)
