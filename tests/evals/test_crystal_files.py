"""Instruction files of crystals: splits that share no formula, every structure is accounted for."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nsllm_lite import cli
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.evals.crystal_files import make_crystals, with_replacements
from nsllm_lite.evals.evaluate import evaluate
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.crystals import Crystals
from nsllm_lite.recipe.evals import CRYSTAL_TASKS
from nsllm_lite.science.crystal import Crystal, as_structure, decode
from nsllm_lite.tasks.task import all_tasks
from tests.raising import raises
from tests.science.test_structure_files import P1, POINTER
from tests.tasks.test_crystals import SITES, perovskite

SPLITS = ("train", "test")
FIRST, SECOND = ("Ca", "Sr", "Ba", "Pb"), ("Ti", "Zr", "Hf", "Sn", "V")


def structures(folder: Path) -> Path:
    """20 cubic perovskites, one of them twice, one of them also with atoms off their places, and four that are none."""
    for number, (a, b) in enumerate((a, b) for a in FIRST for b in SECOND):
        crystal = perovskite(a, b, 3.6 + 0.05 * number).crystal
        (folder / f"{a}{b}.cif").write_text(as_structure(crystal).to(fmt="cif"))
    (folder / "twin.cif").write_text((folder / "SrTi.cif").read_text())
    places = ((0, 0, 0), (0.5, 0.5, 0.6), *SITES[2:])
    tetragonal = Crystal((4.0, 4.0, 4.3), (90, 90, 90), ("Sr", "Ti", "O", "O", "O"), places)
    (folder / "tetragonal.cif").write_text(as_structure(tetragonal).to(fmt="cif"))
    (folder / "broken.cif").write_text(P1.replace("5.64", "?"))
    (folder / "pointer.cif").write_text(POINTER)
    flat = Crystal((4.0, 4.0, 4.0), (90, 90, 90), ("O",), ((0, 0, 0.0),))
    (folder / "flat.cif").write_text(as_structure(flat).to(fmt="cif").replace("4.0", "0.3", 1))
    slight = Crystal((4.0, 4.0, 4.0), (90, 90, 90), ("O", "S"), ((0, 0, 0), (0.5, 0.5, 0.486)))  # 0.056 Å off
    (folder / "slight.cif").write_text(as_structure(slight).to(fmt="cif"))
    return folder


def recipe_of(folder: Path, out: Path, **changes) -> Crystals:
    values = {"kind": "crystals", "out": str(out), "structures": [str(folder)], "layout": "default"}
    return recipes.validate(values | {"test_share": 0.2, "max_per_task": 99, "seed": 0, **changes}, "x")


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return structures(tmp_path_factory.mktemp("structures"))


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("made") / "out"
    return out, make_crystals(recipe_of(folder, out))


def test_no_formula_of_test_is_in_train_and_every_structure_is_accounted_for(made):
    out, results = made
    all_items = {(split, task): records(out / split / f"{task}.jsonl") for split in SPLITS for task in CRYSTAL_TASKS}
    documents = {
        split: {one["document"] for task in CRYSTAL_TASKS for one in all_items[split, task]} for split in SPLITS
    }
    assert len(documents["test"]) == 4  # a fifth of 21 formulas
    assert len(documents["train"]) == 17
    assert not documents["train"] & documents["test"]
    shown = json.dumps([items for (split, _), items in all_items.items() if split == "train"])
    assert not [formula for formula in documents["test"] if f'"{formula}' in shown]
    found = records(out / "structures.jsonl")
    left_out = {one["name"]: one["reason"] for one in records(out / "left_out.jsonl")}
    assert left_out == {
        "twin": "written as another one is", "broken": "a file that cannot be read",
        "pointer.cif": "a Git LFS pointer in place of the file", "flat": "atoms less than 0.5 Å apart",
    }  # fmt: skip
    assert len(found) + len(left_out) == 26
    assert results["structures"] == Counter(one["split"] for one in found)
    assert results["left_out"] == Counter(left_out.values())
    for task, counts in results["tasks"].items():
        for split in SPLITS:
            assert counts[split] == len(all_items[split, task])
        assert counts["train"] + counts["test"] + sum(counts["left_out"].values()) == len(found), task
    names = [one["id"] for items in all_items.values() for one in items]
    assert len(set(names)) == len(names)


def test_what_replaces_an_element_is_learnt_from_train_alone(made):
    out, _ = made
    found = records(out / "structures.jsonl")
    split_of = {frozenset(decode(one["text"]).crystal.elements): one["split"] for one in found}
    texts = {split: records(out / split / "crystal_replacements.jsonl") for split in SPLITS}
    assert texts["train"]
    for split, items in texts.items():
        for one in items:
            text, element = one["input"].split("\n\nElement: ")
            (a,), (b,) = ({*decode(text).crystal.elements} & {*row} for row in (FIRST, SECOND))
            others = {new: {new, b, "O"} for new in FIRST} if element == a else {new: {a, new, "O"} for new in SECOND}
            seen = {new for new, kinds in others.items() if split == "test" or split_of[frozenset(kinds)] == "train"}
            assert set(one["output"].split(", ")) == seen - {element}


def test_another_number_of_atoms_or_structure_is_no_replacement():
    one, other = perovskite("Ca", "Ti", 3.9), perovskite("Sr", "Ti", 3.9)
    tetragonal = other._replace(symmetry=other.symmetry._replace(prototype="another"))
    twice = perovskite("Sr", "Zr", 3.9)  # differs in two elements
    swapped = perovskite("Ti", "Ca", 3.9)
    for seen, expected in (([other], ["Sr"]), ([tetragonal], []), ([twice], []), ([swapped], [])):
        (found,) = with_replacements([one], [one, *seen])
        assert found.replacements["Ca"] == expected


def test_structure_types_can_be_held_out_too(folder, tmp_path):
    results = make_crystals(recipe_of(folder, tmp_path / "out", split="prototype", test_share=0.5))
    found = records(tmp_path / "out/structures.jsonl")
    for key in ("prototype", "document"):
        values = {split: {one[key] for one in found if one["split"] == split} for split in SPLITS}
        assert values["train"]
        assert values["test"]
        assert not values["train"] & values["test"], key
    assert results["left_out"].get("its formula is in test", 0) == 1  # SrTiO3 is of both types


def test_the_same_call_gives_the_same_bytes_and_a_finished_one_skips_itself(folder, made, tmp_path, capsys):
    out, results = made
    make_crystals(recipe_of(folder, tmp_path / "again"))
    files = sorted(path.relative_to(out) for path in out.rglob("*.jsonl"))
    assert len(files) == 26
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    capsys.readouterr()
    assert make_crystals(recipe_of(folder, out)) == results
    assert "finished, skipped" in capsys.readouterr().out
    assert read_manifest(out)["verb"] == "crystals"
    with raises("finished-result-differs", "layout"):
        make_crystals(recipe_of(folder, out, layout="llamat"))
    few = make_crystals(recipe_of(folder, tmp_path / "few", max_per_task=3, seed=1))
    counts = few["tasks"]["crystal_atoms"]
    assert (counts["train"], counts["test"]) == (3, 3)
    assert counts["left_out"] == {"max_per_task": len(records(tmp_path / "few/structures.jsonl")) - 6}


def test_rounding_that_changes_the_space_group_leaves_the_crystal_out(folder, tmp_path):
    """With two decimals 0.486 is 0.49: 0.04 Å off its place, where 0.05 are allowed each of two atoms."""
    results = make_crystals(recipe_of(folder, tmp_path / "out", layout="llamat"))
    reason = "its space group changes with the rounding"
    (one,) = (one for one in records(tmp_path / "out/left_out.jsonl") if one["reason"] == reason)
    assert one["name"] == "slight"
    assert results["left_out"][reason] == 1


def test_links_are_accounted_for_and_a_finished_folder_of_them_skips_itself(folder, tmp_path, capsys):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("CaTi", "SrTi", "BaTi", "absent"):
        (linked / f"{name}.cif").symlink_to(folder / f"{name}.cif")
    (linked / "all").symlink_to(folder)
    results = make_crystals(recipe_of(linked, tmp_path / "out"))
    assert results["structures"] == {"train": 2, "test": 1}
    assert results["left_out"] == {"a link to nothing": 1, "a link to a folder": 1}
    capsys.readouterr()
    assert make_crystals(recipe_of(linked, tmp_path / "out")) == results
    assert "finished, skipped" in capsys.readouterr().out


def test_too_few_formulas_are_told_with_what_was_left_out(folder, tmp_path):
    for names, code, quoted in (
        (["SrTi.cif", "tetragonal.cif"], "crystals-too-few", "1 reduced"),
        (["SrTi.cif", "twin.cif", "broken.cif"], "crystals-too-few", "cannot be read: 1"),
    ):
        with raises(code, quoted):
            make_crystals(recipe_of(folder, tmp_path / "out", structures=[str(folder / name) for name in names]))
    two = [str(folder / name) for name in ("SrTi.cif", "tetragonal.cif")]
    with raises("crystals-all-in-test", "prototype"):
        make_crystals(recipe_of(folder, tmp_path / "out", structures=two, split="prototype"))


def test_the_command(folder, tmp_path, capsys):
    words = ["crystals", "recipes/nano/crystals.yaml", f"structures=[{folder}]", f"out={tmp_path / 'out'}"]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "crystal_of_formula" in text
    assert "left out: a Git LFS pointer in place of the file: 1" in text


def test_a_folder_of_them_is_scored_between_its_floors(made, talker, tmp_path, monkeypatch):
    """The untrained model writes no crystal; every answer counts."""
    for task in all_tasks().values():
        monkeypatch.setitem(task.__dict__, "new_tokens", min(task.new_tokens, 16))
    values = {"kind": "eval", "seed": 0, "models": [{"name": "m", "path": str(talker)}], "execution": {"device": "cpu"}}
    values |= {"out": str(tmp_path / "scores"), "tasks": str(made[0]), "max_items": 2}
    results = evaluate(recipes.validate(values, "x"))
    assert [one["name"] for one in results["sets"]] == [*CRYSTAL_TASKS]
    scored = {one["set"]: one for one in results["scores"]}
    assert scored["crystal_of_formula"]["as_asked"]["value"] == 0
    assert scored["crystal_of_formula"]["unread"] == 2
    floors = {one["name"]: one["floors"] for one in results["sets"]}
    assert next(iter(floors["crystal_of_formula"].values()))["as_asked"] == 1
    assert "as asked, atoms apart" in (tmp_path / "scores/report.md").read_text()
