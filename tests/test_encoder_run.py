"""The encoders' story end to end: bundled corpus to embeddings and a classifier, with a few steps each."""

from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from nsllm_lite import cli
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.commands.encoder_run import load_encoder_run
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.models.embedding import open_embedder
from tests.raising import raises

ROOT = Path(__file__).parents[1]
STAGE = "[{pairs: [title-abstract], steps: 2, batch_pairs: 8}]"
FEW = ["mlm.budget.steps=3", "mlm.schedule.warmup_steps=1", "distill.budget.steps=2", "distill.schedule.warmup_steps=1"]
FEW += [
    f"{name}.{word}" for name in ("embed", "embed-small") for word in (f"stages={STAGE}", "schedule.warmup_steps=1")
]
FEW += ["finetune.epochs=1", "finetune.train=head", "tasks.max_per_task=40"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_from_the_sample_to_a_classifier_and_again(tmp_path, capsys):
    out = tmp_path / "run"
    for _ in range(2):
        assert cli.main(["encoder", "--out", str(out), *FEW]) == 0
    text = capsys.readouterr().out
    for name in ("corpus", "tokenizer", "mlm", "distill", "embed", "embed-small", "tasks", "finetune"):
        assert f"{out}/{name}: finished, skipped" in text
    assert f"Done: {out}/finetune" in text

    own, twin = out / "mlm/model", out / "distill/model"
    AutoModelForMaskedLM.from_pretrained(own)
    AutoModelForSequenceClassification.from_pretrained(out / "finetune/model")
    inputs = {name: read_manifest(out / name)["inputs"] for name in ("distill", "embed", "embed-small", "finetune")}
    for name in ("distill", "embed", "finetune"):
        assert fingerprint_weights(own) in inputs[name].values(), name
    assert {fingerprint_weights(twin), fingerprint_weights(out / "embed/model")} <= set(inputs["embed-small"].values())
    for name in ("embed", "embed-small"):
        assert open_embedder(out / name / "model").encode(["tin whiskers"]).shape == (1, 128)


def test_an_encoder_that_is_there_gives_tokenizer_and_end_of_text(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("nsllm_lite.commands.encoder_run.end_of_text", lambda model: asked.append(model) or "[SEP]")
    run = load_encoder_run(ROOT / "recipes/nano", model="bert", out="x", corpus=str(tmp_path))
    assert asked == ["bert"]
    assert (run["corpus"].tokenizer, run["corpus"].train_tokenizer, run["corpus"].end_of_text) == (
        "bert",
        None,
        "[SEP]",
    )
    assert [source.path for source in run["corpus"].sources] == [str(tmp_path)]
    assert (run["mlm"].model, run["mlm"].build) == ("bert", None)


def test_what_the_story_cannot_do_is_refused(tmp_path, capsys):
    with raises("encoder-recipes-missing", "mlm.yaml"):
        load_encoder_run(ROOT / "recipes/qwen3")
    with raises("setting-step-unknown", "mlm.budget.steps"):
        load_encoder_run(ROOT / "recipes/nano", overrides={"mln": ["budget.steps=3"]})
    with raises("setting-path-derived", "mlm.rows"):
        load_encoder_run(ROOT / "recipes/nano", overrides={"mlm": ["rows=mine"]})
    assert cli.main(["encoder", "--only", "merge"]) == 2
    assert "[only-matches-no-step]" in capsys.readouterr().err
