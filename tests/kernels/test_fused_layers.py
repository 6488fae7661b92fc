"""The fused decoder layer against transformers' and PEFT's, and compiled against itself."""

import functools
import shutil

import numpy as np
import pytest
import torch
import transformers

from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels import fused_layers
from nsllm_lite.kernels.liger import use_liger_kernels
from nsllm_lite.kernels.varlen_attention import varlen_attention_reference
from nsllm_lite.models import attention
from nsllm_lite.models.attention import ATTENTION, register_attention
from nsllm_lite.models.causal import PackedLM, autocast, collate
from nsllm_lite.models.execution import kept_numbers
from nsllm_lite.models.loading import load_base, nf4_states, recompute_layers
from nsllm_lite.models.lora import add_adapter
from nsllm_lite.models.sizes import ModelSize
from nsllm_lite.recipe.train import Adapter

ALL_LINEAR = [name.split(".")[1] for name in fused_layers.PROJECTIONS]
FAMILIES = {
    "Qwen3": transformers.Qwen3Config, "Qwen2": transformers.Qwen2Config, "Llama": transformers.LlamaConfig,
    "Mistral": transformers.MistralConfig,
}  # fmt: skip
SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False, "pad_token_id": 0,
}  # fmt: skip


def batch(seed: int = 0):
    """Of seed 0 24 tokens in two documents, of others a few more of both."""
    lengths = [9, 15, *[seed + 1] * seed]
    ids = np.random.default_rng(seed).integers(1, 50, sum(lengths)).astype(np.int32)
    return collate([Row(ids, lengths, ["a"] * len(lengths), ["s"] * len(lengths), lengths)], "cpu")


def adapted(family: str, **changes) -> PackedLM:
    register_attention()
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(FAMILIES[family](**SIZES), attn_implementation=ATTENTION)
    values = {"rank": 4, "alpha": 8, "rslora": True, "targets": ALL_LINEAR} | changes
    peft = add_adapter(base.requires_grad_(False), Adapter(**values), "x", seed=0)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:  # else half of the gradients would be zero
            torch.nn.init.normal_(parameter, std=0.1)
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
    return PackedLM(peft).train()


def loss_and_gradients(lm, seed: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    lm.zero_grad(set_to_none=True)
    loss = lm(batch(seed))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in lm.named_parameters() if p.requires_grad}


