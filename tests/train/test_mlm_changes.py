"""Encoders changed before they are trained on: what is new alone, two stages, the base as it was, general text."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from nsllm_lite.corpus.tokenizer import train_for_encoder
from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.models import extension
from nsllm_lite.models.causal import collate
from nsllm_lite.models.encoder import PackedEncoder, build_encoder, load_encoder
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.mlm import EncoderShape
from nsllm_lite.recipe.train import Execution
from nsllm_lite.tasks.scores import quotient_interval
from nsllm_lite.train import masked_scores, mlm
from nsllm_lite.train.masking import HELD_OUT, Masking
from tests.raising import raises
from tests.train.conftest import ROW_TOKENS, row_of
from tests.train.test_mlm import SHAPE

TEXT = "copper wires break under tensile load at 300 degrees while tin whiskers do not"


@pytest.fixture(scope="module")
def base_of(encoder_rows, tmp_path_factory):
    """A function to the folder of an untrained model, with dropout and with the limit of its tokenizer stated."""

    def of(architecture="roberta", body=False, **shape) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        local = {"local_attention": 16} if architecture == "modernbert" else {}
        shape = {**SHAPE, **local, **shape, "architecture": architecture, "tokenizer": str(encoder_rows / "tokenizer")}
        model = build_encoder(EncoderShape(**shape), 0)
        model.config.hidden_dropout_prob = 0.1
        (model.base_model if body else model).save_pretrained(folder)
        for path in (encoder_rows / "tokenizer").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        settings = folder / "tokenizer_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": shape["max_positions"]}))
        return folder

    return of


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another tokenizer of bytes, whose 305 tokens differ in part."""
    folder = tmp_path_factory.mktemp("other")
    train_for_encoder([TEXT] * 3, 305, folder)
    return folder


@pytest.fixture
def recipe_of(encoder_rows, tmp_path):
    def made(model, **changes):
        values = yaml.safe_load(Path("recipes/nano/mlm.yaml").read_text())
        steps = changes.pop("steps", 4)
        evaluation = {"domain_rows": str(encoder_rows / "rows/heldout"), "every_steps": 2, "max_rows": 4}
        values |= {
            "out": str(tmp_path / "out"),
            "model": str(model),
            "build": None,
            "rows": str(encoder_rows / "rows/train"),
            "evaluation": evaluation | changes.pop("evaluation", {}),
            "budget": {"steps": steps, "tokens_per_step": 256, "tokens": steps * 256},
            "schedule": {"shape": "constant", "warmup_steps": 0},
            "optimizer": {**values["optimizer"], "weight_decay": 0.5, "learning_rate": 1e-2},
            "checkpoint_steps": 2,
        }
        return recipes.validate(values | changes, "test")

    return made


def tensors_of(out) -> dict[str, torch.Tensor]:
    return load_file(Path(out) / "model/model.safetensors")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_rows_of_new_tokens_are_trained_alone(base_of, other, recipe_of, architecture):
    """All else stays to the last bit, whatever the weight decay."""
    base = base_of(architecture)
    recipe = recipe_of(base, extend_vocabulary=str(other), train_only="new", mask_share=0.6)
    results = mlm.mlm(recipe)
    of = extension.vocabulary_of(base, other, architecture)
    assert results["vocabulary"] == of.counts()
    assert min(of.counts()["shared"], of.counts()["of several"]) > 5
    begun, _ = extension.with_vocabulary(load_encoder(base), of)
    own, new = begun.state_dict(), ~torch.tensor(of.shared)
    for name, tensor in tensors_of(recipe.out).items():
        if len(tensor) != 305:
            assert torch.equal(tensor, own[name]), name
            continue
        assert torch.equal(tensor[~new], own[name][~new])
        assert not torch.equal(tensor[new], own[name][new])


def test_the_base_as_it_was_is_scored_on_the_same_texts(base_of, other, recipe_of, encoder_rows):
    base = base_of()
    recipe = recipe_of(base, extend_vocabulary=str(other), steps=2)
    before = mlm.mlm(recipe)["heldout"]["before"]
    as_it_was, begun = before[mlm.AS_IT_WAS]["all"], before["masked"]["all"]
    assert begun["loss"] == pytest.approx(math.log(305), abs=0.1)
    assert as_it_was["loss"] == pytest.approx(math.log(300), abs=0.1)
    inputs = mlm.read_inputs(recipe)
    own, new = load_tokenizer(base), load_tokenizer(other)
    rows = masked_scores.retokenised(inputs.heldout["masked"], new, own, 64)
    asked = masked_scores.Asked.of(Masking(0.3, 4, inputs.masking.ordinary[:300], 0), own)
    how = Execution(micro_batch_rows=3, device="cpu")
    lm = PackedEncoder(load_encoder(base))
    found = masked_scores.score(lm, rows, asked, how, "float32")
    for name, value in found["all"].items():
        assert value == pytest.approx(as_it_was[name], rel=1e-5), name
    num_bytes = 0
    for place, row in enumerate(rows):
        _, targets = asked.masking.of(row, HELD_OUT, place)
        ids = targets[targets >= 0].tolist()
        num_bytes += sum(len(own.id_to_token(number)) for number in ids)  # a letter of the alphabet is a byte
    nats = found["all"]["loss"] * found["all"]["tokens"]
    assert found["all"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes)


