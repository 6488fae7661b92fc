"""Inputs that lie elsewhere are the same inputs, where hashes tell so."""

import shutil
from pathlib import Path

import pytest

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import BESIDE, finished
from nsllm_lite.corpus import build as corpus
from nsllm_lite.evals.evaluate import base_beside
from nsllm_lite.formats.weights import fingerprint_settings
from nsllm_lite.merge import partial
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train.cpt import train
from tests.conftest import pico_values
from tests.paths import load_whole
from tests.raising import raises

NANO = Path(__file__).parents[2] / "recipes/nano"


@pytest.fixture
def moved(pico, tmp_path):
    """A function that copies the pico folder and gives a recipe of 4 steps on the copy."""

    def to(name: str):
        place = shutil.copytree(pico, tmp_path / name, dirs_exist_ok=True)
        values = pico_values(place, tmp_path / "out")
        values["budget"] |= {"steps": 4, "tokens": 4 * values["budget"]["tokens_per_step"]}
        return recipes.validate(values, "x")

    return to


def test_a_run_whose_inputs_were_moved_goes_on_and_stays_finished(moved, tmp_path, stop_before, capsys):
    stop_before(train, moved("here"), 3)
    there = moved("there")
    shutil.rmtree(tmp_path / "here")
    results = train(there)
    assert train(moved("elsewhere")) == results
    assert ": finished, skipped" in capsys.readouterr().out
    assert read_json(tmp_path / "out/manifest.json")["recipe"]["model"] == str(tmp_path / "there/base")
    other = moved("other")
    config = Path(other.model) / "tokenizer_config.json"
    config.write_text(config.read_text().replace("{", '{"chat_template": "x", ', 1))
    with raises(
        "finished-result-differs", "recipe.model, recipe.replay"
    ):  # which the hash of the weights does not tell
        train(other)


def test_a_manifest_without_the_newer_hashes_is_finished_where_its_inputs_lie(moved, tmp_path):
    recipe = moved("here")
    made = recipes.identity(recipe)
    hashes = {"base": "b", "rows": "r", f"{BESIDE}base": "s"}
    older = {"base": "b", "rows": "r"}
    manifest = {"verb": "train", "recipe": made, "inputs": older, "results": {"tokens": 1}}
    write_json(tmp_path / "out/manifest.json", manifest)
    assert finished(tmp_path / "out", made, hashes) == {"tokens": 1}
    with raises("finished-result-differs", "changed: recipe.model)"):
        finished(tmp_path / "out", made | {"model": "elsewhere"}, hashes)
    write_json(tmp_path / "out/manifest.json", manifest | {"inputs": hashes})
    with raises("finished-result-differs", f"changed: {BESIDE}base)"):  # another chat template, say
        finished(tmp_path / "out", made, hashes | {f"{BESIDE}base": "t"})
    with raises("finished-result-differs", "changed: recipe.seed, rows)"):
        finished(tmp_path / "out", made | {"seed": 9}, hashes | {"rows": "x"})


def test_a_key_that_a_later_version_knows_and_nobody_sets_changes_nothing(tmp_path):
    recipe, inputs = {"kind": "corpus", "sources": [{"name": "s", "fields": {"title": "t", "doi": None}}]}, {"s": "1"}
    older = {"kind": "corpus", "sources": [{"name": "s", "fields": {"title": "t"}}]}
    write_json(tmp_path / "manifest.json", {"verb": "corpus", "recipe": older, "inputs": inputs, "results": {}})
    assert finished(tmp_path, recipe, inputs) == {}
    for sources in ([{"name": "s", "fields": {"title": "t", "doi": "d"}}], [{"name": "s", "fields": None}], None):
        with raises("finished-result-differs", "changed: recipe.sources)"):
            finished(tmp_path, recipe | {"sources": sources}, inputs)


def test_only_paths_whose_contents_are_hashed_are_left_out():
    values = {
        "kind": "merge", "base": "B", "heldout_rows": "H", "base_weights": "auto",
        "adapter": [{"path": "A", "weight": 0.5}],
    }  # fmt: skip
    left = {"kind": "merge", "base_weights": "auto", "adapter": [{"weight": 0.5}]}
    assert recipes.without_paths(values) == left
    asked = {"kind": "eval", "encoder": "E", "files": [{"name": "f", "task": "open", "path": "p"}], "models": []}
    assert recipes.without_paths(asked) == asked | {"files": [{"name": "f", "task": "open"}]}
    assert recipes.without_paths({"kind": "dance", "rows": "r"}) == {"kind": "dance", "rows": "r"}


def test_an_unfinished_corpus_of_moved_sources_goes_on(tmp_path):
    def begun(place: str, **changes) -> bool:
        """Whether what an earlier process has read is still there."""
        words = [f"sources=[{{name: s, path: {tmp_path}/{place}, format: text}}]", f"out={tmp_path}/corpus"]
        corpus.begin(recipes.update(load_whole(NANO / "corpus.yaml", words), **changes))
        return (tmp_path / "corpus" / "work" / "kept").is_file()

    (tmp_path / "here").mkdir()
    (tmp_path / "here/a.txt").write_text("Some text.")
    assert not begun("here")
    (tmp_path / "corpus" / "work" / "kept").write_text("")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert begun("there")
    assert not begun("there", min_chars=7)


def test_an_unfinished_merge_of_moved_inputs_goes_on(tmp_path):
    recipe = {"kind": "merge", "base": "B", "adapter": "A", "base_weights": "original"}
    identity = {"recipe": recipe, "inputs": {"base": "b", "adapter": "a", f"{BESIDE}base": "s"}, "version": "1"}
    marker = tmp_path / "merging.json"
    assert not partial._goes_on(marker, identity)
    write_json(marker, identity)
    moved = identity | {"recipe": recipe | {"base": "elsewhere", "adapter": "there"}}
    assert partial._goes_on(marker, moved)
    assert not partial._goes_on(marker, moved | {"inputs": identity["inputs"] | {"adapter": "x"}})
    assert not partial._goes_on(marker, identity | {"version": "2"})


def test_an_adapter_of_another_strength_or_base_is_evaluated_anew(pico, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_json(adapter / "adapter_config.json", {"lora_alpha": 8, "base_model_name_or_path": str(pico / "base")})
    before = fingerprint_settings(adapter)
    assert base_beside(adapter) == pico / "base"
    write_json(adapter / "adapter_config.json", {"lora_alpha": 800, "base_model_name_or_path": "org/name"})
    assert fingerprint_settings(adapter) != before
    assert base_beside(adapter) is base_beside(pico / "base") is None