def assert_close(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in found[1].items():
        assert float((gradient - expected[1][name]).norm() / expected[1][name].norm()) < 1e-4, name


CASES = [(family, cheap, {}) for family in FAMILIES for cheap in (True, False)]
CASES += [("Qwen3", True, {"targets": ["k_proj", "down_proj"]})]
CASES += [("Qwen3", True, {"modules_to_save": ["embed_tokens", "lm_head"]})]


@pytest.mark.parametrize(("family", "recompute_cheap", "adapter"), CASES)
def test_losses_and_gradients_are_peft_s(family, recompute_cheap, adapter):
    expected = loss_and_gradients(adapted(family, **adapter))
    lm = adapted(family, **adapter)
    assert fused_layers.use_fused_layers(lm, recompute_cheap) == 2
    found = loss_and_gradients(lm)
    assert_close(found, expected)
    assert all(gradient.any() for gradient in found[1].values())


def on_pico(pico, cheap=True, whole=0, fused=True, compiled=False, liger=False, in_fp8=None, **options) -> PackedLM:
    """NF4 on the CPU, with LoRA that has moved."""
    options = {"quantisation": "nf4", "double_quantisation": True, "compute_dtype": "float32", **options}
    base = load_base(pico / "deep", device="cpu", **options)
    if liger:
        use_liger_kernels(base)
    if whole:
        recompute_layers(base, whole)
    adapter = Adapter(rank=4, alpha=8, rslora=True, targets=ALL_LINEAR)
    lm = PackedLM(add_adapter(base, adapter, "x", seed=0)).train()
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    if fused:
        assert fused_layers.use_fused_layers(lm, cheap, compiled, in_fp8) == 2
    return lm


def test_what_is_recomputed_changes_nothing_but_rounding(pico):
    expected = loss_and_gradients(on_pico(pico, cheap=False))
    for cheap, whole in ((True, 0), (True, 1), (False, 2)):
        assert_close(loss_and_gradients(on_pico(pico, cheap, whole)), expected)


def test_products_in_float8_are_near_and_the_same_however_weights_are_held(pico):
    """A product's two operands are wrong by 2^-5 or so each; some ten products lie between a loss and a gradient."""
    expected_loss, expected = loss_and_gradients(on_pico(pico))
    loss, gradients = loss_and_gradients(on_pico(pico, in_fp8="restored"))
    assert loss != expected_loss
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    errors = [float((gradient - expected[name]).norm() / expected[name].norm()) for name, gradient in gradients.items()]
    assert 2**-7 < np.mean(errors) < 10**0.5 * 2**-4.5
    assert max(errors) < 4 * 10**0.5 * 2**-4.5
    again, others = loss_and_gradients(on_pico(pico, in_fp8="held"))
    assert again == loss
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    for cheap, whole in ((True, 1), (False, 0)):  # where a last bit differs, another e4m3 may be the nearest
        again, others = loss_and_gradients(on_pico(pico, cheap, whole, in_fp8="held"))
        assert again == loss
        for name, gradient in gradients.items():
            assert float((gradient - others[name]).norm() / gradient.norm()) < 2**-6
    lm = on_pico(pico, in_fp8="held")
    with torch.no_grad():
        assert lm(batch()).item() == expected_loss, "without gradients there is no float8"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_no_further_from_fp32_than_peft(pico, dtype):
    exact, errors = on_pico(pico), {}
    for fused in (True, False):
        lm, of_tensors = on_pico(pico, compute_dtype=dtype, fused=fused), []
        for seed in range(6):
            expected = loss_and_gradients(exact, seed)[1]
            with autocast("cpu", dtype):
                gradients = loss_and_gradients(lm, seed)[1]
            assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
            of_tensors += [float((g - expected[name]).norm() / expected[name].norm()) for name, g in gradients.items()]
        errors[fused] = np.mean(of_tensors)
    assert errors[True] < 1.1 * errors[False]


def test_trained_embeddings_leave_attention_in_16_bits(monkeypatch):
    """They are fp32, and so are the hidden states after them."""
    seen = set()

    def attend(q, k, v, layout, how):
        seen.update((q.dtype, k.dtype, v.dtype))
        return varlen_attention_reference(q, k, v, layout, how)

    for module in (fused_layers, attention):
        monkeypatch.setattr(module, "varlen_attention", attend)
    for fused in (False, True):
        lm = adapted("Qwen3", modules_to_save=["embed_tokens"])
        for parameter in lm.parameters():
            parameter.data = parameter.data if parameter.requires_grad else parameter.data.bfloat16()
        if fused:
            fused_layers.use_fused_layers(lm, recompute_cheap=True)
        with autocast("cpu", "bfloat16"):
            loss_and_gradients(lm)
    assert seen == {torch.bfloat16}


@pytest.fixture
def compiler(monkeypatch):
    """torch.compile by a given backend, with counters from zero."""

    def use(backend: str) -> dict:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
        return torch._dynamo.utils.counters

    yield use
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_layers_change_nothing_but_rounding(pico, compiler):
    """Graphs as they are captured and divided, but not turned into C++: that takes a minute."""
    counters, graphs = compiler("aot_eager_decomp_partition"), []
    plain, lm = (on_pico(pico, cheap=False, whole=1, compiled=compiled, dequantised=True) for compiled in (False, True))
    for seed in range(3):
        assert_close(loss_and_gradients(lm, seed), loss_and_gradients(plain, seed))
        graphs.append(counters["stats"]["unique_graphs"])
    # Two, and again for the first layer, whose input has no gradient; none for other numbers of tokens and documents
    assert graphs == [4, 4, 4]
    assert not counters["graph_break"]
    kept = [numbers_kept(each, lambda each: each(batch(2))) for each in (lm, plain)]
    assert kept[0] <= kept[1]
    with pytest.raises(AssertionError, match="not in NF4"):
        on_pico(pico, compiled=True)


def numbers_kept(lm, forward, counts=lambda tensor: True) -> int:
    """For the backward pass of `forward`, of the tensors that `counts`; parameters not among them."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in lm.parameters()}
    kept = {}

    def keep(tensor):
        if counts(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(lm)
    return sum(number for place, number in kept.items() if place not in parameters)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_compiled_to_machine_code(family, compiler):
    compiler("inductor")
    plain, lm = adapted(family), adapted(family)
    assert fused_layers.use_fused_layers(lm, recompute_cheap=False, compiled=True) == 2
    for seed in range(2):
        assert_close(loss_and_gradients(lm, seed), loss_and_gradients(plain, seed))


def test_weights_held_dequantised_change_no_bit(pico):
    held, restored = on_pico(pico, dequantised=True), on_pico(pico)
    states = [nf4_states(lm.model) for lm in (held, restored)]
    for name, state in states[0].items():
        assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(state, states[1][name], strict=True))
    (loss, gradients), (expected, expected_gradients) = loss_and_gradients(held), loss_and_gradients(restored)
    assert loss == expected
    assert all(torch.equal(gradient, expected_gradients[name]) for name, gradient in gradients.items())
    ids = torch.tensor([[3, 4, 5]])
    made = [lm.eval().model.generate(input_ids=ids, max_new_tokens=5, do_sample=False) for lm in (held, restored)]
    assert torch.equal(*made)


def test_other_layers_stay_as_they_are():
    assert fused_layers.use_fused_layers(adapted("Qwen3", dora=True), recompute_cheap=True) == 0
    config = transformers.Gemma2Config(**SIZES)
    gemma = transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False)
    assert fused_layers.use_fused_layers(gemma, recompute_cheap=True) == 0
    trained_itself = transformers.AutoModelForCausalLM.from_config(FAMILIES["Qwen3"](**SIZES))
    assert fused_layers.use_fused_layers(trained_itself, recompute_cheap=True) == 0


def test_generation_goes_the_usual_way():
    lm = adapted("Qwen3").eval()
    ids = torch.tensor([[3, 4, 5]])
    expected = lm.model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
    fused_layers.use_fused_layers(lm, recompute_cheap=True)
    assert torch.equal(lm.model.generate(input_ids=ids, max_new_tokens=5, do_sample=False), expected)


class Lean(torch.autograd.Function):
    """Keeps what it is given, as Liger's norm and the fused attention do."""

    @staticmethod
    def forward(ctx, make, *given):
        ctx.save_for_backward(*given)
        return make(*given)


@pytest.mark.parametrize("recompute_cheap", [True, False])
def test_what_a_layer_keeps_is_what_the_planner_counts(monkeypatch, recompute_cheap):
    def attend(q, k, v, layout, how):
        out = torch.zeros_like(q)
        return Lean.apply(lambda *given: out, q, k, v, out)

    lm = adapted("Qwen3")
    monkeypatch.setattr(fused_layers, "varlen_attention", attend)
    monkeypatch.setattr(fused_layers, "_swiglu", lambda gate, up: Lean.apply(torch.mul, gate, up))
    for module in lm.modules():
        if type(module).__name__ == "Qwen3RMSNorm":
            module.forward = lambda x: Lean.apply(torch.clone, x)
    assert fused_layers.use_fused_layers(lm, recompute_cheap) == 2
    lm.model.enable_input_require_grads()
    tokens = batch()
    num_tokens = len(tokens.input_ids)
    kept = numbers_kept(
        lm, lambda lm: lm.hidden(tokens), lambda tensor: num_tokens in tensor.shape and tensor.is_floating_point()
    )
    rotation, last_norm = 2 * 8, 32
    size = ModelSize.of(lm.model.config.to_dict())
    counted = 2 * kept_numbers(size, recompute_cheap, low_rank=7 * 4)
    assert kept / num_tokens - rotation - last_norm == counted
