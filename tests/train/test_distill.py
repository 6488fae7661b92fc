"""Students of encoders: what is learnt is the teacher's relations, by hand; resuming, the result, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModel

from nsllm_lite.artifact.json_files import read_lines
from nsllm_lite.formats.rows import Rows, RowTotals, write_rows
from nsllm_lite.models.causal import collate
from nsllm_lite.models.encoder import build_encoder
from nsllm_lite.models.relations import RelationEncoder
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.mlm import EncoderShape
from nsllm_lite.train import distill, mlm
from tests.models.test_encoder import CONFIGS, LENGTHS, batch_of
from tests.raising import raises
from tests.train.conftest import ROW_TOKENS, few_steps
from tests.train.test_mlm import SHAPE

HEADS = 8


@pytest.fixture(scope="module")
def teachers(encoder_rows, tmp_path_factory):
    """A function from an architecture to the folder of a model of 3 layers, with larger weights than drawn ones, and
    dropout as pretrained BERTs have it."""
    made = {}

    def of(architecture="bert", dropout=0.1) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        local = {"local_attention": 16} if architecture == "modernbert" else {}
        shape = {**SHAPE, "num_layers": 3, **local}
        model = build_encoder(
            EncoderShape(**shape, architecture=architecture, tokenizer=str(encoder_rows / "tokenizer")), 0
        )
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embeddings" not in name:
                parameter.data *= 5
        model.config.hidden_dropout_prob = dropout
        model.save_pretrained(folder)
        for path in (encoder_rows / "tokenizer").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    def once(*key) -> Path:
        if key not in made:
            made[key] = of(*key)
        return made[key]

    return once


@pytest.fixture
def recipe_of(encoder_rows, teachers, tmp_path):
    def made(**changes):
        values = yaml.safe_load(Path("recipes/nano/distill.yaml").read_text())
        values |= few_steps(encoder_rows, tmp_path / "out", changes.pop("steps", 6))
        values |= {"teacher": str(teachers("bert")), "relation_heads": HEADS}
        return recipes.validate(values | changes, "test")

    return made


@pytest.mark.parametrize("kind", CONFIGS)
def test_queries_keys_and_values_are_those_of_the_last_layer_of_each_document_alone(kind):
    documents = [np.random.default_rng(length).integers(5, 60, length) for length in LENGTHS]
    torch.manual_seed(0)
    body = AutoModel.from_config(CONFIGS[kind], attn_implementation="eager").eval()
    found: dict[str, torch.Tensor] = {}
    last = (body.layers if kind == "modernbert" else body.encoder.layer)[-1]
    names = ["attn.Wqkv"] if kind == "modernbert" else [f"attention.self.{name}" for name in ("query", "key", "value")]
    hooks = [
        last.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out[0]}))
        for name in names
    ]
    alone = []
    for document in documents:
        with torch.no_grad():
            body(input_ids=torch.tensor(document)[None])
        alone.append(torch.cat([found[name] for name in names], 1).unflatten(1, (3, -1)))
    for hook in hooks:
        hook.remove()
    encoder = RelationEncoder(body)
    with torch.no_grad():
        packed = encoder(batch_of(documents)).split(LENGTHS)
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert encoder.whole().state_dict().keys() == AutoModel.from_config(CONFIGS[kind]).state_dict().keys()


def by_hand(teacher: Path, student: Path, rows: Path) -> dict[str, float]:
    """Mean divergence a token by source, with transformers' models on documents alone."""
    bodies = [AutoModel.from_pretrained(folder, attn_implementation="eager").eval() for folder in (teacher, student)]
    nats: dict[str, list[float]] = {}
    for number in range(len(Rows(rows))):
        row = Rows(rows)[number]
        for ids, source in zip(torch.tensor(row.input_ids).long().split(row.doc_lengths), row.doc_sources, strict=True):
            shares = []
            for body in bodies:
                with torch.no_grad():
                    before = body(input_ids=ids[None], output_hidden_states=True).hidden_states[-2][0]
                    own = body.encoder.layer[-1].attention.self
                    parts = [
                        project(before).unflatten(1, (HEADS, -1)).transpose(0, 1)
                        for project in (own.query, own.key, own.value)
                    ]
                shares.append([torch.softmax(x @ x.transpose(1, 2) / x.shape[2] ** 0.5, 2) for x in parts])
            kl = [(wanted * (wanted / found).log()).sum(2).mean(0) for wanted, found in zip(*shares, strict=True)]
            for key in ("all", source):
                nats.setdefault(key, []).extend(torch.stack(kl).mean(0).tolist())
    return {key: sum(of) / len(of) for key, of in nats.items()}


