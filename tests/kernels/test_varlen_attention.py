from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, varlen

import nsllm_lite.kernels.varlen_attention as varlen_attention_module
from nsllm_lite.kernels.varlen_attention import (
    Attending,
    Layout,
    fused,
    memory_efficient,
    varlen_attention,
    varlen_attention_reference,
)

BOUNDS = (0, 5, 6, 20)


def inputs(kv_heads: int = 2) -> tuple[list[torch.Tensor], Layout]:
    torch.manual_seed(0)
    return [torch.randn(20, heads, 8) for heads in (4, kv_heads, kv_heads)], Layout(BOUNDS, torch.tensor(BOUNDS))


@pytest.mark.parametrize("causal", [True, False])
def test_reference_is_softmax_attention_within_each_document(causal):
    (q, k, v), layout = inputs()
    found = varlen_attention(q, k, v, layout, Attending(0.3, causal))
    scores = torch.einsum("thd,shd->hts", q, k.repeat_interleave(2, dim=1)) * 0.3
    document = torch.tensor([0] * 5 + [1] + [2] * 14)
    allowed = document[:, None] == document[None]
    if causal:
        allowed &= torch.ones(20, 20).tril().bool()
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    expected = torch.einsum("hts,shd->thd", weights, v.repeat_interleave(2, dim=1))
    assert torch.allclose(found, expected, atol=1e-5)


def attend(q, k, v, bounds, causal, scale=None):
    layout = Layout(tuple(bounds.tolist()), bounds)
    return varlen_attention_reference(q, k, v, layout, Attending(scale or q.shape[-1] ** -0.5, causal))


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert max_q == max_k == 14
    return attend(query, key, value, cu_seq_q, is_causal)


def torch_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    return attend(query, key, value, cu_seq_q, {(-1, 0): True, (-1, -1): False}[window_size], scale)


def torch_2_13(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1),
               enable_gqa=False):  # fmt: skip
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return torch_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


@pytest.mark.parametrize("version", [torch_2_10, torch_2_11, torch_2_13])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_each_torch_version_is_called_in_its_own_words(monkeypatch, version, kv_heads, causal):
    (q, k, v), layout = inputs(kv_heads)
    monkeypatch.setattr(varlen, "varlen_attn", version)
    expected = varlen_attention_reference(q, k, v, layout, Attending(0.3, causal))
    assert torch.allclose(fused(q, k, v, layout, Attending(0.3, causal)), expected, atol=1e-6)


def test_the_installed_version_is_one_we_know():
    import inspect

    known = set(inspect.signature(varlen.varlen_attn).parameters)
    assert {"cu_seq_q", "cu_seq_k", "max_q", "max_k"} <= known
    assert known & {"is_causal", "window_size"}


def test_older_cards_take_the_memory_efficient_kernel_and_no_other(monkeypatch):
    """Grouped heads are repeated for it: with `enable_gqa` torch would take its plain implementation there."""
    (q, k, v), layout = inputs()
    with pytest.raises(RuntimeError, match="kernel"):
        memory_efficient(q, k, v, layout, Attending(0.3))  # the CPU has no such kernel, and none is taken in its place
    asked = []
    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", lambda kernels: asked.append(kernels) or nullcontext())
    plain, kernel = torch.nn.functional.scaled_dot_product_attention, []

    def attention(*tensors, **options):
        kernel.append(options["enable_gqa"])
        return plain(*tensors, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    results = []
    for function in (memory_efficient, varlen_attention_reference):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = function(*leaves, layout, Attending(0.3))
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(*results, strict=True))
    assert asked == [[SDPBackend.EFFICIENT_ATTENTION]]
    assert kernel == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("dtype", "capability", "taken"),
    [(torch.float16, (7, 5), "memory_efficient"), (torch.float16, (8, 0), "fused"), (torch.bfloat16, (9, 0), "fused"),
     (torch.float32, (9, 0), "memory_efficient")],
)  # fmt: skip
def test_the_kernel_by_card_and_dtype(monkeypatch, dtype, capability, taken):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    for name in ("fused", "memory_efficient"):
        monkeypatch.setattr(varlen_attention_module, name, lambda *tensors, name=name: name)
    on_card = SimpleNamespace(is_cuda=True, dtype=dtype)
    assert varlen_attention(on_card, on_card, on_card, None, Attending(1.0)) == taken
