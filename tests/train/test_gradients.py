"""The one buffer of gradients, and the copies of A and B that a step's micro-batches share."""

import pytest
import torch

from nsllm_lite.kernels.fused_layers import lora_groups, use_fused_layers
from nsllm_lite.models.causal import autocast
from nsllm_lite.train.gradients import Gradients
from tests.kernels.test_fused_layers import adapted, batch

TARGETS = {"all": {}, "two": {"targets": ["k_proj", "down_proj"]}}
TARGETS["and embeddings"] = {"modules_to_save": ["embed_tokens", "lm_head"]}


def summed(lm, dtype: str, seeds=(0, 1)) -> dict[str, torch.Tensor]:
    """Of two micro-batches, as autograd adds them up."""
    lm.zero_grad(set_to_none=True)
    for seed in seeds:
        with autocast("cpu", dtype):
            loss = lm(batch(seed))
        loss.backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.requires_grad}


def fused(dtype: str = "float32", **adapter):
    lm = adapted("Qwen3", **adapter)
    for parameter in lm.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, dtype))
    assert use_fused_layers(lm, recompute_cheap=True) == 2
    return lm


@pytest.mark.parametrize("adapter", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sums_are_those_of_autograd(adapter, dtype):
    expected = summed(fused(dtype, **TARGETS[adapter]), dtype)
    lm = fused(dtype, **TARGETS[adapter])
    gradients = Gradients(lm, getattr(torch, dtype))
    for _ in range(2):  # again after they were zeroed
        with gradients.of_step():
            for seed in (0, 1):
                with autocast("cpu", dtype):
                    loss = lm(batch(seed))
                loss.backward()
        found = {name: p.grad for name, p in lm.named_parameters() if p.requires_grad}
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert gradient.dtype == torch.float32
            far = (gradient - expected[name]).norm() / expected[name].norm()
            assert far < (1e-6 if dtype == "float32" else 2e-2), name
        norm = float(torch.stack([g.norm() for g in found.values()]).norm())
        assert float(gradients.flat.norm()) == pytest.approx(norm, rel=1e-6)
        before = gradients.flat.clone()
        assert gradients.clip(norm / 4) == pytest.approx(norm, rel=1e-6)
        torch.testing.assert_close(gradients.flat, before / 4)
        assert gradients.clip(norm) == pytest.approx(norm / 4, rel=1e-5)
        torch.testing.assert_close(gradients.flat, before / 4)
        gradients.zero()
        assert not any(p.grad.any() for p in gradients.parameters)


def test_copies_are_those_of_this_step_and_of_no_other_time():
    lm = fused()
    gradients = Gradients(lm, torch.float32)
    with gradients.of_step():
        first = lm(batch()).item()
        held = [group.held for group in lora_groups(lm)]
        assert len(held) == 8
        assert None not in held
    with torch.no_grad():
        for parameter in gradients.parameters:
            parameter.mul_(2)
    moved = lm(batch()).item()
    assert moved != pytest.approx(first, rel=1e-4)
    assert {group.held for group in lora_groups(lm)} == {None}
    with gradients.of_step():
        assert lm(batch()).item() == pytest.approx(moved, rel=1e-6)
    with pytest.raises(KeyError), gradients.of_step():
        raise KeyError
    assert {group.held for group in lora_groups(lm)} == {None}