def test_a_student_learns_the_relations_and_opens_in_transformers(recipe_of, teachers, encoder_rows):
    teacher = teachers("bert")
    recipe = recipe_of(
        steps=40, evaluation={**recipe_of().evaluation.model_dump(), "every_steps": 40}, checkpoint_steps=40
    )
    results = distill.distill(recipe)
    before, after = (results["heldout"][when]["relations"] for when in ("before", "after"))
    wanted = by_hand(teacher, Path(recipe.out) / "model", encoder_rows / "rows/heldout")
    assert {key: of["loss"] for key, of in after.items()} == pytest.approx(wanted, rel=1e-3)
    assert after["all"]["loss"] < before["all"]["loss"] / 2
    assert after["all"]["loss"] < after["all"]["floor"] / 2
    assert after["all"]["interval"][0] < after["all"]["loss"] < after["all"]["interval"][1]
    assert (after["all"]["papers"], after["all"]["tokens"]) == (16, 8 * ROW_TOKENS)

    model, before = (
        AutoModel.from_pretrained(folder, add_pooling_layer=False) for folder in (f"{recipe.out}/model", teacher)
    )
    assert model.config.num_hidden_layers == 2
    assert sum(p.numel() for p in model.parameters()) == results["parameters"] < results["teacher_parameters"]
    own = before.state_dict()
    for name, tensor in model.state_dict().items():
        of_teacher = own[name.replace("layer.1.", "layer.2.")]
        unused = "layer.1." in name and not any(part in name for part in ("query", "key", "value"))
        assert torch.equal(tensor, of_teacher) == unused, name
    assert distill.distill(recipe) == results  # finished


@pytest.mark.parametrize("student", ["bert", "modernbert"])
def test_widths_and_architectures_may_differ(recipe_of, teachers, student):
    shape = {"architecture": student, "hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 2,
             "max_positions": 64, "local_attention": 16 if student == "modernbert" else None}  # fmt: skip
    changes = {"build": shape, "layers": None, "relation_heads": 16, "teacher_layer": 2}
    changes |= {"evaluation": {**recipe_of().evaluation.model_dump(), "every_steps": 8}, "steps": 8}
    recipe = recipe_of(teacher=str(teachers("modernbert")), **changes)
    results = distill.distill(recipe)
    before, after = (results["heldout"][when]["relations"]["all"]["loss"] for when in ("before", "after"))
    assert after < before
    model = AutoModel.from_pretrained(f"{recipe.out}/model")
    assert (model.config.model_type, model.config.hidden_size, model.config.vocab_size) == (student, 32, 300)


def test_a_built_student_is_trained_without_dropout_and_saved_with_it(recipe_of, monkeypatch, capsys):
    shape = {"architecture": "bert", "hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 2,
             "max_positions": 64, "local_attention": None}  # fmt: skip
    seen = []
    add_gradients = distill.add_gradients

    def see(teacher, student, *args):
        assert student.training
        seen.append(max(module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)))
        return add_gradients(teacher, student, *args)

    monkeypatch.setattr(distill, "add_gradients", see)
    recipe = recipe_of(build=shape, layers=None, relation_heads=16, steps=2)
    distill.distill(recipe)
    assert seen == [0.0, 0.0]
    assert AutoModel.from_pretrained(f"{recipe.out}/model").config.hidden_dropout_prob == 0.1
    assert "built from nothing is trained without dropout; its config states 0.1" in capsys.readouterr().out


def test_the_layer_to_learn_is_chosen(recipe_of):
    """The teacher's second layer for two steps; and its own first two begin without a difference."""
    results = distill.distill(recipe_of(layers=[1, 2], teacher_layer=2, steps=2))
    assert results["heldout"]["before"]["relations"]["all"]["loss"] == pytest.approx(0, abs=1e-6)


