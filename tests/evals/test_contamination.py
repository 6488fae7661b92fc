"""A score is called doubtful where the model's own corpus may hold what it is asked."""

from pathlib import Path

import pytest

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.artifact.lineage import corpora_behind
from nsllm_lite.artifact.step import manifest_sha256
from nsllm_lite.evals.evaluate import warnings_of
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import Eval


def manifest(folder: Path, made_by: dict, inputs: dict | None = None, verb: str | None = None) -> None:
    kinds = {"rows": "train", "adapter": "merge", "sources": "corpus"}
    verb = verb or next((kind for key, kind in kinds.items() if key in made_by), "tasks")
    write_json(folder / "manifest.json", {"verb": verb, "recipe": made_by, "inputs": inputs or {}, "results": {}})


@pytest.fixture
def chain(tmp_path) -> Path:
    """corpus -> base of general text -> phase 1 -> model1 -> phase 2, as the verbs leave them."""
    corpus = tmp_path / "corpus"
    known = [str(tmp_path / "known.json")]
    manifest(corpus, {"sources": [{"name": "s", "path": "papers/"}], "decontaminate": known})
    rows = f"{corpus}/rows"
    manifest(tmp_path / "base", {"rows": f"{rows}/general/train", "model": None})
    manifest(tmp_path / "phase1", {"rows": f"{rows}/phase1/train", "model": str(tmp_path / "base/model")})
    manifest(tmp_path / "model1", {"base": str(tmp_path / "base/model"), "adapter": str(tmp_path / "phase1/adapter")})
    manifest(tmp_path / "phase2", {"rows": f"{rows}/phase2/train", "model": str(tmp_path / "model1")})
    return tmp_path


def asked(folder: Path, model: str, tasks: str | None = None, *files: str) -> Eval:
    own = [{"name": name, "task": "open", "path": str(folder / name)} for name in files]
    values = {"kind": "eval", "out": "x", "seed": 0, "tasks": tasks, "files": own}
    return recipes.validate(values | {"models": [{"name": "m", "path": str(folder / model)}]}, "x")


def test_the_corpora_behind_a_model(chain):
    def corpora(model: str) -> list[Path]:
        return [corpus.folder for corpus in corpora_behind(model)]

    assert corpora(str(chain / "phase2/adapter")) == [chain / "corpus"]
    assert corpora(str(chain / "model1")) == [chain / "corpus"]
    assert corpora(str(chain / "base/model")) == []  # it read no paper
    assert corpora("Qwen/Qwen3-8B") == []


def test_a_file_that_the_corpus_was_not_cleared_of(chain):
    assert warnings_of(asked(chain, "model1", None, "known.json")) == []
    (warning,) = warnings_of(asked(chain, "model1", None, "known.json", "new.json"))
    assert "was not decontaminated against" in warning
    assert "new.json" in warning
    assert "the run's eval.yaml before" in warning
    assert warnings_of(asked(chain, "base/model", None, "new.json")) == []


def test_an_encoder_is_doubted_on_its_own_files_alone(chain):
    manifest(chain / "encoder", {"rows": f"{chain}/corpus/rows/phase1/train", "kind": "mlm"}, verb="mlm")
    recipe = asked(chain, "encoder", None, "known.json", "new.json", "others.json")
    own = [str(chain / name) for name in ("known.json", "new.json")]
    (warning,) = warnings_of(recipe, {"m": own})
    assert "new.json: papers" in warning
    assert "others.json" not in warning
    assert "`encoder-corpus.decontaminate` before" in warning
    assert "eval.yaml" not in warning
    assert warnings_of(recipe, {"m": own[:1]}) == warnings_of(recipe, {"m": []}) == []


def test_tasks_of_another_corpus_or_of_the_papers_trained_on(chain):
    manifest(chain / "tasks", {}, {"corpus": manifest_sha256(chain / "corpus")})
    assert warnings_of(asked(chain, "model1", str(chain / "tasks"))) == []
    manifest(chain / "tasks", {}, {"corpus": "another"})
    assert "were made from another corpus" in warnings_of(asked(chain, "model1", str(chain / "tasks")))[0]
    # the bundled tasks, for a model of the bundled papers
    assert warnings_of(asked(chain, "model1", "bundled")) == []
    manifest(chain / "corpus", {"sources": [{"name": "s", "path": "bundled:papers"}], "decontaminate": []})
    assert "trained on the bundled sample" in warnings_of(asked(chain, "model1", "bundled"))[0]


def test_tasks_of_gold_answers_are_doubted_by_their_test_files(chain):
    gold = [{"task": "doping", "train": ["new.json"], "test": [str(chain / "known.json"), "bundled:doping.jsonl"]}]
    manifest(chain / "tasks", {"gold": gold}, {"gold:doping:test:1": "hash"})
    assert warnings_of(asked(chain, "model1", str(chain / "tasks"))) == []
    gold[0]["test"].append("other.json")
    manifest(chain / "tasks", {"gold": gold}, {"gold:doping:test:1": "hash"})
    (warning,) = warnings_of(asked(chain, "model1", str(chain / "tasks")))
    assert "was not decontaminated against other.json: papers" in warning
