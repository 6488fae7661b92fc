"""The materials' story: which recipes it runs, what is refused before it begins, and all of it with a few steps."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.commands.arguments import build_parser
from nsllm_lite.commands.materials_run import load_materials_run
from nsllm_lite.models.sizes import QWEN3
from tests.raising import fails, raises

ROOT = Path(__file__).parents[1]
FEW = [
    "base.budget.steps=2", "base.budget.tokens=4096", "base.schedule.warmup_steps=1", "report.max_rows=1",
    *(f"phase{n}.{word}" for n in "12" for word in ("budget.steps=2", "budget.tokens=2048", "schedule.warmup_steps=1")),
    *(f"{stage}.{word}" for stage in ("general", "extraction") for word in ("steps=2", "schedule.warmup_steps=1")),
    "eval.chat_tokens=6", "eval.max_items=2", "tasks.max_per_task=4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def folder(tmp_path):
    """The recipes of nano, to be changed."""
    shutil.copytree(ROOT / "recipes/nano", tmp_path / "nano")
    return tmp_path / "nano"


def changed(folder: Path, **sections) -> Path:
    path = folder / "materials.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections, sort_keys=False))
    return folder


@pytest.mark.slow
def test_from_the_sample_to_scores_of_extraction_and_again(tmp_path, capsys):
    out = tmp_path / "run"
    for _ in range(2):
        assert cli.main(["materials", "--out", str(out), *FEW]) == 0
    text = capsys.readouterr().out
    for name in (
        "corpus",
        "base",
        "phase1",
        "model2",
        "tasks",
        "gold",
        "general",
        "model-extraction",
        "eval",
        "stages",
    ):
        assert f"{out}/{name}: finished, skipped" in text
    assert f"Done: {out}\n" in text
    for line in re.findall(r"nsllm-lite (?:eval|show) .*", text):
        build_parser().parse_args(shlex.split(line)[1:])
    found = read_json(out / "stages/stages.json")
    assert found["stages"] == ["general", "extraction"]
    assert set(found["losses"]) == {"before", *found["stages"]}
    modes = {row["mode"] for row in read_json(out / "eval/results.json")["scores"]}
    assert modes == {"instruction", "instruction, constrained"}
    assert "| best floor |" in (out / "stages/stages.md").read_text()


def test_each_stage_tunes_the_merged_model_of_the_one_before_and_holds_out_what_all_do():
    run = load_materials_run(ROOT / "recipes/nano", out="x")
    merged = ["x/model2", "x/model-general", "x/model-extraction"]
    assert [run["general"].model, run["extraction"].model] == merged[:2]
    assert [run[f"model-{name}"].base for name in ("general", "extraction")] == merged[:2]
    assert [run[f"model-{name}"].adapter for name in ("general", "extraction")] == [
        "x/general/adapter",
        "x/extraction/adapter",
    ]
    assert run["general"].heldout == run["extraction"].heldout == ["x/tasks/test", "x/gold/test"]
    assert [run["general"].data, run["extraction"].data] == [["x/tasks/train"], ["x/gold/train"]]
    assert [(one.name, one.path) for one in run["eval"].models] == list(
        zip(("before", "general", "extraction"), merged, strict=True)
    )
    assert run["eval"].tasks == "x/gold"
    assert [(one.name, one.sft, one.heldout) for one in run["stages"].stages] == [
        ("general", "x/general", ["x/tasks/test"]), ("extraction", "x/extraction", ["x/gold/test"]),
    ]  # fmt: skip
    assert list(run)[-1] == "stages"
    assert list(run).index("gold") < list(run).index("general") < list(run).index("model-general")


def test_a_section_changes_a_recipe_and_a_word_changes_the_section(folder):
    words = {
        "phase1": ["adapter.rank=3"],
        "general": ["epochs=2"],
        "gold": ["max_per_task=7"],
        "merge": ["shard_bytes=9"],
    }
    run = load_materials_run(changed(folder, phase1={"seed": 5}), out="x", overrides=words)
    assert (run["phase1"].seed, run["phase1"].adapter.rank) == (5, 3)
    assert (run["general"].epochs, run["general"].steps) == (2, None)
    assert run["gold"].max_per_task == 7
    assert run["model1"].shard_bytes == run["model-general"].shard_bytes == 9
    steps = yaml.safe_load((folder / "phase1.yaml").read_text())["budget"]["steps"]
    assert run["phase1"].budget.steps == steps, "without a section the recipe is as it stands"


def test_stages_of_ones_own_and_files_that_are_looked_for_first(folder, tmp_path):
    maths = {"data": [str(tmp_path / "a.jsonl")], "heldout": ["run:tasks"], "epochs": 1}
    changed(folder, stages={"maths": maths, "last": stage("run:gold")})
    with raises("materials-stage-data-missing", "maths", tmp_path / "a.jsonl"):
        load_materials_run(folder, out="x")
    (tmp_path / "a.jsonl").write_text("{}")
    run = load_materials_run(folder, out="x")
    assert (run["maths"].epochs, run["maths"].steps, run["last"].model) == (1, None, "x/model-maths")
    with raises("materials-stage-data-missing", "nowhere.jsonl"):
        load_materials_run(folder, out="x", overrides={"last": ["heldout=[nowhere.jsonl]"]})
    with raises("materials-stage-data-missing", "last"):
        load_materials_run(folder, out="x", overrides={"last": [f"data=[{'a' * 5_000}]"]})
    with raises("materials-stage-run", "run:gould"):
        load_materials_run(folder, out="x", overrides={"last": ["data=['run:gould']"]})
    with raises("materials-stage-paths", "none"):
        load_materials_run(folder, out="x", overrides={"last": ["data=none"]})


def test_what_is_no_story_is_refused(folder, tmp_path):
    with raises("materials-recipe-missing", tmp_path):
        load_materials_run(tmp_path)
    with raises("materials-recipe-kind", "'train'"):
        load_materials_run(changed(folder, kind="train"))
    changed(folder, kind="story")
    for stages in ({}, ["a"], {"a": 1}, None):
        with raises("materials-recipe-unfit", folder):
            load_materials_run(changed(folder, stages=stages))
    with raises("materials-recipe-unfit", folder):
        load_materials_run(changed(folder, stages={"a": {}}, phase1=3))
    with raises("materials-section-unknown", "phase3"):
        load_materials_run(changed(folder, phase1={}, phase3={}))
    with raises("setting-step-unknown", "phase2"):
        load_materials_run(ROOT / "recipes/nano", overrides={"phase3": ["seed=1"]})
    with raises("key-unknown", "rank"):
        load_materials_run(ROOT / "recipes/nano", overrides={"general": ["rank=8"]})
    with raises("setting-path-derived", "general.model=x"):
        load_materials_run(ROOT / "recipes/nano", overrides={"general": ["model=x"]})


def stage(*heldout: str, **changes) -> dict:
    return {"data": ["run:gold"], "heldout": list(heldout), "steps": 3} | changes


@pytest.mark.parametrize("name", ["a/b", "../x", "", "-a", "a b", "a.b", "a" * 65, None])
def test_a_stage_is_called_as_a_folder_can_be(folder, name):
    with raises("materials-stage-name", repr(name)):
        load_materials_run(changed(folder, stages={name: stage("run:gold")}))


@pytest.mark.parametrize("name", ["before", "model1", "Corpus", "convert", "stages", "eval", "kind", "merge"])
def test_a_stage_is_not_called_as_a_step_of_the_run(folder, name):
    with raises("materials-stage-name-taken", f"materials.yaml: {name}:"):
        load_materials_run(changed(folder, stages={name: stage("run:gold")}))


def test_stages_are_not_called_as_each_other(folder):
    for names in (("General", "general"), ("general", "Model-general")):
        with raises("materials-stage-name-taken", names[1]):
            load_materials_run(changed(folder, stages=dict.fromkeys(names, stage("run:gold"))))


def test_gold_is_looked_for_first_and_has_a_test(folder):
    name = "bundled:materials/test/doping.jsonl"
    for absent in ("nowhere.jsonl", "a" * 5_000):
        with raises("gold-absent", absent):
            load_materials_run(changed(folder, gold={"gold": [{"task": "doping", "train": [absent], "test": [name]}]}))
    with raises("materials-gold-without-test", "doping"):
        load_materials_run(changed(folder, gold={"gold": [{"task": "doping", "train": [name]}]}))


def test_held_out_files_are_told_apart_by_name(folder, tmp_path):
    for name in ("a", "b", "empty"):
        (tmp_path / name).mkdir()
    for name in ("a/same", "b/same", "b/other", "doping", "moves"):
        (tmp_path / f"{name}.jsonl").write_text("{}")
    path = {name: str(tmp_path / name) for name in ("a", "b", "b/other.jsonl", "doping.jsonl", "moves.jsonl", "empty")}
    for one, other, quoted in (
        ([path["a"]], [path["b"]], "same"),
        (["run:tasks"], ["run:tasks"], "classification"),
        (["run:tasks"], [path["moves.jsonl"]], "moves"),
        ([path["doping.jsonl"]], ["run:gold"], "doping"),
        ([path["a"], path["b"]], ["run:gold"], "same"),
    ):
        changed(folder, stages={"one": stage(*one), "two": stage(*other)})
        with raises("materials-heldout-repeats", quoted, "one"):
            load_materials_run(folder, out="x")
    changed(folder, stages={"one": stage(path["a"]), "two": stage(path["b/other.jsonl"], "run:gold")})
    assert list(load_materials_run(folder, out="x"))[-1] == "stages"
    changed(folder, stages={"one": stage(path["empty"])})
    with raises("stages-heldout-empty", path["empty"]):
        load_materials_run(folder, out="x")


def test_the_file_of_a_story_may_be_named_itself(folder, capsys, monkeypatch):
    """And is no recipe of a step."""
    asked = []
    monkeypatch.setattr("nsllm_lite.commands.materials_run.load_materials_run", lambda at, *_: asked.append(at) or {})
    for words in (["--recipes", f"{folder}/materials.yaml"], [f"{folder}/materials.yaml"], [str(folder)]):
        with pytest.raises(KeyError):  # of the recipes that were not loaded
            cli.main(["materials", *words])
    assert asked == [folder] * 3
    assert f"nsllm-lite materials {folder}" in fails(capsys, "recipe-of-a-story", "train", f"{folder}/materials.yaml")


def test_errors_name_the_file_in_which_the_value_stands(folder):
    with raises("value-wrong", folder / "materials.yaml", "instructions"):
        load_materials_run(changed(folder, eval={"modes": ["instructions"]}), out="x")


def test_the_recipe_for_a_card_takes_a_size_and_files_of_four_stages(tmp_path, monkeypatch, capsys):
    assert "general.jsonl" in fails(capsys, "materials-stage-data-missing", "materials", "--size", "4b")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", symlinks=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("general", "general-heldout", "maths", "maths-heldout"):
        (tmp_path / f"data/{name}.jsonl").write_text("{}\n")
    run = load_materials_run(Path("recipes/materials"), size="4b")
    assert run["phase1"].model == run["corpus"].tokenizer == QWEN3["4b"][0]
    assert run["corpus"].out == "runs/materials-4b/corpus"
    stages = ["general", "maths", "domain", "extraction"]
    assert [one.name for one in run["stages"].stages] == stages
    assert [(run[name].epochs, run[name].steps) for name in stages] == [(1, None), (3, None), (1, None), (2, None)]
    assert run["extraction"].compute_dtype == "bfloat16"
