import math
import sys
import types
from functools import partial

import pytest
import torch

from nsllm_lite.kernels import linear_cross_entropy as lce


@pytest.mark.parametrize("chunk_tokens", [1, 7, 100, None])
@pytest.mark.parametrize("train_head", [False, True])
def test_value_and_gradients_equal_the_reference(monkeypatch, chunk_tokens, train_head):
    torch.manual_seed(0)
    monkeypatch.setattr(lce, "CHUNK_BYTES", 4 * 53 * 5)
    targets = torch.randint(0, 53, (31,))
    targets[[3, 30]] = lce.IGNORE
    found = []
    ours = partial(lce.linear_cross_entropy, head="chunked", chunk_tokens=chunk_tokens)
    for function in (ours, lce.linear_cross_entropy_reference):
        torch.manual_seed(1)
        hidden = torch.randn(31, 16, requires_grad=True)
        weight = torch.randn(53, 16, requires_grad=train_head)
        loss = function(hidden, weight, targets)
        (loss * 0.25).backward()
        found.append((loss.detach(), hidden.grad, weight.grad))
    (loss, grad_hidden, grad_weight), (loss_ref, grad_hidden_ref, grad_weight_ref) = found
    assert torch.allclose(loss, loss_ref, rtol=1e-6)
    assert torch.allclose(grad_hidden, grad_hidden_ref, atol=1e-6)
    if train_head:
        assert torch.allclose(grad_weight, grad_weight_ref, atol=1e-5)
    else:
        assert grad_weight is None


def test_chunks_are_as_large_as_asked(monkeypatch):
    sizes, log_softmax = [], torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda x, dim: sizes.append(len(x)) or log_softmax(x, dim))
    hidden, weight, targets = torch.randn(20, 8), torch.randn(30, 8), torch.randint(0, 30, (20,))
    lce.linear_cross_entropy(hidden, weight, targets, chunk_tokens=8)
    assert sizes == [8, 8, 4]
    sizes.clear()
    monkeypatch.setattr(lce, "CHUNK_BYTES", 4 * 30 * 15)
    lce.linear_cross_entropy(hidden, weight, targets)
    assert sizes == [15, 5]


def test_the_head_that_is_asked_for_computes_the_loss(monkeypatch):
    called = []
    liger = types.ModuleType("liger_kernel.transformers.functional")
    liger.liger_fused_linear_cross_entropy = lambda hidden, weight, targets, **options: called.append(options)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", liger)
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    arguments = torch.randn(4, 8), torch.randn(9, 8), torch.randint(0, 9, (4,))
    for head in (None, "chunked"):
        assert lce.linear_cross_entropy(*arguments, head).shape == ()
    assert not called
    lce.linear_cross_entropy(*arguments, "liger")
    assert called == [{"ignore_index": lce.IGNORE, "reduction": "sum", "chunk_mem_const": 2}]


@pytest.mark.parametrize(("tokens", "chunk"), [(4_096, 1_024), (16_384, 2_048), (1_000, 1_000), (2_048, 1_024)])
def test_liger_takes_chunks_of_a_thousand_tokens(tokens, chunk):
    """By its own arithmetic: ceil(V / (budget H)) chunks, each of the next power of two."""
    vocab, hidden = 151_936, 4_096
    chunks = -(-vocab // (lce.liger_budget(tokens, vocab, hidden) * hidden))
    assert min(tokens, 2 ** math.ceil(math.log2(-(-tokens // chunks)))) == chunk


def test_token_losses_sum_to_the_loss():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(9, 8), torch.randn(20, 8), torch.randint(0, 20, (9,))
    targets[4] = lce.IGNORE
    losses = lce.token_losses(hidden, weight, targets)
    assert losses[4] == 0
    assert torch.allclose(losses.sum(), lce.linear_cross_entropy(hidden, weight, targets))
