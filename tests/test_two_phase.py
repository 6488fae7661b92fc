"""The front door end to end: bundled corpus, base, two phases, merges and report, with a few steps each."""

import json
from pathlib import Path

import pytest

from nsllm_lite import cli
from nsllm_lite.artifact.step import manifest_sha256, read_manifest
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.tasks import scores
from tests.corpus.small import paper, write_lines
from tests.train.test_sft import make_home

ROOT = Path(__file__).parents[1]
FEW = (ROOT / "tests/data/few_steps.txt").read_text().splitlines()


def documents_of(folder: Path) -> set[str]:
    rows = Rows(folder)
    return {name for number in range(len(rows)) for name in rows[number].doc_ids}


@pytest.fixture
def nsllm(monkeypatch, capsys):
    """Calls the command line from the project's folder, checks its exit status and returns its output."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(scores, "RESAMPLES", 100)
    monkeypatch.setattr(scores, "PERMUTATIONS", 200)

    def call(*words: str | Path, status: int = 0) -> str:
        ended = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        assert ended == status, captured.out + captured.err
        return captured.out + captured.err

    return call


def test_from_the_sample_to_the_report_and_again(nsllm, tmp_path):
    out = tmp_path / "run"
    text = nsllm("phase1", "--out", out, *FEW)
    assert "make phase1 CORPUS=path/to/your/papers" in text
    assert f"Next: make phase2 OUT={out}" in text
    nsllm("phase2", "--out", out, *FEW)
    text = nsllm("two-phase", "--out", out, *FEW)
    for name in ("corpus", "base", "phase1", "model1", "phase2", "model2"):
        assert f"{out}/{name}: finished, skipped" in text
    assert "| phase 2: NF4(merged) |" in text

    # instruction tuning of model 2 on training papers only
    text = nsllm("instruct", "--out", out, *FEW)
    assert "held-out answers moves" in text
    assert f"Done: {out}/eval-sft" in text
    tuned = read_manifest(out / "model-sft")
    assert tuned["inputs"]["base"] == fingerprint_weights(out / "model2")
    assert fingerprint_weights(out / "model-sft") != tuned["inputs"]["base"]

    # and the last card tells of all before it
    card = (out / "model-sft/README.md").read_text()
    kinds = ("a model made from nothing", "continued pretraining", "continued pretraining", "instruction tuning")
    assert f"| kind | {' | '.join(kinds)} |" in card
    assert "| sample | Apache-2.0 | 100 | 80 |" in card

    # the lineage holds from the report down to the corpus
    manifests = {name: read_manifest(out / name) for name in ("corpus", "phase1", "model1", "phase2", "report")}
    assert manifests["phase2"]["inputs"]["base"] == fingerprint_weights(out / "model1")
    assert manifests["model1"]["inputs"]["base"] == fingerprint_weights(out / "base/model")
    assert manifests["report"]["inputs"]["model1"] == manifest_sha256(out / "model1")
    ledger = json.loads((out / "corpus/ledger.json").read_text())["documents"]["sample"]
    assert ledger["in"] == 100 == ledger["kept"] + ledger["heldout"] + ledger["duplicate"]

    # the same papers are held out of both phases, and none of them is trained on
    rows = out / "corpus/rows"
    held = documents_of(rows / "phase1/heldout")
    assert len(held) == 20
    assert held == documents_of(rows / "phase2/heldout")
    assert not held & (documents_of(rows / "phase1/train") | documents_of(rows / "phase2/train"))

    # a plain transformers user opens the result
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out / "model2")
    loaded = AutoModelForCausalLM.from_pretrained(out / "model2")
    ids = tokenizer("The ratio was 3 ± 1 µm", return_tensors="pt").input_ids
    assert loaded(ids).logits.shape[-1] == len(tokenizer)
    assert tokenizer.decode(ids[0]) == "The ratio was 3 ± 1 µm"

    # another corpus is not written over this one
    papers = tmp_path / "papers.jsonl"
    write_lines(papers, [paper(0)])
    text = nsllm("phase1", "--corpus", papers, "--recipes", "recipes/nano", "--out", out, *FEW, status=2)
    assert "[finished-result-differs]" in text
    assert f"{out}/corpus" in text


def test_a_users_papers_and_model(nsllm, tmp_path):
    """CORPUS= and MODEL= on the CPU recipes: arXiv JSON lines, and a base model in a folder."""
    papers = tmp_path / "arxiv.jsonl"
    write_lines(papers, [paper(number, categories="q-bio.NC") for number in range(30)])
    base = make_home(tmp_path / "home") / "base"
    words = ["--corpus", papers, "--recipes", "recipes/nano", "--model", base, "--out", tmp_path / "run"]
    words += ["corpus.languages=[]"]  # words of no language
    nsllm("phase1", *words, *(word for word in FEW if not word.startswith(("base", "phase2"))))
    assert read_manifest(tmp_path / "run/phase1")["inputs"]["base"] == fingerprint_weights(base)
    # phase 2: no paper has full text, and it says so before anything long begins
    text = nsllm("phase2", *words, *(word for word in FEW if not word.startswith("base")), status=2)
    assert "[train-rows-empty]" in text


@pytest.mark.slow
def test_each_phase_helps_by_more_than_chance(tmp_path, monkeypatch):
    """The full CPU recipe over three seeds: held-out domain loss falls by more than twice the spread, in each phase."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    import two_phase

    assert two_phase.verdict(two_phase.run_seeds(ROOT / "recipes/nano", tmp_path / "runs", [0, 1, 2]))
