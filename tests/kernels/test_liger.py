"""Liger's kernels in one model instance, in triton's interpreter on the CPU (fp32; a few seconds an op).

The interpreter needs two repairs (triton 3.7, liger-kernel 0.8): it passes Python floats through where compiled triton
makes them fp32 scalars, and its `rsqrt` is an empty stub. Run with `pip install triton liger-kernel` and
`TRITON_INTERPRET=1`; skipped where liger-kernel is not installed, as in the CPU environment.
"""

import os

import numpy as np
import pytest
import torch

from nsllm_lite.kernels.fused_layers import use_fused_layers
from nsllm_lite.kernels.liger import use_liger_kernels
from nsllm_lite.kernels.linear_cross_entropy import IGNORE, linear_cross_entropy
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.loading import load_base
from tests.kernels.test_fused_layers import FAMILIES, adapted, assert_close, loss_and_gradients, on_pico
from tests.models.test_architectures import CASES, batch, make
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
    options = {"double_quantisation": False, "compute_dtype": "float32", "device": "cpu"}
    plain, swapped, third = (
        load_base(pico / "deep", quantisation="none", **options).requires_grad_(True) for _ in range(3)
    )
    counts = use_liger_kernels(swapped)
    assert counts == {"rms_norm": 2 * 4 + 1, "swiglu": 2, "rope": 2}  # two layers: two norms and QK-norm each
    assert_close(loss_and_gradients(PackedLM(swapped)), loss_and_gradients(PackedLM(plain)))
    assert "forward" not in vars(third.model.layers[0].mlp) | vars(third.model.norm)


def test_a_model_without_such_modules_is_refused():
    with raises("liger-no-modules", "Linear"):
        use_liger_kernels(torch.nn.Linear(2, 2))


@pytest.mark.usefixtures("_interpreter")
@pytest.mark.parametrize("recompute_cheap", [None, False, True])
def test_together_with_nf4_lora_and_recomputation(pico, recompute_cheap):
    """As a run on a GPU puts them together: NF4, Liger, recomputed layers, LoRA; fused layers unless None."""
    expected = loss_and_gradients(on_pico(pico, fused=False))
    lm = on_pico(pico, recompute_cheap, whole=1, fused=recompute_cheap is not None, liger=True)
    found = loss_and_gradients(lm)
    assert len(found[1]) == 2 * 2 * 7
    assert_close(found, expected)


@pytest.mark.usefixtures("_interpreter")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_of_the_fused_layers(family):
    expected = loss_and_gradients(adapted(family))
    lm = adapted(family)
    assert use_liger_kernels(lm)["rope"] == 2
    assert use_fused_layers(lm, recompute_cheap=True) == 2
    assert_close(loss_and_gradients(lm), expected)


@pytest.mark.usefixtures("_interpreter")
def test_the_fused_cross_entropy_is_ours():
    """What runs on CUDA (Liger's) and what runs on the CPU (ours) are the same function."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(20, 32), torch.randn(90, 32), torch.randint(0, 90, (20,))
    targets[[4, 19]] = IGNORE
    found = []
    for head, where in (("chunked", "cpu"), ("liger", device)):
        leaf = hidden.to(where, copy=True).requires_grad_()
        loss = linear_cross_entropy(leaf, weight.to(where), targets.to(where), head)
        loss.backward()
        found.append((loss.detach().cpu(), leaf.grad.cpu()))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


@pytest.mark.usefixtures("_interpreter")
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_change_no_accepted_architecture(case):
    """GLM and Command R rotate otherwise, Phi a part of the head, Command R has another norm: they keep their own."""
    plain, with_liger = PackedLM(make(case)), make(case)
    swapped = use_liger_kernels(with_liger)
    tokens = batch(3, 9, 1)
    torch.testing.assert_close(PackedLM(with_liger).losses(tokens), plain.losses(tokens), rtol=1e-4, atol=1e-4)
    kind = with_liger.config.model_type
    assert ("rope" in swapped) == (kind not in ("glm", "glm4", "cohere2", "phi3", "olmo2", "olmo3"))
    assert ("rms_norm" in swapped) == (kind not in ("cohere2", "gemma2", "gemma3_text"))
