"""Without a clone: the recipes in the wheel, a starter project, and the verbs that find both."""

import argparse
import filecmp
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nsllm_lite import cli
from nsllm_lite.commands.arguments import build_parser
from nsllm_lite.commands.init import init
from nsllm_lite.commands.recipe_folder import INSTALLED
from nsllm_lite.models.sizes import SIZED
from tests.paths import paths_of
from tests.raising import fails, raises

ROOT = Path(__file__).parents[2]


def test_the_package_holds_the_recipes_of_the_repository():
    for folder in (INSTALLED, ROOT / "recipes"):
        assert {path.name for path in folder.iterdir()} == {"nano", SIZED, "smollm2", "encoder", "materials"}


def make(folder: Path, *words: str) -> list[str]:
    """The lines that make prints, also where these tests are run by make."""
    of_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in of_make}
    done = subprocess.run(["make", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def parsed(folder: Path, *words: str) -> argparse.Namespace:
    """The one command that make would run."""
    (line,) = make(folder, "-n", *words)
    program, *arguments = shlex.split(line)
    assert program == "nsllm-lite"
    return build_parser().parse_args(arguments)


def test_a_misspelt_variable_starts_nothing(tmp_path):
    assert cli.main(["init", str(tmp_path / "project")]) == 0
    for folder in (ROOT, tmp_path / "project"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            make(folder, "-n", "phase1", "CORPS=papers")
        assert "CORPS" in refused.value.stderr
        assert "--corpus 'papers'" in make(folder, "-n", "phase1", "CORPUS=papers")[-1]


def test_a_starter_project(tmp_path, capsys):
    folder = tmp_path / "project"
    assert cli.main(["init", str(folder), "--recipe", "qwen3"]) == 0
    assert f"cd {folder} && make phase1" in capsys.readouterr().out
    for name in ("nano", "qwen3"):
        files = sorted(path.name for path in (ROOT / "recipes" / name).iterdir())
        same, *others = filecmp.cmpfiles(ROOT / "recipes" / name, folder / "recipes" / name, files, shallow=False)
        assert (same, others) == (files, [[], []])
    assert sorted(os.listdir(folder / "recipes")) == ["nano", "qwen3"]
    assert "runs/" in (folder / ".gitignore").read_text().split()
    readme = (folder / "README.md").read_text()
    assert "recipes/qwen3`" in readme
    assert len(readme.splitlines()) <= 13
    targets = set(re.findall(r"^([a-z0-9-]+):", (folder / "Makefile").read_text(), re.MULTILINE))
    assert targets == {"help", "phase1", "phase2", "two-phase", "eval", "sft", "encoder", "materials", "plan", "doctor"}
    assert set(re.findall(r"make ([a-z0-9-]+)", readme)) <= targets
    assert len(make(folder, "help")) == len(targets)
    for target in targets - {"help"}:
        args = parsed(folder, target)
        assert target == "doctor" or args.recipes == (None if target in ("encoder", "materials") else "recipes/nano")
    assert parsed(folder, "encoder", "CORPUS=p", "RECIPES=recipes/nano").recipes == "recipes/nano"
    given = ("CORPUS=my papers", "OUT=runs/x", "SIZE=14b", "SET=phase1.seed=1 corpus.min_chars=9")
    args = parsed(folder, "two-phase", *given)
    assert (args.verb, args.recipes, args.corpus, args.out) == ("two-phase", "recipes/qwen3", "my papers", "runs/x")
    assert args.size == "14b"
    assert parsed(folder, "plan", "CORPUS=papers").size is None
    assert "SIZE=8b" in (folder / "Makefile").read_text()
    assert args.overrides == ["phase1.seed=1", "corpus.min_chars=9"]


def test_a_starter_project_of_encoders(tmp_path, capsys):
    folder = tmp_path / "project"
    assert cli.main(["init", str(folder), "--recipe", "encoder"]) == 0
    assert f"cd {folder} && make encoder" in capsys.readouterr().out
    args = parsed(folder, "encoder", "CORPUS=p", "MODEL=m", "SET=mlm.seed=1")
    assert (args.verb, args.corpus, args.model, args.overrides) == ("encoder", "p", "m", ["mlm.seed=1"])
    assert parsed(folder, "phase1", "CORPUS=p").recipes == "recipes/qwen3"


def test_a_starter_project_of_materials(tmp_path, capsys):
    """Its story begins with the recipes of the two phases."""
    folder = tmp_path / "project"
    assert cli.main(["init", str(folder), "--recipe", "materials"]) == 0
    assert f"cd {folder} && make materials" in capsys.readouterr().out
    assert sorted(os.listdir(folder / "recipes")) == ["materials", "nano", "qwen3"]
    args = parsed(folder, "materials", "CORPUS=p", "SIZE=4b", "SET=general.steps=9")
    assert (args.verb, args.corpus, args.size, args.overrides) == ("materials", "p", "4b", ["general.steps=9"])


def test_a_starter_project_of_one_size(tmp_path, capsys, monkeypatch):
    """By the name of its former folder: the size is set in the Makefile, where nothing else is asked for."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "project", "--recipe", "qwen3-4b"]) == 0
    assert "qwen3-4b is now qwen3 with SIZE=4b\n" in capsys.readouterr().out
    assert sorted(os.listdir("project/recipes")) == ["nano", "qwen3"]

    def asked(*words: str) -> tuple[str, str | None]:
        args = parsed(tmp_path / "project", "phase1", *words)
        return args.recipes, args.size

    assert asked() == ("recipes/nano", None)
    assert asked("CORPUS=p") == ("recipes/qwen3", "4b")
    assert asked("CORPUS=p", "SIZE=14b") == ("recipes/qwen3", "14b")
    assert asked("CORPUS=p", "MODEL=m") == ("recipes/qwen3", None)
    assert asked("CORPUS=p", "RECIPES=recipes/nano") == ("recipes/nano", None)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "Makefile").write_text("mine")
    with raises("init-file-exists", tmp_path / "Makefile"):
        init(tmp_path, "qwen3")
    assert os.listdir(tmp_path) == ["Makefile"]
    assert (tmp_path / "Makefile").read_text() == "mine"
    with raises("init-recipe-unknown", "--recipe qwen3-8:", "mean qwen3?"):
        init(tmp_path / "new", "qwen3-8")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", [[], ["--recipes", "recipes/nano"], ["recipes/nano"]])
def test_in_an_empty_folder_the_installed_recipes_are_taken(tmp_path, monkeypatch, capsys, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", *words]) == 0
    text = capsys.readouterr().out
    assert f"installed {INSTALLED}/nano" in text
    assert "Machine    CPU" in text
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    assert cli.main(["plan", *words]) == 0
    assert str(INSTALLED) not in capsys.readouterr().out


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """The recipes that commands would run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    recipes = []
    monkeypatch.setattr(cli, "run_step", recipes.append)
    return recipes


def test_single_recipes_are_found_too(seen, capsys):
    assert cli.main(["train", "recipes/nano/phase1.yaml", *paths_of("phase1"), "seed=7"]) == 0
    assert (seen[0].kind, seen[0].seed, seen[0].out) == ("train", 7, "runs/nano/phase1")
    assert cli.main(["merge", "recipes/nano/merge.yaml", *paths_of("merge")]) == 0
    assert capsys.readouterr().out.count(f"{INSTALLED}/nano/") == 2
    assert "recipes/nano/none.yaml." in fails(capsys, "recipe-missing", "train", "recipes/nano/none.yaml")


def test_a_recipe_of_a_former_folder(tmp_path, seen, capsys):
    """It names the file to take; where the folder still is, the file is taken as it is."""
    for folder in ("recipes/qwen3-4b", f"{tmp_path}/recipes/qwen3-4b"):
        text = fails(capsys, "recipe-of-one-size", "train", f"{folder}/phase1.yaml", "seed=7")
        files = (f"{folder}/phase1.yaml", f"{folder.removesuffix('-4b')}/phase1.yaml")
        assert all(words in text for words in (*files, "model=Qwen/Qwen3-4B-Base", "--size 4b"))
    fails(capsys, "recipe-of-one-size", "eval", "recipes/qwen3-4b/eval.yaml")
    assert not seen
    shutil.copytree(ROOT / "recipes/qwen3", tmp_path / "recipes/qwen3-4b")
    assert cli.main(["train", "recipes/qwen3-4b/phase1.yaml", *paths_of("phase1"), "seed=7"]) == 0
    assert seen[0].seed == 7


def test_the_card_chooses_among_the_installed_recipes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--corpus", str(tmp_path), "--vram", "24"]) == 0
    text = capsys.readouterr().out
    assert f"{INSTALLED}/qwen3 " in text
    assert "Model      Qwen/Qwen3-8B-Base" in text
