"""The model card: metadata that the hub can read, nothing that is not known; and sending it all there, if asked."""

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.formats.rows import Rows
from nsllm_lite.merge import card, inputs, push
from nsllm_lite.merge.write_model import merge
from tests.conftest import make_rows
from tests.merge.make import make_recipe
from tests.raising import raises

COUNTS = {"in": 12_345, "kept": 10_000, "duplicate": 2_000, "heldout": 100, "unused": 5}
CORPUS = {
    "recipe": {"kind": "corpus", "languages": ["en", "de"], "decontaminate": ["eval/known.json"]},
    "results": {
        "documents": {"arxiv": {**COUNTS, "dropped": {"short": 200, "withdrawn": 40}}},
        "licences": {"arxiv": "CC0-1.0", "ours|theirs": "not stated"},
        "phases": {"phase1": {"arxiv": {"tokens": {"kept": 7_654_321}}}},
    },
}


def losses(domain: float, general: float) -> dict:
    return {
        name: {"all": {"loss": loss, "bits_per_byte": loss / 4, "tokens": 9}}
        for name, loss in (("domain", domain), ("general", general))
    }


@pytest.fixture
def run_folder(tmp_path, pair) -> Path:
    """corpus -> phase 1 on a hub model, as the verbs leave them; the adapter is that of `pair`."""
    rows = make_rows(tmp_path / "corpus/rows/phase1/train", 3, "arxiv", 0)
    write_json(tmp_path / "corpus/manifest.json", {"verb": "corpus", "inputs": {}, **CORPUS})
    training = {
        "adapter": {"rank": 8, "alpha": 12.0, "rslora": True, "targets": ["q_proj"]}, "rows": str(rows), "seed": 7,
        "model": "Qwen/Qwen3-8B-Base", "quantisation": "nf4", "compute_dtype": "bfloat16",
        "optimizer": {"name": "adamw8bit", "learning_rate": 2e-4}, "schedule": {"shape": "cosine", "warmup_steps": 3},
    }  # fmt: skip
    results = {"tokens": 65_536, "steps": 4, "coverage": 0.25, "domain_tokens": 60_000, "available_tokens": 240_000}
    results |= {"replay_share": 0.05, "heldout": {"before": losses(2.5, 2.0), "after": losses(2.25, 2.1)}}
    manifest = {"verb": "train", "recipe": training, "inputs": {"rows": Rows(rows).sha256}, "results": results}
    write_json(tmp_path / "phase1/manifest.json", manifest)
    (tmp_path / "phase1/adapter").symlink_to(pair[1])
    return tmp_path


