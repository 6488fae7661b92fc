import pytest
import torch
from torch.nn.attention import varlen

from nsllm_lite.kernels.varlen_attention import Layout, fused, varlen_attention, varlen_attention_reference

BOUNDS = (0, 5, 6, 20)


def inputs(kv_heads: int = 2) -> tuple[list[torch.Tensor], Layout]:
    torch.manual_seed(0)
    return [torch.randn(20, heads, 8) for heads in (4, kv_heads, kv_heads)], Layout(BOUNDS, torch.tensor(BOUNDS))


@pytest.mark.parametrize("causal", [True, False])
def test_reference_is_softmax_attention_within_each_document(causal):
    (q, k, v), layout = inputs()
    found = varlen_attention(q, k, v, layout, scale=0.3, causal=causal)
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
    return varlen_attention_reference(q, k, v, layout, q.shape[-1] ** -0.5 if scale is None else scale, causal)


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
    expected = varlen_attention_reference(q, k, v, layout, 0.3, causal)
    assert torch.allclose(fused(q, k, v, layout, 0.3, causal), expected, atol=1e-6)


def test_the_installed_version_is_one_we_know():
    import inspect

    known = set(inspect.signature(varlen.varlen_attn).parameters)
    assert {"cu_seq_q", "cu_seq_k", "max_q", "max_k"} <= known
    assert known & {"is_causal", "window_size"}
