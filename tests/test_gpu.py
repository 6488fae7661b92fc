"""What only a GPU can show: the CUDA path computes what the CPU path computes. Run with `pytest -m gpu`."""

import numpy as np
import pytest
import torch

from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels import fp8
from nsllm_lite.kernels.fused_layers import use_fused_layers
from nsllm_lite.kernels.liger import use_liger_kernels
from nsllm_lite.kernels.varlen_attention import Attending, Layout, varlen_attention, varlen_attention_reference
from nsllm_lite.models.causal import PackedLM, autocast, collate
from nsllm_lite.models.loading import load_base, recompute_layers
from nsllm_lite.train import cpt
from tests.models.make import add_lora

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def require_float8(products: str | None) -> None:
    if products and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a card with float8")


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("kv_heads", [8, 2])
def test_varlen_attention_forward_and_backward(kv_heads):
    bounds = (0, 17, 18, 400, 1024)
    layout = Layout(bounds, torch.tensor(bounds, dtype=torch.int32, device="cuda"))
    torch.manual_seed(0)
    inputs = [torch.randn(1024, heads, 128, device="cuda", dtype=torch.bfloat16) for heads in (8, kv_heads, kv_heads)]
    grad = torch.randn(1024, 8, 128, device="cuda", dtype=torch.bfloat16)
    found = []
    for function, dtype in ((varlen_attention, torch.bfloat16), (varlen_attention_reference, torch.float32)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = function(*leaves, layout, Attending(128**-0.5))
        out.backward(grad.to(dtype))
        found.append([out, *(leaf.grad for leaf in leaves)])
    for ours, reference in zip(*found, strict=True):
        assert relative_error(ours, reference) < 2e-2


def loss_and_gradients(
    pico, device, dtype, recompute_cheap=None, whole=0, dequantised=False, compiled=False, head=None
):
    """NF4 and LoRA; on CUDA with Liger, varlen attention and fused cross-entropy; fused layers unless None."""
    ids = np.random.default_rng(0).integers(1, 300, 60).astype(np.int32)
    row = Row(ids, [17, 1, 30, 12], ["a", "b", "c", "d"], ["s"] * 4, [9] * 4)
    base = load_base(
        pico / "deep", quantisation="nf4", double_quantisation=True, compute_dtype=dtype, device=device,
        dequantised=dequantised,
    )  # fmt: skip
    if device == "cuda" and not compiled:
        use_liger_kernels(base)
    if whole:
        recompute_layers(base, whole)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    lm = PackedLM(add_lora(base, targets, rank=8, alpha=16), head).train()
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    if recompute_cheap is not None:
        assert use_fused_layers(lm, recompute_cheap, compiled) == 2
    batch = collate([row], device)
    with autocast(device, dtype):
        loss = lm(batch) / batch.num_targets
    loss.backward()
    return loss.item(), [p.grad.cpu() for p in lm.parameters() if p.requires_grad]


@pytest.fixture(scope="module")
def on_the_cpu(pico):
    return loss_and_gradients(pico, "cpu", "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "how",
    [
        {}, {"recompute_cheap": False}, {"recompute_cheap": True}, {"recompute_cheap": True, "whole": 1},
        {"recompute_cheap": True, "dequantised": True}, {"recompute_cheap": True, "head": "chunked"},
        {"recompute_cheap": False, "whole": 1, "dequantised": True, "compiled": True},
    ],
    ids=lambda how: ", ".join(how) or "PEFT",
)  # fmt: skip
def test_loss_and_gradients_on_cuda_equal_the_cpu(pico, on_the_cpu, dtype, how):
    loss, gradients = loss_and_gradients(pico, "cuda", dtype, **how)
    assert loss == pytest.approx(on_the_cpu[0], rel=1e-2)
    for found, expected in zip(gradients, on_the_cpu[1], strict=True):
        cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
        assert cosine > 0.99
        assert relative_error(found, expected) < 0.15


def test_weights_held_dequantised_change_no_bit_on_cuda(pico):
    one, two = (loss_and_gradients(pico, "cuda", "bfloat16", True, 0, held)[0] for held in (False, True))
    assert one == two


@pytest.mark.parametrize(("dtype", "products"), [("bfloat16", None), ("float16", None), ("bfloat16", "fp8")])
def test_a_whole_run_on_cuda(pico_recipe, dtype, products):
    require_float8(products)
    asked = pico_recipe(compute_dtype=dtype, products=products, execution={"device": "cuda"}, optimizer={
        "name": "paged_adamw8bit", "learning_rate": 5e-3, "betas": [0.9, 0.999], "weight_decay": 0.0,
        "max_grad_norm": 1.0})  # fmt: skip
    results = cpt.train(asked)
    after, before = (results["heldout"][when]["domain"]["all"]["loss"] for when in ("after", "before"))
    assert after < before


@pytest.mark.parametrize("tokens", [1, 37, 512, 4000])
def test_products_in_float8_are_those_that_are_emulated(tokens):
    require_float8("fp8")
    torch.manual_seed(0)
    x, W = (torch.randn(*shape, dtype=torch.bfloat16) for shape in ((tokens, 512), (256, 512)))
    dy = torch.randn(tokens, 256, dtype=torch.bfloat16)
    found, expected = [], []
    for device, results in (("cpu", expected), ("cuda", found)):
        weight = fp8.weight_of(lambda device=device: W.to(device), both=True)
        q = fp8.quantise(x.to(device))
        results += [q.values.float(), q.scale, fp8.forward(q, weight), fp8.backward(dy.to(device), weight)]
    torch.testing.assert_close([tensor.cpu() for tensor in found], expected, rtol=2**-7, atol=1e-2)
