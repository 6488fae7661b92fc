"""Every accepted architecture: the packed forward, the losses and the scores are those of transformers' own forward."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from nsllm_lite.formats.rows import Row
from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.kernels.fused_layers import LAYERS, use_fused_layers
from nsllm_lite.kernels.linear_cross_entropy import Logits
from nsllm_lite.models.architectures import ACCEPTED, logits_of, longest_row, require_accepted, require_positions
from nsllm_lite.models.attention import ATTENTION, register_attention
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.models.generate import Engine, encode
from nsllm_lite.models.loading import load_base, nf4_states
from nsllm_lite.models.sizes import read_size
from nsllm_lite.train import cpt, setup
from nsllm_lite.train.samples import continuations
from nsllm_lite.train.sft import for_trl
from tests.conftest import ROW_TOKENS
from tests.raising import raises

SHAPE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
WINDOW = 8  # shorter than the longest document
BOTH = ["sliding_attention", "full_attention"] * 2
WINDOWS = {"sliding_window": WINDOW, "layer_types": BOTH}
QWEN_WINDOWS = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
ROPE = {"rope_theta": 1e4, "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, **ROPE}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ROPE}
HEADS = {"head_dim": 8}
GEMMA = HEADS | WINDOWS | {"query_pre_attn_scalar": 8}
GRANITE = {"logits_scaling": 8.0, "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}
CASES = {
    "qwen3": ("Qwen3Config", HEADS),
    "qwen3 with windows": ("Qwen3Config", HEADS | QWEN_WINDOWS),
    "qwen3 with YaRN": ("Qwen3Config", HEADS | {"rope_parameters": YARN}),
    "qwen3_moe": ("Qwen3MoeConfig", HEADS | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2 with windows": ("Qwen2Config", QWEN_WINDOWS),
    "llama": ("LlamaConfig", {}),
    "llama 3": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral with windows": ("MistralConfig", {"sliding_window": WINDOW}),
    "smollm3": ("SmolLM3Config", {}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", WINDOWS),
    "granite": ("GraniteConfig", GRANITE),
    "gemma2": ("Gemma2Config", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3_text": ("Gemma3TextConfig", GEMMA),
    "phi3": ("Phi3Config", {"sliding_window": WINDOW}),
    "glm": ("GlmConfig", HEADS),
    "glm4": ("Glm4Config", HEADS),
    "cohere2": ("Cohere2Config", WINDOWS | {"logit_scale": 0.25}),
}

# Of other windows and positions the packed forward tells
KINDS = [
    pytest.param(case, marks=pytest.mark.slow) if " " in case and case != "mistral with windows" else case
    for case in CASES
]


def make(case: str, seed: int = 0, **changes):
    name, options = CASES[case]
    torch.manual_seed(seed)
    register_attention()
    config = getattr(transformers, name)(**SHAPE | options | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=ATTENTION)
    for parameter in model.parameters():  # norms are born as ones and zeros
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def batch(*lengths: int):
    generator, lengths = torch.Generator().manual_seed(1), list(lengths) or [3, 41, 1, 15]
    ids = torch.randint(3, 96, (sum(lengths),), generator=generator).int().numpy()
    return collate([Row(ids, lengths, list("abcd")[: len(lengths)], ["s"] * len(lengths), [1] * len(lengths))], "cpu")


def alone(model, tokens):
    """The logits of each document, by transformers in plain torch."""
    model.set_attn_implementation("eager")
    documents = [tokens.input_ids[start:stop][None] for start, stop in pairwise(tokens.layout.bounds)]
    logits = torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in documents])
    model.set_attn_implementation(ATTENTION)
    return logits


def test_the_table_has_a_case_for_every_accepted_kind():
    assert {make(case).config.model_type for case in CASES} == ACCEPTED.keys()
    page = " ".join((Path(__file__).parents[2] / "docs/training.md").read_text().split())
    assert f"a hub id of {', '.join([*ACCEPTED.values()][:-1])} or {[*ACCEPTED.values()][-1]}: for each" in page


@pytest.mark.parametrize("case", CASES)
def test_the_packed_forward_is_that_of_each_document_alone(case):
    """With the losses of evaluation, the logits that TRL sees, and an answer that is generated."""
    model, tokens = make(case), batch()
    lm = PackedLM(model)
    with torch.no_grad():
        expected = alone(model, tokens)
        of_trl = model(**{name: of for name, of in for_trl(tokens).items() if name != "labels"}, use_cache=False)
    torch.testing.assert_close(lm.logits(tokens), expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(of_trl.logits[0], expected, rtol=1e-5, atol=2e-5)
    losses = cross_entropy(expected, tokens.targets, ignore_index=-100, reduction="none")
    torch.testing.assert_close(lm.losses(tokens), losses, rtol=1e-5, atol=2e-5)
    opening = tokens.input_ids[3:30].tolist()
    (written,) = continuations(lm, [opening], 6, 1)
    assert written == greedy(model, opening, 6)


def greedy(model, ids: list[int], count: int, ends: set[int] = frozenset({1})) -> list[int]:
    """Without a cache: all that stands so far, again and again."""
    model.set_attn_implementation("eager")
    said = []
    with torch.no_grad():
        while len(said) < count and not ends & set(said):
            said.append(model(input_ids=torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax().item())
    model.set_attn_implementation(ATTENTION)
    return said


@pytest.mark.parametrize("recompute_cheap", [pytest.param(None, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("case", KINDS)
def test_the_fused_loss_has_its_value_and_gradients(case, recompute_cheap):
    model, tokens = make(case), batch()
    model.requires_grad_(False)
    trained = model.get_input_embeddings().weight.requires_grad_()
    num_fused = 0 if recompute_cheap is None else use_fused_layers(model, recompute_cheap)
    assert num_fused == (4 if recompute_cheap and type(model.base_model.layers[0]).__name__ in LAYERS else 0)
    loss = PackedLM(model)(tokens)
    loss.backward()
    found, trained.grad = trained.grad, None
    expected = cross_entropy(alone(model, tokens), tokens.targets, ignore_index=-100, reduction="sum")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found, trained.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", KINDS)
def test_labels_are_scored_and_answers_given_as_by_transformers_alone(case, talker):
    """Through the engine of evaluation, with shared beginnings, padding and a cache."""
    tokenizer = load_auto_tokenizer(talker)
    model = make(case, vocab_size=len(tokenizer))
    engine = Engine(model, tokenizer, batch_tokens=300)
    prompts = [f"The rate of cells: {words}. Part:" for words in ("a", "b c d e f", "the slope was measured again")]
    labels = [" Background", " Methods of all", " A"]
    found = dict(engine.rank(prompts, [labels] * 3))
    said = dict(engine.generate(prompts, 5, []))
    for number, prompt in enumerate(prompts):
        model.set_attn_implementation("eager")
        start = encode(tokenizer, prompt)
        for label, value in zip(labels, found[number], strict=True):
            whole = encode(tokenizer, prompt + label)
            with torch.no_grad():
                scores = model(input_ids=torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
            alone = sum(scores[place - 1, whole[place]].item() for place in range(len(start), len(whole)))
            assert value == pytest.approx(alone, rel=1e-4)
        ids = greedy(model, start, 5, ends := set(engine._end_ids()))
        assert said[number] == tokenizer.decode([token for token in ids if token not in ends], skip_special_tokens=True)


def test_other_kinds_are_refused_before_anything_starts(tmp_path, pico_recipe, pico, monkeypatch):
    """A head with a bias, attention sinks, experts of another kind: their forward is not honoured."""
    shutil.copytree(pico / "base", tmp_path / "phi")
    config = json.loads((tmp_path / "phi/config.json").read_text()) | {"model_type": "phi"}
    (tmp_path / "phi/config.json").write_text(json.dumps(config))
    monkeypatch.setattr(setup, "make_model", lambda *of: pytest.fail("loaded"))
    with raises("architecture-not-accepted", "model_type='phi'", "Qwen3, Qwen3-MoE"):
        cpt.train(pico_recipe(model=str(tmp_path / "phi")))
    with raises("architecture-not-causal", "use_bidirectional_attention"):
        require_accepted({"model_type": "gemma3_text", "use_bidirectional_attention": True})
    with raises("architecture-not-accepted", "'phi'"):
        PackedLM(AutoModelForCausalLM.from_config(transformers.PhiConfig(**SHAPE)))


@pytest.mark.parametrize(
    ("rope", "longest"),
    [({}, 64), ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
     ({"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 16}, 16),
     ({"type": "longrope", "original_max_position_embeddings": 32}, 32)],
)  # fmt: skip
def test_rows_longer_than_the_positions_are_refused(rope, longest, tmp_path, pico_recipe, pico):
    config = {"max_position_embeddings": 64, "rope_scaling": rope}
    assert longest_row(config) == longest
    require_positions(config, longest, "")
    with raises("rows-beyond-positions", f"{longest:,} positions", f"row_tokens={longest}"):
        require_positions(config, longest + 1, "row_tokens")
    shutil.copytree(pico / "base", tmp_path / "short")
    config = json.loads((pico / "base/config.json").read_text()) | {"max_position_embeddings": ROW_TOKENS - 1}
    (tmp_path / "short/config.json").write_text(json.dumps(config))
    with raises("rows-beyond-positions", f"row_tokens (of the corpus)={ROW_TOKENS - 1}"):
        cpt.train(pico_recipe(model=str(tmp_path / "short")))


def test_experts_are_counted_and_stay_in_16_bits(tmp_path):
    """bitsandbytes holds linear modules in NF4; transformers keeps experts as one tensor."""
    model = make("qwen3_moe", hidden_size=64, head_dim=16)
    model.save_pretrained(tmp_path)
    size = read_size(tmp_path)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim >= 2 and "mlp.gate.weight" not in name)
    assert size.params == matrices
    options = {"quantisation": "nf4", "double_quantisation": True, "compute_dtype": "float32", "device": "cpu"}
    held = nf4_states(load_base(tmp_path, **options))
    assert {name.rpartition(".")[2] for name in held} == size.linears.keys()
    assert size.linears.keys() == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize("value", ["4096", [1], -5, True, 2048.5, 10**400])
def test_values_that_a_config_cannot_have_are_named(value):
    for key in ("max_position_embeddings", "num_experts", "sliding_window", "num_hidden_layers", "head_dim"):
        with raises("config-values-wrong", f"{key}: {value!r}"[:50]):
            require_accepted({"model_type": "mistral", key: value})
    with raises("config-values-wrong", "original_max_position_embeddings"):
        require_accepted({"model_type": "llama", "rope_scaling": {"original_max_position_embeddings": value}})
    for rope in ([1], "dynamic"):
        with raises("config-rope-wrong", repr(rope)):
            require_accepted({"model_type": "llama", "rope_scaling": rope})
    for kind in ([1], {"a": 1}, None):
        with raises("architecture-not-accepted"):
            require_accepted({"model_type": kind})
    with raises("config-values-wrong", "logits_scaling: 0"):
        require_accepted({"model_type": "granite", "logits_scaling": 0})
    with raises("config-values-wrong", "num_hidden_layers: 10000000"):
        require_accepted({"model_type": "llama", "num_hidden_layers": 10_000_000})


def test_keys_of_other_kinds_change_no_logits():
    """transformers ignores a logits_scaling in a Llama."""
    config = transformers.LlamaConfig(**SHAPE, logits_scaling=8.0, logit_scale=0.5, final_logit_softcapping=1.0)
    assert logits_of(config) == Logits()