@pytest.fixture
def hub_base(pair, monkeypatch):
    """The base of `pair`, as if it had come from the hub under an id, with a card of its own."""
    (pair[0] / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: zh\n---\n# Qwen3-8B-Base\n")
    monkeypatch.setattr(inputs, "resolve_model", lambda name: pair[0])
    yield "Qwen/Qwen3-8B-Base"
    (pair[0] / "README.md").unlink()


def make_card(base: str | Path, adapter: Path, out: Path, **changes) -> ModelCard:
    merge(make_recipe(base, adapter, out, trust_base=True, **changes))
    return ModelCard.load(out / "README.md")


def test_a_card_after_two_phases(run_folder, hub_base, pair):
    first = make_card(hub_base, run_folder / "phase1/adapter", run_folder / "model1", then_requantize=True)
    assert first.data.to_dict() == {
        "base_model": hub_base, "base_model_relation": "finetune", "language": ["de", "en"], "license": "apache-2.0",
        "library_name": "transformers", "pipeline_tag": "text-generation",
        "tags": ["nsllm-lite", "continued-pretraining", "science"],
    }  # fmt: skip
    for words in (
        "`Qwen/Qwen3-8B-Base`, adapted to natural science by 1 phase",
        "Another phase",
        "| licence of the base | apache-2.0 |",
        "| arxiv | CC0-1.0 | 12,345 | 10,000 | 2,000 | 100 | 5 | 240 |",
        "| phase1 | arxiv | 7,654,321 |",
        "licence of ours|theirs",
        "| adapter | rsLoRA, rank 8, alpha 12 |",
        "| optimizer | adamw8bit, learning rate 0.0002 |",
        "| trained on | 65,536 tokens in 4 steps |",
        "| of domain text | 60,000 tokens: 0.25 x the 240,000 there are |",
        "| phase1 | domain | 2.5000 -> 2.2500 | 0.6250 -> 0.5625 |",
        "| phase1 | general | 2.0000 -> 2.1000 | 0.5000 -> 0.5250 |",
        "item of known.json",
        "## Intended use",
        "medical, legal",
    ):
        assert words in first.text, words
    # the second merge knows base and licence from the first one's folder, and both phases
    manifest = read_json(run_folder / "phase1/manifest.json")
    manifest["recipe"] |= {"model": str(run_folder / "model1")}
    write_json(run_folder / "phase2/manifest.json", manifest)
    (run_folder / "phase2/adapter").symlink_to(pair[1])
    second = make_card(run_folder / "model1", run_folder / "phase2/adapter", run_folder / "model2")
    assert second.data.base_model == hub_base
    assert second.data.license == "apache-2.0"
    assert "by 2 phases of" in second.text
    assert "|  | phase1 | phase2 |" in second.text
    assert "| phase2 | domain | 2.5000 -> 2.2500 |" in second.text
    assert second.text.count("12,345") == 1  # one corpus


def test_a_card_says_less_where_less_is_known(copied):
    chosen = copied[2]
    merge(chosen)
    found = ModelCard.load(Path(chosen.out) / "README.md")
    assert found.data.to_dict() == {
        "library_name": "transformers", "license": "unknown", "pipeline_tag": "text-generation", "tags": ["nsllm-lite"],
    }  # fmt: skip
    assert "| licence of the base | not stated by the base |" in found.text
    sections = re.findall(r"^## (.*)$", found.text, re.MULTILINE)
    assert sections == ["Tasks", "Intended use", "Limits", "Disclaimer"]
    assert "science" not in found.text.split("## Tasks")[0]
    assert "No training named here" in found.text


def test_a_card_after_instruction_tuning(run_folder, hub_base):
    manifest = read_json(run_folder / "phase1/manifest.json") | {"verb": "sft"}
    manifest["recipe"]["data"] = ["questions.jsonl"]
    manifest["results"]["heldout"] = {when: {"answers": losses(1, 1)["domain"]} for when in ("before", "after")}
    write_json(run_folder / "phase1/manifest.json", manifest)
    found = make_card(hub_base, run_folder / "phase1/adapter", run_folder / "model1")
    assert "| kind | instruction tuning |" in found.text
    assert "| phase1 | answers | 1.0000 -> 1.0000 |" in found.text
    assert "It was tuned to answer" in found.text


def test_a_corpus_that_was_made_anew_is_not_told_of(run_folder, hub_base):
    make_rows(run_folder / "corpus/rows/phase1/train", 4, "arxiv", 1)
    found = make_card(hub_base, run_folder / "phase1/adapter", run_folder / "model1")
    assert "12,345" not in found.text
    assert found.data.language is None
    assert "| trained on | 65,536 tokens" in found.text  # of the training itself nothing has changed


def test_damaged_manifests_do_not_stop_a_merge(run_folder, hub_base):
    (run_folder / "corpus/manifest.json").write_text("{")
    assert "## Recipe" in make_card(hub_base, run_folder / "phase1/adapter", run_folder / "model1").text
    (run_folder / "phase1/manifest.json").write_text("[]")
    assert "## Recipe" not in make_card(hub_base, run_folder / "phase1/adapter", run_folder / "model").text


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: other\nlicense_name: gemma\nlicense_link: https://x/y", "other (gemma https://x/y)"),
        ("license: [mit, apache-2.0]", "not stated by the base"),
        ("license: {", "not stated by the base"),
        ("tags: [a]", "not stated by the base"),
    ],
)
def test_licences_of_many_kinds(copied, front, expected):
    base, _, chosen = copied
    (base / "README.md").write_text(f"---\n{front}\n---\n")
    merge(chosen)
    text = (Path(chosen.out) / "README.md").read_text()
    assert f"| licence of the base | {expected} |" in text
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["license"] == ("other" if "gemma" in front else "unknown")
    assert ("license_link" in metadata) == ("gemma" in front)