def test_texts_are_cut_again_whole_or_in_pieces(encoder_rows, other):
    new, own = load_tokenizer(other), load_tokenizer(encoder_rows / "tokenizer")
    texts = [TEXT, "tin </s> 你 whiskers"]
    new.encode_special_tokens = True
    documents = [[0, *new.encode(text, add_special_tokens=False).ids, 2] for text in texts]
    row = Row(np.concatenate(documents).astype(np.int32), list(map(len, documents)), ["a", "b"], ["s", "t"], [1, 1])
    whole = masked_scores.retokenised([row], new, own, 512)
    assert [(one.doc_ids, one.doc_sources) for one in whole] == [(["a"], ["s"]), (["b"], ["t"])]
    own.encode_special_tokens = True
    for one, text in zip(whole, texts, strict=True):
        assert one.input_ids.tolist() == [0, *own.encode(text, add_special_tokens=False).ids, 2]
    parts = masked_scores.retokenised([row], new, own, 10)
    assert max(len(part.input_ids) for part in parts) == 10
    joined = [number for part in parts if part.doc_ids == ["a"] for number in part.input_ids[1:-1].tolist()]
    assert joined == whole[0].input_ids[1:-1].tolist()


def test_held_out_figures_have_intervals_over_papers(base_of, encoder_rows):
    """A paper of two pieces is one; each figure is a quotient of its sums over papers."""
    rows = [Rows(encoder_rows / "rows/heldout")[n] for n in range(8)]
    rows[1] = replace(rows[1], doc_ids=[rows[0].doc_ids[0], rows[1].doc_ids[1]])
    lm, tokenizer = PackedEncoder(load_encoder(base_of())), load_tokenizer(encoder_rows / "tokenizer")
    ordinary = np.arange(300) >= 5
    asked = masked_scores.Asked.of(Masking(0.3, 4, ordinary, 0), tokenizer)
    found = masked_scores.score(lm, rows, asked, Execution(micro_batch_rows=3, device="cpu"), "float32")
    papers: dict[tuple[str, str], np.ndarray] = {}
    for place, row in enumerate(rows):
        ids, targets = asked.masking.of(row, HELD_OUT, place)
        with torch.no_grad():
            logits = lm.logits(lm.hidden(collate([replace(row, input_ids=ids.astype(np.int32))], "cpu")))
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="none").numpy()
        owners = np.repeat(np.arange(2), row.doc_lengths)
        for at in np.flatnonzero(targets >= 0):
            name = (row.doc_sources[owners[at]], row.doc_ids[owners[at]])
            sums = [nats[at], float(logits[at].argmax() == targets[at]), 1]
            papers[name] = papers.get(name, np.zeros(3)) + sums
    assert found["all"]["papers"] == len(papers) == 15
    for key in ("all", "a", "b"):
        nats, hits, tokens = np.array([of for (source, _), of in papers.items() if key in ("all", source)]).T
        for name, of in (("", nats), ("top1_", hits)):
            assert found[key][f"{name}interval"] == pytest.approx(quotient_interval(of, tokens), rel=1e-4)
        assert found[key]["tokens"] == tokens.sum()
        assert found[key]["loss"] == pytest.approx(nats.sum() / tokens.sum(), rel=1e-5)
        assert found[key]["interval"][0] < found[key]["loss"] < found[key]["interval"][1]


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_context_is_extended_in_two_stages(base_of, recipe_of, tmp_path, architecture):
    """First the new positions alone, then all; a text of 32 tokens is longer than the 20 that the base takes."""
    base = base_of(architecture, max_positions=20)
    first = recipe_of(base, out=str(tmp_path / "first"), max_positions=64, train_only="new")
    assert mlm.mlm(first)["texts_beyond"] == 192
    begun, new = extension.with_positions(load_encoder(base), 64)
    own = begun.state_dict()
    for name, tensor in tensors_of(first.out).items():
        rows = new.get(name)
        assert torch.equal(tensor, own[name]) == (rows is None), name
        if rows is not None:
            assert torch.equal(tensor[~rows], own[name][~rows])
    stated = json.loads((Path(first.out) / "model/tokenizer_config.json").read_text())
    assert stated["model_max_length"] == 64
    results = mlm.mlm(recipe_of(f"{first.out}/model", out=str(tmp_path / "second"), steps=2))
    assert (
        results["heldout"]["before"]
        == json.loads((Path(first.out) / "manifest.json").read_text())["results"]["heldout"]["after"]
    )


