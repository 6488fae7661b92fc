"""Encoders that are changed before a training: what stays is as it was, what is new is made as said."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from nsllm_lite.corpus.tokenizer import train_for_encoder
from nsllm_lite.models import extension
from nsllm_lite.models.encoder import PackedEncoder, head_parameters, load_body, load_encoder, positions_of
from tests.models.test_encoder import CONFIGS, SIZES, batch_of
from tests.raising import raises

TIED = {"bert": "bert.embeddings.word_embeddings.weight", "roberta": "roberta.embeddings.word_embeddings.weight",
        "modernbert": "model.embeddings.tok_embeddings.weight"}  # fmt: skip
BIAS = {"bert": "cls.predictions.bias", "roberta": "lm_head.bias", "modernbert": "decoder.bias"}
each_kind = pytest.mark.parametrize("kind", CONFIGS)


def model_of(kind):
    """Of random weights, biases and norms too."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(CONFIGS[kind]).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def logits_of(model, batch):
    with torch.no_grad():
        encoder = PackedEncoder(model)
        return encoder.logits(encoder.hidden(batch))


@each_kind
def test_layers_are_left_out(kind, documents):
    model = model_of(kind)
    cut = extension.with_layers(model, [1, 4])
    assert cut.config.num_hidden_layers == 2
    body = model.base_model
    layers = body.layers if kind == "modernbert" else body.encoder.layer
    kept = torch.nn.ModuleList([layers[0], layers[3]])
    body.set_submodule("layers" if kind == "modernbert" else "encoder.layer", kept)
    assert torch.equal(logits_of(cut, batch_of(documents)), logits_of(model, batch_of(documents)))
    assert extension.with_layers(cut, [1]).config.num_hidden_layers == 1


@each_kind
def test_positions_are_copies_of_the_first(kind, documents):
    model = model_of(kind)
    before = logits_of(model, batch_of(documents))
    most = positions_of(model) + 86
    longer, new = extension.with_positions(model, most)
    assert positions_of(longer) == most
    assert torch.equal(logits_of(longer, batch_of(documents)), before)
    assert logits_of(longer, batch_of([documents[0].repeat(7)])).isfinite().all()
    if kind == "modernbert":
        assert not new
        return
    ((name, rows),) = new.items()
    table, old = longer.get_parameter(name), model.get_parameter(name)
    behind = len(old) - 64  # the rows of RoBERTa's padding, and before
    assert torch.equal(table[: len(old)], old)
    assert rows.tolist() == [False] * len(old) + [True] * 86
    assert torch.equal(table[len(old) :], torch.cat((old[behind:], old[behind : behind + 22])))
    with raises("encoder-positions-enough", "64"):
        extension.with_positions(model, 64)