def test_a_stopped_run_ends_bit_for_bit_as_one_that_was_not(recipe_of, tmp_path, stop_before):
    """With dropout, which the teacher's layers bring."""
    whole = recipe_of(out=str(tmp_path / "whole"))
    distill.distill(whole)
    halted = recipe_of(out=str(tmp_path / "halted"))
    stop_before(distill.distill, halted, 4)
    distill.distill(halted)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (Path(halted.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes()


def test_micro_batches_change_rounding_alone(recipe_of, teachers, tmp_path):
    """A student of the same tokenizer may also be named."""
    losses = []
    for rows in (1, 8):
        changes = {"layers": None, "student": str(teachers("roberta", 0.0)), "steps": 3}
        recipe = recipe_of(
            out=str(tmp_path / str(rows)), execution={"micro_batch_rows": rows, "device": "cpu"}, **changes
        )
        distill.distill(recipe)
        losses.append([line["loss"] for line in read_lines(Path(recipe.out) / "metrics.jsonl") if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_products_in_bfloat16_give_about_the_same_losses(recipe_of, tmp_path):
    losses = []
    for dtype in ("float32", "bfloat16"):
        recipe = recipe_of(out=str(tmp_path / dtype), compute_dtype=dtype, steps=2, teacher_layer=2)
        losses.append(distill.distill(recipe)["heldout"]["after"]["relations"]["all"]["loss"])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.03)


def test_the_same_layers_trained_on_masked_tokens_begin_alike(recipe_of, teachers, encoder_rows):
    recipe = recipe_of()
    student = distill.make_models(recipe, distill.read_inputs(recipe)).student
    values = yaml.safe_load(Path("recipes/nano/mlm.yaml").read_text())
    same = {"model": recipe.teacher, "build": None, "layers": recipe.layers, "rows": recipe.rows, "out": recipe.out}
    of_mlm = values | same | {"evaluation": {**recipe.evaluation.model_dump()}, "budget": recipe.budget.model_dump()}
    of_mlm["schedule"] = recipe.schedule.model_dump()
    control = recipes.validate(of_mlm, "test")
    model, _, _ = mlm.make_model(control, mlm.read_inputs(control))
    own = model.base_model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in student.state_dict().items())


def test_every_layer_gets_a_gradient(recipe_of):
    recipe = recipe_of(layers=[1, 2, 3], teacher_layer=2)
    inputs = distill.read_inputs(recipe)
    bodies = distill.make_models(recipe, inputs)
    assert bodies.teacher.config.num_hidden_layers == 2
    student = RelationEncoder(bodies.student)
    how = distill.Execution(micro_batch_rows=2, device="cpu")
    distill.add_gradients(
        RelationEncoder(bodies.teacher).eval(), student, [inputs.rows[0], inputs.rows[1]], recipe, how
    )
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
    places = {name.split("layer.")[1][0] for name in trained if "layer." in name}
    assert places == {"0", "1", "2"}
    assert len([name for name in trained if "encoder.layer.2." in name]) == 6, "weights and biases of three matrices"
    with torch.no_grad():
        shape = student(collate([inputs.rows[0]], "cpu")).shape
    assert shape == (ROW_TOKENS, 3, 48)


def test_what_cannot_be_distilled_is_named(recipe_of, teachers, encoder_rows, tmp_path):
    shape = {**SHAPE, "architecture": "bert"}
    for changes, words in (({"layers": None}, "nothing"), ({"build": shape}, "build and layers")):
        with raises("distill-student-not-one", words):
            recipe_of(**changes)
    with raises("distill-heads-uneven", "build.hidden_size 48", "7"):
        recipe_of(layers=None, build=shape, relation_heads=7)
    with raises("distill-heads-uneven", "the teacher's width 48", "5"):
        distill.distill(recipe_of(relation_heads=5))
    with raises("encoder-layers-wrong", "[1, 9]", "3"):
        distill.distill(recipe_of(layers=[1, 9]))
    with raises("mlm-positions-few", "32", "64"):
        distill.distill(recipe_of(layers=None, build={**shape, "max_positions": 32}))
    odd = tmp_path / "odd"
    odd.mkdir()
    for path in teachers("bert").iterdir():
        text = path.read_bytes()
        (odd / path.name).write_bytes(text.replace(b'"<mask>"', b'"<hide>"') if path.suffix == ".json" else text)
    with raises("distill-tokenizers-differ", "2 tokens differ", "'<hide>' is None and 4", odd):
        distill.distill(recipe_of(layers=None, student=str(odd)))
    made_with = tmp_path / "corpus"
    write_rows(made_with / "rows/a/train", [Rows(encoder_rows / "rows/train")[0]], RowTotals(ROW_TOKENS, 2, "hash"))
    (made_with / "tokenizer").mkdir()
    (made_with / "tokenizer/tokenizer.json").write_bytes((odd / "tokenizer.json").read_bytes())
    with raises("train-vocabulary-differs", made_with, teachers("bert")):
        distill.distill(recipe_of(rows=str(made_with / "rows/a/train")))
    (odd / "tokenizer.json").rename(tmp_path / "private.json")
    (odd / "tokenizer.json").symlink_to(tmp_path / "private.json")
    with raises("model-link-outside", odd / "tokenizer.json"):
        distill.distill(recipe_of(teacher=str(odd), out=str(tmp_path / "early")))
    assert not (tmp_path / "early").exists(), "refused before anything is trained"
    write_rows(tmp_path / "none", [], RowTotals(ROW_TOKENS, 2, "hash"))
    with raises("encoder-heldout-empty", tmp_path / "none", "domain_rows"):
        distill.distill(recipe_of(evaluation={"domain_rows": str(tmp_path / "none"), "every_steps": 3, "max_rows": 4}))
    trained_on = {"domain_rows": str(encoder_rows / "rows/train"), "every_steps": 3, "max_rows": 4}
    with raises("train-heldout-trained-on"):
        distill.distill(recipe_of(evaluation=trained_on))


def test_what_is_printed_of_scores(capsys):
    of = {"papers": 1200, "interval": [0.25, 0.75], "floor": 1.125}
    heldout = {when: {"relations": {"all": of | {"loss": loss}}} for when, loss in (("before", 2.0), ("after", 0.5))}
    distill.print_scores({"heldout": heldout})
    assert capsys.readouterr().out.splitlines() == [
        "  relations of 1,200 held-out papers, KL a token: 2.0000 -> 0.5000 (0.2500 to 0.7500)",
        "  floor, all tokens alike: 1.1250",
    ]
