"""Liger's kernels in one model instance, in triton's interpreter on the CPU (fp32; a few seconds an op).

The interpreter needs two repairs (triton 3.7, liger-kernel 0.8): it passes Python floats through where compiled triton
makes them fp32 scalars, and its `rsqrt` is an empty stub. Run with `pip install triton liger-kernel` and
`TRITON_INTERPRET=1`; skipped where liger-kernel is not installed, as in the CPU environment.
"""

import os

import numpy as np
import pytest
import torch

from nsllm_lite.formats.rows import Row
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.models.loading import load_base, recompute_layers
from nsllm_lite.models.lora import add_adapter
from tests.kernels.test_fused_layers import FAMILIES, adapted, assert_close, loss_and_gradients
from tests.raising import raises

pytest.importorskip("liger_kernel", reason="Liger's kernels come with the gpu extra")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("without a GPU the kernels need TRITON_INTERPRET=1", allow_module_level=True)


@pytest.fixture(scope="module")
def _interpreter():
    if torch.cuda.is_available():
        yield
        return
    import triton.language as tl
    from triton.language import core
    from triton.runtime import interpreter

    patched = pytest.MonkeyPatch()
    convert = interpreter._implicit_cvt

    def with_floats(value):
        if isinstance(value, float):
            handle = interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32)
            return core.tensor(handle, tl.float32)
        return convert(value)

    patched.setattr(interpreter, "_implicit_cvt", with_floats)
    import liger_kernel.ops.rms_norm as rms_norm

    patched.setattr(rms_norm, "rsqrt", lambda x: tl.rsqrt(x))
    yield
    patched.undo()


@pytest.mark.usefixtures("_interpreter")
def test_the_same_loss_and_gradients_and_no_other_model_touched(pico):
    from nsllm_lite.kernels.liger import use_liger_kernels

    def load():
        return load_base(
            pico / "base", quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu"
        ).requires_grad_(True)

    ids = np.random.default_rng(0).integers(1, 300, 24).astype(np.int32)
    batch = collate([Row(ids, [10, 14], ["a", "b"], ["s", "s"], [9, 9])], "cpu")
    plain, swapped = load(), load()
    counts = use_liger_kernels(swapped)
    assert counts == {"rms_norm": 2 * 4 + 1, "swiglu": 2, "rope": 2}  # two layers: two norms and QK-norm each
    losses = {}
    for name, instance in (("plain", plain), ("swapped", swapped)):
        loss = PackedLM(instance)(batch)
        loss.backward()
        losses[name] = loss.item()
    assert losses["swapped"] == pytest.approx(losses["plain"], rel=1e-6)
    for (name, one), two in zip(plain.named_parameters(), swapped.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5), name
    assert "forward" not in vars(plain.model.layers[0].mlp)
    assert "forward" not in vars(load().model.norm)


def test_a_model_without_such_modules_is_refused():
    from nsllm_lite.kernels.liger import use_liger_kernels

    with raises("liger-no-modules", "Linear"):
        use_liger_kernels(torch.nn.Linear(2, 2))


@pytest.mark.usefixtures("_interpreter")
@pytest.mark.parametrize("recompute_cheap", [None, False, True])
def test_together_with_nf4_lora_and_recomputation(pico, recompute_cheap):
    """As a run on a GPU puts them together: NF4, Liger, recomputed layers, LoRA; fused layers unless None."""
    from nsllm_lite.kernels.fused_layers import use_fused_layers
    from nsllm_lite.kernels.liger import use_liger_kernels
    from nsllm_lite.recipe.train import Adapter

    ids = np.random.default_rng(1).integers(1, 300, 24).astype(np.int32)
    batch = collate([Row(ids, [10, 14], ["a", "b"], ["s", "s"], [9, 9])], "cpu")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    found = []
    for with_liger in (False, True):
        base = load_base(
            pico / "base", quantisation="nf4", double_quantisation=True, compute_dtype="float32", device="cpu"
        )
        if with_liger:
            use_liger_kernels(base)
            recompute_layers(base, 1)
        adapter = Adapter(rank=4, alpha=8, rslora=False, targets=targets)
        lm = PackedLM(add_adapter(base, adapter, "x", seed=0)).train()
        with torch.no_grad():
            for name, parameter in lm.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
        if with_liger and recompute_cheap is not None:
            assert use_fused_layers(lm, recompute_cheap) == 2
        loss = lm(batch)
        loss.backward()
        found.append((loss.item(), [p.grad for p in lm.parameters() if p.requires_grad]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert len(found[0][1]) == 2 * 2 * 7
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.usefixtures("_interpreter")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_of_the_fused_layers(family):
    from nsllm_lite.kernels.fused_layers import use_fused_layers
    from nsllm_lite.kernels.liger import use_liger_kernels

    expected = loss_and_gradients(adapted(family))
    lm = adapted(family)
    assert use_liger_kernels(lm)["rope"] == 2
    assert use_fused_layers(lm, recompute_cheap=True) == 2
    assert_close(loss_and_gradients(lm), expected)


@pytest.mark.usefixtures("_interpreter")
def test_the_fused_cross_entropy_is_ours():
    """What runs on CUDA (Liger's) and what runs on the CPU (ours) are the same function."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    from nsllm_lite.kernels.linear_cross_entropy import IGNORE, linear_cross_entropy

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    targets = torch.randint(0, 90, (20,))
    targets[[4, 19]] = IGNORE
    found = []
    for function in (linear_cross_entropy, liger_fused_linear_cross_entropy):
        torch.manual_seed(1)
        where = "cpu" if function is linear_cross_entropy else device
        hidden = torch.randn(20, 32).to(where).requires_grad_()
        weight = torch.randn(90, 32).to(where)
        options = {} if function is linear_cross_entropy else {"ignore_index": IGNORE, "reduction": "sum"}
        loss = function(hidden, weight, targets.to(where), **options)
        loss.backward()
        found.append((loss.detach().cpu(), hidden.grad.cpu()))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)
