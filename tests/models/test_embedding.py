"""Vectors are those of sentence-transformers, whatever the batch, and folders that would do more are refused."""

import json
import shutil
import sys
from codecs import BOM_UTF8

import numpy as np
import pytest
import torch

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.models import embedding
from nsllm_lite.models.embedding import open_embedder, untrained
from tests.models.embedders import save_encoder
from tests.raising import raises

TEXTS = ["tin grows", "the copper melts at x", "", "hot lead and cold tin in the a of x y z"] * 3


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encoder):
    """With a dense layer behind the pooling, and a prompt for queries."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(0)
    modules = [Transformer(str(encoder)), Pooling(32, pooling_mode="cls"), Dense(32, 8)]
    place = tmp_path_factory.mktemp("embedder")
    SentenceTransformer(modules=modules, prompts={"query": "who ? "}, device="cpu").save(str(place))
    return place


def test_a_folder_of_sentence_transformers(folder):
    from sentence_transformers import SentenceTransformer

    ours, theirs = open_embedder(folder), SentenceTransformer(str(folder), device="cpu")
    assert (ours.dimensions, ours.max_tokens) == (8, 66)
    for role, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        expected = encode(TEXTS, normalize_embeddings=True)
        assert ours.encode(TEXTS, role) == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(ours.encode(TEXTS, "query"), ours.encode(TEXTS))
    assert any("'who ? ' (query)" in note for note in ours.notes)


def test_a_plain_encoder_is_the_mean_of_its_states(encoder):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    ours = open_embedder(encoder)
    for text, vector in zip(TEXTS, ours.encode(TEXTS), strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        assert vector == pytest.approx((states / states.norm()).numpy(), abs=1e-5)
    assert ours.notes


def test_batches_do_not_change_a_vector(folder, monkeypatch):
    whole = open_embedder(folder).encode(TEXTS)
    monkeypatch.setitem(embedding.BATCH_TEXTS, "cpu", 2)
    assert open_embedder(folder).encode(TEXTS) == pytest.approx(whole, abs=1e-6)


def test_texts_beyond_the_window_are_counted(folder):
    ours = open_embedder(folder)
    assert ours.num_cut(["tin " * 64, "tin " * 65]) == 1  # [CLS] and [SEP] take two of 66
    assert ours.num_cut(["tin " * 64], "query") == 1  # the prompt takes two more


def test_the_untrained_twin_has_the_same_shape_and_other_weights(folder):
    trained = open_embedder(folder).encode(TEXTS)
    one, same, other = (untrained(open_embedder(folder), seed).encode(TEXTS) for seed in (1, 1, 2))
    assert (one == same).all()
    assert one.shape == trained.shape
    assert not np.allclose(one, trained, atol=0.05)
    assert not np.allclose(one, other, atol=0.05)


def test_vectors_that_are_no_numbers(encoder):
    ours = open_embedder(encoder)
    next(ours.model[0].auto_model.parameters()).data.fill_(float("nan"))
    with raises("embedding-not-finite", f"{len(TEXTS)} of {len(TEXTS)}"):
        ours.encode(TEXTS)


@pytest.mark.parametrize(
    "module",
    [
        {"type": "os.path.join", "path": ""},
        {"type": "sentence_transformers.models.CLIPModel", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "../other"},
        {"type": "sentence_transformers.models.Pooling", "path": None},
        {"type": "sentence_transformers.models.Pooling"},
        "Transformer",
    ],
)
def test_modules_that_are_not_known_are_refused(tmp_path, module):
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    with raises("embedder-module-unknown"):
        open_embedder(tmp_path)


def test_pickled_weights_are_refused(tmp_path, folder):
    place = tmp_path / "pickled"
    shutil.copytree(folder, place)
    (dense,) = (place / "2_Dense").glob("*.safetensors")
    dense.rename(dense.with_name("pytorch_model.bin"))
    with raises("weights-absent"):
        open_embedder(place)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, encoder):
    from transformers import AutoModelForMaskedLM

    place = shutil.copytree(encoder, tmp_path / "few")
    model = AutoModelForMaskedLM.from_pretrained(encoder)
    model.resize_token_embeddings(20)
    model.save_pretrained(place)
    with raises("model-vocabulary-differs", 20, 29):
        open_embedder(place)


@pytest.mark.parametrize("places", [[0], [1, 0], [0, 2], [0, 1, 2, 1], [0, 0, 1]])
def test_modules_in_another_order_are_refused(tmp_path, folder, places):
    modules = read_json(folder / "modules.json")
    place = changed(folder, tmp_path, "modules.json", [modules[number] for number in places])
    with raises("embedder-modules-order", place):
        open_embedder(place)


KERNEL = {"attn_implementation": "org/kernel"}
BERT = "sentence_bert_config.json"


@pytest.mark.parametrize(
    ("code", "name", "values"),
    [
        ("model-names-code", "config.json", KERNEL),
        *(
            ("model-names-code", BERT, {f"{key}_{end}": KERNEL})
            for key in ("model", "config")
            for end in ("args", "kwargs")
        ),
        ("embedder-settings-wrong", BERT, {"model_args": {"subfolder": "other"}}),
        ("embedder-settings-wrong", BERT, {"model_args": "other"}),
        ("embedder-settings-wrong", BERT, {"tokenizer_name_or_path": "org/other"}),
        ("embedder-settings-wrong", BERT, {"max_seq_length": "x"}),
        ("embedder-settings-wrong", BERT, {"max_seq_length": 0}),
        ("file-damaged", BERT, []),
        ("embedder-settings-wrong", "1_Pooling/config.json", {"embedding_dimension": 16}),
        ("embedder-settings-wrong", "2_Dense/config.json", {"activation_function": "os.system"}),
        ("model-not-loaded", "2_Dense/config.json", {"activation_function": "torch.hub.load"}),
        ("model-not-loaded", "2_Dense/config.json", {"in_features": 16}),
    ],
)
def test_settings_that_are_wrong_or_name_code_are_refused(tmp_path, folder, code, name, values):
    stated = read_json(folder / name) if (folder / name).is_file() else {}
    place = changed(folder, tmp_path, name, stated | values if values else values)
    with raises(code, place):
        open_embedder(place)


def test_settings_that_name_nothing_else_are_read(tmp_path, folder):
    values = {"max_seq_length": 8, "do_lower_case": False, "model_args": {"add_pooling_layer": False}}
    assert open_embedder(changed(folder, tmp_path, BERT, values)).max_tokens == 8


def test_quantised_weights_are_refused(tmp_path, folder, encoder):
    held = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    for one in (folder, encoder):
        (tmp_path / one.name).mkdir()
        place = changed(one, tmp_path / one.name, "config.json", read_json(one / "config.json") | held)
        with raises("model-quantised", place):
            open_embedder(place)


def test_a_byte_order_mark_is_read_over(tmp_path, folder, encoder):
    for one in (folder, encoder):
        place = changed(one, tmp_path / one.name, "config.json", read_json(one / "config.json"))
        (place / "config.json").write_bytes(BOM_UTF8 + (place / "config.json").read_bytes())
        assert (open_embedder(place).encode(TEXTS) == open_embedder(one).encode(TEXTS)).all()


def changed(folder, tmp_path, name, value):
    shutil.copytree(folder, tmp_path / "changed")
    write_json(tmp_path / "changed" / name, value)
    return tmp_path / "changed"


def test_a_decoder_is_no_embedder(tmp_path):
    config = json.loads((save_encoder(tmp_path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    with raises("embedder-is-decoder", "bert"):
        open_embedder(tmp_path)


@pytest.mark.parametrize("name", ["euclidean", "evil"])  # the library knows the first, and takes cosine for the second
def test_a_similarity_that_is_not_known(tmp_path, folder, name):
    place = changed(folder, tmp_path, "config_sentence_transformers.json", {"similarity_fn_name": name})
    with raises("embedder-similarity-unknown", name):
        open_embedder(place)


def test_a_module_that_lies_elsewhere_is_refused(tmp_path, folder):
    place = changed(folder, tmp_path, "unused.json", {})
    (place / "1_Pooling").rename(tmp_path / "elsewhere")
    (place / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with raises("embedder-module-unknown", "1_Pooling"):
        open_embedder(place)


def test_without_the_library(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with raises("extra-not-installed", "nsllm-lite[encoders]"):
        open_embedder(folder)