@each_kind
def test_rows_of_a_vocabulary_are_means_of_their_pieces(kind, documents):
    model = model_of(kind)
    pieces = [[3], [4, 9, 9], [], [7]]
    of = extension.Vocabulary(pieces, [True, False, False, False], {"vocab_size": 4, "pad_token_id": 1})
    assert of.counts() == {"shared": 1, "of all rows": 1, "of one piece": 1, "of several": 1}
    other, new = extension.with_vocabulary(model, of)
    assert (other.config.vocab_size, other.config.pad_token_id) == (4, 1)
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
    assert new.keys() == {TIED[kind], BIAS[kind]}
    assert all(rows.tolist() == [False, True, True, True] for rows in new.values())
    for name in new:
        old, made = model.get_parameter(name), other.get_parameter(name)
        assert torch.equal(made[[0, 3]], old[[3, 7]])
        torch.testing.assert_close(made[1], (old[4] + 2 * old[9]) / 3)
        torch.testing.assert_close(made[2], old.mean(0))
    same = model.state_dict().keys() - other.state_dict().keys()
    assert not same
    for name, tensor in other.state_dict().items():
        if len(tensor) != 4:
            assert torch.equal(tensor, model.state_dict()[name]), name
    threes = [document * 0 + 3 for document in documents]
    zeros = [document * 0 for document in documents]
    torch.testing.assert_close(
        logits_of(other, batch_of(zeros))[:, [0, 3]], logits_of(model, batch_of(threes))[:, [3, 7]]
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of a WordPiece of small letters, and of a byte-level BPE with RoBERTa's special tokens."""
    folder = tmp_path_factory.mktemp("tokenizers")
    train_for_encoder(["tin whiskers grow"] * 3, 270, folder / "bytes")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tin", "whisk", "##ers", "grow"]
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:5])
    (folder / "words").mkdir()
    tokenizer.save(str(folder / "words/tokenizer.json"))
    names = {f"{word}_token": f"[{word.upper()}]" for word in ("pad", "unk", "cls", "sep", "mask")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "words/tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_special_tokens_keep_their_part(folders):
    of = extension.vocabulary_of(folders / "words", folders / "bytes", "bert")
    assert of.pieces[:5] == [[2], [0], [3], [1], [4]]  # <s>, <pad>, </s>, <unk> and <mask>
    assert all(of.shared[:5])
    assert (of.settings["vocab_size"], of.settings["pad_token_id"], of.settings["cls_token_id"]) == (270, 1, 0)
    assert sum(of.counts().values()) == len(of.pieces) == 270
    back = extension.vocabulary_of(folders / "bytes", folders / "words", "bert")
    assert back.pieces[:5] == [[1], [3], [0], [2], [4]]
    assert back.counts()["of all rows"] == 0, "bytes cut everything"
    with raises("vocabulary-padding-moved", "'[PAD]' is token 0", "'<pad>' is 1"):
        extension.vocabulary_of(folders / "words", folders / "bytes", "roberta")


def test_a_head_is_drawn_where_none_is_stored(tmp_path, capsys):
    config = BertConfig(**{**SIZES, "num_hidden_layers": 1}, max_position_embeddings=32)
    torch.manual_seed(1)
    body = AutoModel.from_config(config)
    body.save_pretrained(tmp_path / "body")
    first, again, other = (load_encoder(tmp_path / "body", new_head=seed) for seed in (3, 3, 4))
    own = head_parameters(first)
    assert own == {f"cls.predictions.{name}" for name in (
        "bias", "transform.dense.weight", "transform.dense.bias", "transform.LayerNorm.weight",
        "transform.LayerNorm.bias",
    )}  # fmt: skip
    drawn = "cls.predictions.transform.dense.weight"
    assert all(torch.equal(first.get_parameter(name), again.get_parameter(name)) for name in own)
    assert not torch.equal(first.get_parameter(drawn), other.get_parameter(drawn))
    assert float(first.get_parameter(drawn).detach().std()) == pytest.approx(0.02, rel=0.1)
    assert torch.equal(first.bert.embeddings.word_embeddings.weight, body.embeddings.word_embeddings.weight)
    assert "pooler.dense.bias" in capsys.readouterr().out
    with raises("encoder-head-missing", tmp_path / "body"):
        load_encoder(tmp_path / "body")
    BertForMaskedLM(config).save_pretrained(tmp_path / "whole")
    with raises("encoder-head-stored", tmp_path / "whole"):
        load_encoder(tmp_path / "whole", new_head=3)
    assert not any("pooler" in name or "cls" in name for name, _ in load_body(tmp_path / "whole").named_parameters())


def test_what_cannot_be_changed_is_named(tmp_path):
    for layers in ([2, 1], [1, 1], [5], [0]):
        with raises("encoder-layers-wrong", layers, "4"):
            extension.with_layers(model_of("bert"), layers)
    with raises("encoder-first-layer", "[2, 4]"):
        extension.with_layers(model_of("modernbert"), [2, 4])
    model = AutoModel.from_config(CONFIGS["bert"])
    kept = {name: tensor for name, tensor in model.state_dict().items() if "layer.2." not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    with raises("model-tensors-missing", "encoder.layer.2."):
        load_body(tmp_path)
