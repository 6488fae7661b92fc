"""One recipe folder serves all sizes of Qwen3: where the size comes from, and what it changes."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from nsllm_lite import cli
from nsllm_lite.commands.arguments import build_parser
from nsllm_lite.commands.recipe_folder import pick_recipes
from nsllm_lite.commands.stories import load_run
from nsllm_lite.models import sizes
from nsllm_lite.models.sizes import REFERENCE
from tests.commands.test_init import make
from tests.raising import raises

RECIPES = Path(__file__).parents[2] / "recipes"
QWEN3 = RECIPES / "qwen3"
CORPUS = str(Path(__file__).parents[1] / "corpus")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def picked(*words: str, verb: str = "plan") -> tuple[str, str | None]:
    """The name of the recipe folder, and the size."""
    folder, size, _ = pick_recipes(build_parser().parse_args([verb, *words]))
    return folder.name, size


@pytest.mark.parametrize("size", sizes.QWEN3)
def test_a_size_sets_model_tokenizer_and_folder(size):
    joined = load_run(QWEN3, size=size)
    named = (joined["corpus"].tokenizer, joined["phase1"].model, joined["model1"].base, joined["report"].base)
    assert {*named, joined["eval"].models[0].path} == {f"Qwen/Qwen3-{size.upper()}-Base"}
    assert joined["corpus"].out == f"runs/qwen3-{size}/corpus"
    text = json.dumps([joined[name].model_dump(mode="json") for name in ("phase2", "tasks", "sft", "model-sft")])
    assert text.count("runs/qwen3-") == text.count(f"runs/qwen3-{size}/") > 8
    assert load_run(QWEN3, corpus=CORPUS, size=size)["phase1"].out == f"runs/qwen3-{size}-corpus/phase1"
    assert load_run(QWEN3, out="runs/mine", size=size)["phase1"].out == "runs/mine/phase1"
    assert load_run(QWEN3, model="my/own", size=size)["phase1"].model == "my/own"
    assert (joined == load_run(QWEN3)) == (size == REFERENCE)


def test_the_size_is_that_of_the_model_else_as_asked_else_by_the_card():
    four, card = "Qwen/Qwen3-4B-Base", ("--corpus", CORPUS, "--vram", "12")
    assert picked(*card) == ("qwen3", "1.7b")
    assert picked(*card, "--size", "14b") == ("qwen3", "14b")
    assert picked(*card, "--model", four) == ("qwen3", "4b")
    assert picked(*card, "--model", four, "--size", "4b") == ("qwen3", "4b")
    assert picked(*card, "--model", "my/own") == ("qwen3", "1.7b")
    assert picked("--recipes", "recipes/qwen3", "--vram", "12") == ("qwen3", "1.7b")
    assert picked("--size", "4b") == ("qwen3", "4b")
    assert picked("--model", four) == ("nano", None)
    assert picked("--recipes", "recipes/qwen3") == ("qwen3", REFERENCE)  # and no card
    assert picked("--corpus", CORPUS, "--only", "corpus", verb="phase1") == ("qwen3", REFERENCE)


@pytest.mark.parametrize(
    ("words", "code", "quoted"),
    [
        (("--size", "8"), "size-unknown", ("SIZE=8:", "mean 8b?")),
        (("--size", "8B"), "size-unknown", ("SIZE=8B:", "mean 8b?")),
        (("--size", "x"), "size-unknown", ("SIZE=x:", "14b, 8b, 4b, 1.7b, 0.6b")),
        (("--size", "8b", "--model", "Qwen/Qwen3-4B-Base"), "size-not-of-model", ("SIZE=8b", "Qwen/Qwen3-4B-Base")),
        (("--size", "8b", "--model", "my/own"), "size-not-of-model", ("my/own", "Qwen/Qwen3-8B-Base")),
        (("--size", "8b", "--recipes", "recipes/nano"), "size-not-of-recipes", ("SIZE=8b", "recipes/nano")),
        (("--size", "8b", "--recipes", "recipes/qwen3-4b"), "size-not-of-recipes", ("SIZE=8b", "recipes/qwen3-4b")),
        (("--recipes", "recipes/qwen3-8b", "--model", "Qwen/Qwen3-4B-Base"), "size-not-of-model", ("SIZE=8b",)),
    ],
)
def test_what_disagrees_is_refused(words, code, quoted):
    with raises(code, *quoted):
        picked("--vram", "24", *words)


def test_a_copy_of_a_model_is_of_its_size(tmp_path):
    widths = sizes.QWEN3["4b"][2]
    config = {
        "hidden_size": widths.hidden, "intermediate_size": widths.intermediate, "num_hidden_layers": widths.layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": widths.vocab,
        "tie_word_embeddings": True, "model_type": "qwen3",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert picked("--size", "4b", "--model", str(tmp_path)) == ("qwen3", "4b")
    with raises("size-not-of-model", tmp_path, "SIZE=8b"):
        picked("--size", "8b", "--model", str(tmp_path))


@pytest.mark.parametrize(
    "words",
    ["--recipes recipes/qwen3-4b", f"--recipes {RECIPES}/qwen3-4b", "recipes/qwen3-4b", "recipes/qwen3-4b/phase1.yaml"],
)
def test_the_name_of_a_former_folder_is_folder_and_size(words, tmp_path, capsys):
    assert cli.main(["plan", *words.split(), "--out", str(tmp_path / "run"), "--vram", "16"]) == 0
    text = capsys.readouterr().out
    assert text.count("recipes/qwen3-4b is now ") == text.count("recipes/qwen3 with SIZE=4b\n") == 1
    assert "Model      Qwen/Qwen3-4B-Base" in text
    assert picked("--recipes", "recipes/qwen3-4b", "--model", "my/own") == ("qwen3", "4b")
    assert picked("--recipes", "recipes/qwen3-4b", "--size", "4b") == ("qwen3", "4b")


def test_a_former_folder_that_is_there_is_taken_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(QWEN3, "recipes/qwen3-4b")
    assert picked("--recipes", "recipes/qwen3-4b") == ("qwen3-4b", None)
    assert capsys.readouterr().out == ""


def test_a_size_may_have_recipes_of_its_own(tmp_path):
    folder = shutil.copytree(QWEN3, tmp_path / "qwen3")
    text = (QWEN3 / "phase1.yaml").read_text()
    (folder / "phase1-0.6b.yaml").write_text(text.replace("learning_rate: 2e-4", "learning_rate: 5e-4"))
    rates = {size: load_run(folder, size=size)["phase1"].optimizer.learning_rate for size in sizes.QWEN3}
    assert rates == dict.fromkeys(sizes.QWEN3, 2e-4) | {"0.6b": 5e-4}
    changed = load_run(folder, size="0.6b", overrides={"phase1": ["seed=3"]})["phase1"]
    assert (changed.seed, changed.model, changed.out) == (3, "Qwen/Qwen3-0.6B-Base", "runs/qwen3-0.6b/phase1")


def test_the_next_command_keeps_the_size_and_make_passes_it_on(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "run_step", lambda recipe: {})
    monkeypatch.setattr("nsllm_lite.commands.stories.plan", lambda *given: {})
    assert cli.main(["phase1", "--size", "4b", "--out", str(tmp_path)]) == 0
    assert f"Next: make phase2 SIZE=4b OUT={tmp_path}\n" in capsys.readouterr().out
    *_, line = make(RECIPES.parent, "-n", "plan", "SIZE=4b", "CORPUS=papers")
    args = build_parser().parse_args(shlex.split(line)[1:])
    assert (args.verb, args.size, args.corpus) == ("plan", "4b", "papers")


def test_a_changed_model_of_the_reference_is_not_hidden_by_a_size(tmp_path):
    folder = shutil.copytree(QWEN3, tmp_path / "qwen3")
    path = folder / "phase1.yaml"
    path.write_text(path.read_text().replace("model: Qwen/Qwen3-8B-Base", "model: my/own"))
    with raises("model-of-recipe-changed", path, "my/own", "Qwen/Qwen3-4B-Base"):
        load_run(folder, size="4b")
    assert load_run(folder, model="my/own", size="4b")["phase1"].model == "my/own"


def test_paths_that_a_recipe_states_are_said_not_to_be_read(tmp_path, capsys):
    """As those of a folder written for an earlier version do; its corpus says where the run is written."""
    folder = shutil.copytree(RECIPES / "nano", tmp_path / "nano")
    load_run(folder)
    assert capsys.readouterr().out == ""
    for name, stated in (("corpus", "out: runs/old/corpus"), ("phase1", "rows: elsewhere\nmodel: x")):
        with open(folder / f"{name}.yaml", "a") as file:
            file.write(f"{stated}\n")
    assert load_run(folder)["phase1"].rows == "runs/old/corpus/rows/phase1/train"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{folder}/phase1.yaml: rows ")
