"""Packed encoders: each document is what it is alone, in every architecture, and no other changes it."""

import copy
import shutil
from codecs import BOM_UTF8

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    CamembertConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    NystromformerConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.formats.rows import Row
from nsllm_lite.models.causal import collate
from nsllm_lite.models.encoder import PackedEncoder, load_body, load_encoder, positions_of
from tests.models.conftest import LENGTHS
from tests.raising import raises

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
CONFIGS = {
    "bert": BertConfig(**SIZES, max_position_embeddings=64),
    "roberta": RobertaConfig(**SIZES, max_position_embeddings=66, pad_token_id=1),
    "modernbert": ModernBertConfig(
        **SIZES, local_attention=8, global_attn_every_n_layers=3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2,
    ),
}  # fmt: skip


def encoder_of(kind) -> PackedEncoder:
    torch.manual_seed(0)
    return PackedEncoder(AutoModelForMaskedLM.from_config(CONFIGS[kind]).eval())


def batch_of(documents):
    ids = np.concatenate(documents).astype(np.int32)
    lengths = [len(document) for document in documents]
    names = [f"d{n}" for n in range(len(documents))]
    return collate([Row(ids, lengths, names, ["s"] * len(names), [1] * len(names), False)], "cpu")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_packed_document_has_the_logits_it_has_alone_in_transformers(kind, documents):
    encoder = encoder_of(kind)
    with torch.no_grad():
        packed = encoder.logits(encoder.hidden(batch_of(documents))).split(LENGTHS)
    torch.manual_seed(0)
    plain = AutoModelForMaskedLM.from_config(CONFIGS[kind], attn_implementation="eager").eval()
    for document, logits in zip(documents, packed, strict=True):
        with torch.no_grad():
            alone = plain(input_ids=torch.tensor(document)[None]).logits[0]
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_document_sees_another(kind, documents):
    """Not by a bit; and within a document later words are seen."""
    encoder = encoder_of(kind)
    changed = [documents[0], (documents[1] + 11) % 50 + 5, documents[2].copy()]
    changed[2][-1] = (changed[2][-1] + 7) % 50 + 5
    with torch.no_grad():
        before, after = (encoder.hidden(batch_of(each)).split(LENGTHS) for each in (documents, changed))
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().amax(1).min() > 1e-3
    assert (before[2][0] - after[2][0]).abs().max() > 1e-6, "four layers carry the last word to the first"


def test_local_layers_see_no_further_than_their_window(documents):
    values = {**CONFIGS["modernbert"].to_diff_dict(), "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    config = ModernBertConfig(**values)
    torch.manual_seed(0)
    encoder = PackedEncoder(AutoModelForMaskedLM.from_config(config).eval())
    changed = documents[2].copy()
    changed[15] = (changed[15] + 7) % 50 + 5
    with torch.no_grad():
        before, after = (encoder.hidden(batch_of([each])) for each in (documents[2], changed))
    moved = torch.nonzero((before - after).abs().amax(1)).flatten().tolist()
    assert moved == list(range(11, 20))


def test_dropout_of_probabilities_is_left_out_and_told(documents):
    torch.manual_seed(0)
    config = RobertaConfig(**SIZES, pad_token_id=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.25)
    encoder = PackedEncoder(AutoModelForMaskedLM.from_config(config)).train()
    assert encoder.dropout_left_out == 0.25
    once, again = (encoder.hidden(batch_of(documents)) for _ in range(2))
    assert torch.equal(once, again)


def test_a_decoder_is_refused():
    from transformers import AutoModelForCausalLM

    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)
    with raises("encoder-architecture-unknown", "'qwen3'", "modernbert"):
        PackedEncoder(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "camembert", "nystromformer", "gpt2", "modernbert"])
def test_the_longest_text_is_the_longest_that_the_model_takes(kind):
    """By its own forward, where positions are learned: one token more and it fails."""
    sizes, ends = SIZES | {"num_hidden_layers": 1}, {"bos_token_id": 1, "eos_token_id": 2}
    config = {
        "mpnet": lambda: MPNetConfig(**sizes, max_position_embeddings=66, pad_token_id=1),
        "camembert": lambda: CamembertConfig(**sizes, max_position_embeddings=66, pad_token_id=3),
        "nystromformer": lambda: NystromformerConfig(
            **sizes, max_position_embeddings=64, num_landmarks=1, segment_means_seq_len=1
        ),
        "gpt2": lambda: GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=4, n_positions=64, **ends),
    }.get(kind, lambda: copy.deepcopy(CONFIGS[kind]))()
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    model.config.pad_token_id = 0  # as a tokenizer may have it
    longest = positions_of(model)
    assert longest == {"camembert": 62, "modernbert": 8192}.get(kind, 64)
    if kind != "modernbert":
        with torch.no_grad():
            model(input_ids=torch.full((1, longest), 5))
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, longest + 1), 5))


def test_a_model_that_states_no_longest_text_is_named():
    config = T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    model = AutoModel.from_config(config)
    with raises("model-positions-unstated", "'t5'"):
        positions_of(model)
    model.config.max_position_embeddings = 512
    assert positions_of(model) == 512


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each kind one with its weights."""
    root = tmp_path_factory.mktemp("encoders")
    for kind in CONFIGS:
        AutoModelForMaskedLM.from_config(CONFIGS[kind]).save_pretrained(root / kind)
    return root


def changed(folder, place, **settings):
    shutil.copytree(folder, place)
    write_json(place / "config.json", read_json(place / "config.json") | settings)
    return place


@pytest.mark.parametrize("load", [load_encoder, load_body])
@pytest.mark.parametrize(
    ("code", "settings"),
    [
        ("model-names-code", {"attn_implementation": "org/kernel"}),
        ("model-names-code", {"_attn_implementation": "org/kernel"}),
        ("model-quantised", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
        ("model-not-loaded", {"num_attention_heads": 0}),
        ("model-not-loaded", {"hidden_act": "unknown", "hidden_activation": "unknown"}),
        ("model-not-loaded", {"pad_token_id": 10**6}),
        ("model-not-loaded", {"hidden_size": 16}),
        ("model-not-loaded", {"model_type": "unknown", "auto_map": {"AutoConfig": "x.C"}}),
    ],
)
def test_a_folder_that_transformers_would_not_read_or_run_code_of(folders, tmp_path, load, code, settings):
    for kind in ("bert", "modernbert"):
        with raises(code, tmp_path / kind):
            load(changed(folders / kind, tmp_path / kind, **settings))


@pytest.mark.parametrize("load", [load_encoder, load_body])
def test_an_adapter_beside_the_weights_is_refused_and_a_mark_is_read_over(folders, tmp_path, load):
    place = changed(folders / "bert", tmp_path / "bert")
    (place / "config.json").write_bytes(BOM_UTF8 + (place / "config.json").read_bytes())
    own, marked = load(folders / "bert").state_dict(), load(place).state_dict()
    assert all(torch.equal(own[name], marked[name]) for name in own)
    write_json(place / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "org/other"})
    with raises("model-with-adapter", place):
        load(place)
