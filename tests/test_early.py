"""What a run needs at its end is asked before it starts."""

import json
import os
import shutil
from pathlib import Path

import pytest

from nsllm_lite.artifact.disk import require_writable
from nsllm_lite.artifact.json_files import read_json, read_object, without_marks
from nsllm_lite.commands.plan import plan
from nsllm_lite.commands.stories import load_run
from nsllm_lite.corpus.build import build
from nsllm_lite.evals.audit import audit
from nsllm_lite.evals.evaluate import evaluate
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, load_tokenizer
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train.cpt import train
from tests.conftest import pico_values
from tests.paths import load_whole
from tests.raising import raises

CONTRADICTION = {"do_sample": False, "temperature": 0.6}
NANO = Path(__file__).parents[1] / "recipes/nano"
MARK = b"\xef\xbb\xbf"


@pytest.fixture
def base(pico, tmp_path):
    return shutil.copytree(pico / "base", tmp_path / "base")


def whole_model(pico, base, out):
    """A training of all weights, of two steps."""
    values = pico_values(pico, out) | {"model": str(base), "adapter": None, "quantisation": "none"}
    values["budget"] = {"steps": 2, "tokens_per_step": 256, "tokens": 512}
    return recipes.validate(values | {"schedule": {"shape": "constant", "warmup_steps": 0}}, "x")


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_a_generation_config_that_could_not_be_saved(pico, base, tmp_path, name):
    stated = json.loads((base / name).read_text())
    (base / "generation_config.json").unlink()
    (base / name).write_text(json.dumps(stated | CONTRADICTION))
    with raises("generation-config-invalid", base / name, "temperature"):
        train(whole_model(pico, base, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    run = load_run(NANO, model=str(base), out=str(tmp_path / "run"))
    phase1 = run["phase1"].model_copy(update={"adapter": None, "quantisation": "none"})
    with raises("generation-config-invalid", base / name):
        plan(run | {"phase1": phase1}, "as asked")


def test_a_model_of_files_with_marks_is_trained_and_keeps_all_of_its_tokenizer(pico, base, tmp_path):
    (base / "chat_template.jinja").write_text("{{ messages }}")
    stops = {"eos_token_id": [0, 7]}
    (base / "generation_config.json").write_text(json.dumps(stops))
    for path in base.glob("*.json"):
        path.write_bytes(MARK + path.read_bytes())
    assert load_tokenizer(base).get_vocab_size() == len(load_auto_tokenizer(base))
    train(whole_model(pico, base, tmp_path / "out"))
    made = tmp_path / "out/model"
    assert load_auto_tokenizer(made).chat_template == "{{ messages }}"
    assert read_json(made / "generation_config.json")["eos_token_id"] == [0, 7]
    with without_marks(made) as same:
        assert same == (made if not (made / "tokenizer.json").read_bytes().startswith(MARK) else same)


def test_an_evaluation_looks_for_all_models_and_the_encoder_before_the_first_answer(pico, base, tmp_path):
    (tmp_path / "open.json").write_text(json.dumps([{"instruction": "", "input": "a b", "output": "c"}] * 2))
    values = {
        "kind": "eval", "out": str(tmp_path / "eval"), "tasks": None, "seed": 0,
        "files": [{"name": "f", "task": "open", "path": str(tmp_path / "open.json")}],
        "models": [{"name": "good", "path": str(pico / "deep")}, {"name": "bad", "path": str(base)}],
    }  # fmt: skip
    with raises("bert-score-no-encoder", tmp_path / "none"):
        evaluate(recipes.validate(values | {"encoder": str(tmp_path / "none")}, "x"))
    for template, code in (
        ("{{ raise_exception('no') }}", "eval-chat-template-refused"),
        ("", "eval-tokenizer-absent"),
    ):
        (base / "chat_template.jinja").write_text(template)
        if not template:
            for path in base.glob("*tokenizer*"):
                path.unlink()
        with raises(code):
            evaluate(recipes.validate(values, "x"))
        assert not (tmp_path / "eval").exists()


def test_a_tokenizer_that_cannot_be_copied_is_refused_before_a_source_is_read(pico, tmp_path):
    folder = shutil.copytree(pico / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "special_tokens_map.json").symlink_to(tmp_path / "secret.json")
    words = [f"tokenizer={folder}", "train_tokenizer=null", "end_of_text=<0>", f"out={tmp_path}/corpus"]
    with raises("model-link-outside", folder / "special_tokens_map.json"):
        build(load_whole(NANO / "corpus.yaml", words))
    assert not (tmp_path / "corpus/work").exists()


def test_a_folder_that_cannot_be_written(pico, tmp_path, monkeypatch):
    assert require_writable(tmp_path / "a/b") == tmp_path
    (tmp_path / "file.json").write_text("[]")
    with raises("out-below-file", tmp_path / "file.json"):
        require_writable(tmp_path / "file.json/out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with raises("out-not-writable", tmp_path):
        audit([tmp_path / "file.json"], tmp_path / "new/found.json")
    with raises("out-not-writable", tmp_path):
        plan(load_run(NANO, out=str(tmp_path / "run")), "as asked")
    with raises("out-not-writable", tmp_path):
        train(recipes.validate(pico_values(pico, tmp_path / "out"), "x"))


def test_files_of_others_are_never_said_to_have_been_whole(tmp_path):
    for name, text in (("config.json", '{"a": 1, "a": 2}'), ("adapter_config.json", "[]"), ("config.json", "{")):
        (tmp_path / name).write_text(text)
        with raises("model-file-wrong", tmp_path / name) as caught:
            read_object(tmp_path / name)
        assert "'a'" in str(caught.value) or "a" not in text
        assert not {"damaged", "restore"} & set(str(caught.value).split())
    (tmp_path / "run.json").write_text("{")
    with raises("file-damaged"):
        read_json(tmp_path / "run.json")
    (tmp_path / "x.json").write_bytes('{"a": "µ"}'.encode("utf-16"))
    assert read_json(tmp_path / "x.json") == {"a": "µ"}