def test_the_base_of_a_hub_cache_has_its_id(tmp_path):
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B-Base/snapshots/abc"
    snapshot.mkdir(parents=True)
    assert card.base_model_of(str(snapshot), snapshot) == "Qwen/Qwen3-0.6B-Base"
    assert card.base_model_of(str(tmp_path), tmp_path) is None


# ------------------------------------------------------------------------------------------------------------ push


class Hub:
    """What is asked of the hub."""

    def __init__(self, monkeypatch):
        self.calls: list[tuple] = []
        self.error: Exception | None = None
        monkeypatch.setattr(push, "HfApi", lambda: self)

    def whoami(self):
        self.calls.append(("whoami",))
        if self.error:
            raise self.error

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options["private"], options["exist_ok"]))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, folder_path, repo_id, **options):
        if self.error:
            raise self.error
        self.calls.append(("upload_folder", repo_id, sorted(path.name for path in folder_path.iterdir())))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return Hub(monkeypatch)


def words_of(chosen) -> list[str]:
    return ["merge", "--base", chosen.base, "--adapter", chosen.adapter, "--out", chosen.out]


def test_nothing_is_sent_unasked(copied, hub):
    assert cli.main(words_of(copied[2])) == 0
    assert hub.calls == []


def test_a_merge_is_sent_when_it_is_whole(copied, hub, capsys):
    assert cli.main([*words_of(copied[2]), "--push-to-hub", "group/model"]) == 0
    assert hub.calls[:2] == [("whoami",), ("create_repo", "group/model", True, True)]
    assert {"README.md", "manifest.json", "model.safetensors"} <= set(hub.calls[2][2])
    assert "Sent to https://hub/group/model" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "group/my model"])
def test_a_wrong_id_is_refused_before_the_merge(copied, hub, capsys, name):
    assert cli.main([*words_of(copied[2]), "--push-to-hub", name]) == 2
    told = capsys.readouterr().err
    assert "[push-id-invalid]" in told
    assert repr(name) in told
    assert not Path(copied[2].out).exists()
    assert hub.calls == []


@pytest.mark.parametrize("error", [LocalTokenNotFoundError("no token"), httpx.ConnectError("hf_secret refused")])
def test_a_login_is_asked_for_before_the_merge_and_never_shown(copied, hub, capsys, error):
    hub.error = error
    assert cli.main([*words_of(copied[2]), "--push-to-hub", "group/model"]) == 2
    told = capsys.readouterr()
    assert "[push-no-login]" in told.err
    assert type(error).__name__ in told.err
    assert "hf_secret" not in told.out + told.err
    assert not Path(copied[2].out).exists()


def test_a_push_that_fails_leaves_the_merge(copied, hub, capsys, monkeypatch):
    monkeypatch.setattr(push, "require_push", lambda *asked: None)
    hub.error = httpx.ConnectError("hf_secret refused")
    assert cli.main([*words_of(copied[2]), "--push-to-hub", "group/model"]) == 3
    told = capsys.readouterr()
    assert "[push-failed]" in told.err
    assert "group/model failed (ConnectError)" in told.err
    assert "hf_secret" not in told.out + told.err
    assert json.loads((Path(copied[2].out) / "manifest.json").read_text())["verb"] == "merge"
    with raises("push-unfinished", copied[0]):
        push.push(copied[0], "group/model")


def test_a_comparison_has_nothing_to_send(copied, hub, capsys):
    assert cli.main([*words_of(copied[2]), "--compare", "--push-to-hub", "group/model"]) == 2
    assert "[push-with-compare]" in capsys.readouterr().err
