"""The encoders' story end to end: bundled corpus to embeddings and a classifier, with a few steps each."""

import json
import re
import shlex
from pathlib import Path

import pytest
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
)

from nsllm_lite import cli
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.commands.arguments import build_parser
from nsllm_lite.commands.encoder_run import labelled_by_papers, load_encoder_run
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


@pytest.mark.slow
def test_from_the_sample_to_a_classifier_and_again(tmp_path, capsys):
    out = tmp_path / "run"
    for _ in range(2):
        assert cli.main(["encoder", "--out", str(out), *FEW]) == 0
    text = capsys.readouterr().out
    for name in ("corpus", "tokenizer", "mlm", "distill", "embed", "embed-small", "tasks", "finetune"):
        assert f"{out}/{name}: finished, skipped" in text
    assert f"Done: {out}\n" in text
    assert "| word before |" in (out / "mlm/report.md").read_text()
    assert "Floor, a student" in (out / "distill/report.md").read_text()
    assert "| this one | 512 |" in (out / "tokenizer/fertility.md").read_text()
    for line in re.findall(r"nsllm-lite (?:finetune|eval|show) .*", text):
        build_parser().parse_args(shlex.split(line)[1:])

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
    body = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    for is_body, folder in ((True, tmp_path / "body"), (False, tmp_path / "whole")):
        (body if is_body else BertForMaskedLM(body.config)).save_pretrained(folder)
        run = load_encoder_run(ROOT / "recipes/nano", model=str(folder), out="x", corpus=str(tmp_path))
        assert asked[-1] == run["corpus"].tokenizer == run["mlm"].model == str(folder)
        assert (run["corpus"].train_tokenizer, run["corpus"].end_of_text) == (None, "[SEP]")
        assert [source.path for source in run["corpus"].sources] == [str(tmp_path)]
        assert run["mlm"].build is None
        assert run["mlm"].new_head == is_body, "a head is drawn where none is stored"


def write_tasks(folder: Path, **labels: list[str]) -> None:
    """A finished step of tasks with these labels in both splits."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for task, given in labels.items():
            lines = [json.dumps({"input": f"text {n}", "output": label}) for n, label in enumerate(given)]
            (folder / split / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "manifest.json").write_text("{}")


def test_the_classifier_learns_what_the_papers_state(tmp_path):
    recipe = load_encoder_run(ROOT / "recipes/nano", out=str(tmp_path))["finetune"]
    assert labelled_by_papers(recipe) == recipe, "the tasks are not made yet"
    write_tasks(tmp_path / "tasks", title=["a"], classification=["physics", "physics"])
    assert labelled_by_papers(recipe) is None, "one discipline is nothing to tell apart"
    write_tasks(tmp_path / "tasks", classification=["physics", "biology"])
    assert labelled_by_papers(recipe).test == f"{tmp_path}/tasks/test/classification.jsonl"
    write_tasks(tmp_path / "tasks", moves=["Methods", "Results"])
    assert labelled_by_papers(recipe).data == [f"{tmp_path}/tasks/train/moves.jsonl"]
    own = {"finetune": ["data=[mine.csv]", "test=other.csv"]}
    recipe = load_encoder_run(ROOT / "recipes/nano", out=str(tmp_path), overrides=own)["finetune"]
    assert (recipe.data, recipe.test) == (["mine.csv"], "other.csv")
    assert labelled_by_papers(recipe) == recipe


def test_what_the_story_cannot_do_is_refused(tmp_path, capsys):
    with raises("encoder-recipes-missing", "mlm.yaml"):
        load_encoder_run(ROOT / "recipes/qwen3")
    with raises("setting-step-unknown", "mlm.budget.steps"):
        load_encoder_run(ROOT / "recipes/nano", overrides={"mln": ["budget.steps=3"]})
    with raises("setting-path-derived", "mlm.rows"):
        load_encoder_run(ROOT / "recipes/nano", overrides={"mlm": ["rows=mine"]})
    assert cli.main(["encoder", "--only", "merge"]) == 2
    assert "[only-matches-no-step]" in capsys.readouterr().err