def test_a_stopped_run_of_new_rows_ends_as_one_that_was_not(base_of, other, recipe_of, tmp_path, stop_before):
    """Bit for bit, with dropout, and with a layer left out."""
    base = base_of(max_positions=20)
    changes = {"extend_vocabulary": str(other), "max_positions": 64, "layers": [2], "train_only": "new"}
    whole, halted = (recipe_of(base, out=str(tmp_path / name), **changes) for name in ("whole", "halted"))
    mlm.mlm(whole)
    stop_before(mlm.mlm, halted, 4)
    mlm.mlm(halted)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (Path(halted.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes()


def test_a_new_head_is_trained_and_what_it_begins_with_is_told(base_of, recipe_of, capsys):
    base = base_of("bert", body=True)
    recipe = recipe_of(base, new_head=True, train_only="new", steps=3)
    results = mlm.mlm(recipe)
    assert "drawn from seed 0: 5 tensors" in capsys.readouterr().out
    assert results["heldout"]["before"]["masked"]["all"]["loss"] == pytest.approx(math.log(300), abs=0.1)
    own = load_encoder(base, new_head=0).state_dict()
    for name, tensor in tensors_of(recipe.out).items():
        assert torch.equal(tensor, own[name]) != name.startswith("cls."), name


def test_forgetting_stops_a_run_or_warns(base_of, recipe_of, tmp_path, capsys):
    """The "general" rows here are of a token that no paper has; it becomes unlikely."""
    base, general = base_of(), tmp_path / "general"
    rows = [Row(row.input_ids * 0 + 100, row.doc_lengths, [f"g{n}", f"h{n}"], ["g"] * 2, [1] * 2)
            for n in range(4) for row in [row_of(np.random.default_rng(n), str(n))]]  # fmt: skip
    write_rows(general, rows, RowTotals(ROW_TOKENS, 2, "hash"))
    asked = {"general_rows": str(general), "max_general_loss_increase": 0.0}
    gated = recipe_of(base, evaluation=asked)
    with raises("forgetting-above-limit", "Step 2"):
        mlm.mlm(gated)
    warned = recipe_of(base, out=str(tmp_path / "warned"), evaluation={**asked, "when_forgetting": "warn"})
    heldout = mlm.mlm(warned)["heldout"]
    assert heldout["after"]["general"]["all"]["loss"] > heldout["before"]["general"]["all"]["loss"]
    assert set(heldout["after"]) == {"masked", "general"}
    assert "more than the 0 allowed" in capsys.readouterr().out
    higher = recipe_of(base, evaluation={**asked, "max_general_loss_increase": 50.0})
    assert mlm.mlm(higher)["steps"] == 4, "a higher limit continues the run"
    with raises("mlm-limit-without-rows", "0.1"):
        recipe_of(base, evaluation={"max_general_loss_increase": 0.1})


def test_changes_that_cannot_be_are_named(base_of, other, recipe_of):
    base = base_of()
    shape = {"tokenizer": str(other), "architecture": "roberta", **SHAPE}
    with raises("mlm-changes-of-nothing", "layers, max_positions"):
        recipes.validate(
            recipe_of(base).model_dump(mode="json")
            | {"model": None, "build": shape, "layers": [1], "max_positions": 64},
            "test",
        )
    with raises("mlm-nothing-new"):
        recipe_of(base, train_only="new", layers=[1])
    assert recipe_of(base, train_only="all").train_only is None
    with raises("new-rows-none"):
        mlm.mlm(recipe_of(base_of("modernbert", max_positions=20), max_positions=64, train_only="new"))
    with raises("mlm-positions-not-reached", "80", "64"):
        mlm.mlm(recipe_of(base, max_positions=80))
    with raises("encoder-positions-enough", "10", "20"):
        mlm.mlm(recipe_of(base_of(max_positions=20), max_positions=10))
    with raises("encoder-head-stored", base):
        mlm.mlm(recipe_of(base, new_head=True))
    with raises("tokenizer-not-loaded", "nowhere"):
        mlm.mlm(recipe_of(base, extend_vocabulary="./nowhere"))


def test_texts_longer_than_a_number_of_tokens_are_counted(encoder_rows):
    rows = Rows(encoder_rows / "rows/train")
    assert [rows.longer_than(number) for number in (31, 32)] == [192, 0]
