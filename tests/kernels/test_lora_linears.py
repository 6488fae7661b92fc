"""Linear layers with LoRA as one function: values and gradients against the plain formula."""

import pytest
import torch
from torch.nn import functional

from nsllm_lite.kernels import fp8
from nsllm_lite.kernels.lora_linears import LoraGroup, LoraLinear, lora_linears, lora_linears_reference


def norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def swiglu(gate, up):
    return functional.silu(gate) * up


def layers_of(dtype=torch.float64, adapter_dtype=None) -> list[LoraLinear]:
    """One with bias, one that is not trained, one of another rank."""
    torch.manual_seed(0)

    def parameter(*shape):
        return torch.randn(*shape, dtype=adapter_dtype or dtype).requires_grad_()

    weights = [torch.randn(out, 6, dtype=dtype) for out in (5, 4, 7)]
    return [
        LoraLinear(lambda: weights[0], torch.randn(5, dtype=dtype), parameter(2, 6), parameter(5, 2), 0.5),
        LoraLinear(lambda: weights[1], None, None, None, 1.0),
        LoraLinear(lambda: weights[2], None, parameter(3, 6), parameter(7, 3), 2.0),
    ]


def trained(layers):
    return [tensor for layer in layers for tensor in (layer.A_RI, layer.B_OR) if tensor is not None]


@pytest.mark.parametrize(("produce", "num_inputs"), [(None, 1), (norm, 1), (swiglu, 2)])
def test_gradients_against_finite_differences(produce, num_inputs):
    layers = layers_of()
    inputs = [torch.randn(3, 6, dtype=torch.float64, requires_grad=True) for _ in range(num_inputs)]
    found = lora_linears(produce, inputs, LoraGroup(layers))
    torch.testing.assert_close(found, lora_linears_reference(produce, inputs, layers))

    def outputs(*tensors):
        adapters = iter(tensors[num_inputs:])
        given = [
            layer if layer.A_RI is None else layer._replace(A_RI=next(adapters), B_OR=next(adapters))
            for layer in layers
        ]
        return lora_linears(produce, tensors[:num_inputs], LoraGroup(given))

    assert torch.autograd.gradcheck(outputs, (*inputs, *trained(layers)))


def test_fp32_adapters_on_bf16_weights():
    layers = layers_of(torch.bfloat16, torch.float32)
    x = torch.randn(3, 6, dtype=torch.bfloat16, requires_grad=True)
    outputs = lora_linears(norm, [x], LoraGroup(layers))
    assert {y.dtype for y in outputs} == {torch.bfloat16}
    torch.testing.assert_close(outputs, lora_linears_reference(norm, [x], layers), rtol=2e-2, atol=5e-2)
    sum(y.float().square().sum() for y in outputs).backward()
    assert {tensor.grad.dtype for tensor in trained(layers)} == {torch.float32}
    assert x.grad.dtype == torch.bfloat16


def test_products_in_float8_are_those_of_the_formula_where_gradients_are_wanted():
    """In the formula x, W and the gradient of y are rounded; A, B and their gradients take the numbers as they are."""
    layers = layers_of(torch.float32)
    rounded = [
        layer._replace(in_fp8=lambda layer=layer, both=both: fp8.weight_of(layer.weight, both))
        for layer, both in zip(layers, (True, False, True), strict=True)
    ]
    x = torch.randn(3, 6, requires_grad=True)

    def exact(q: fp8.Quantised) -> torch.Tensor:
        return q.values.float() * q.scale

    outputs = lora_linears(norm, [x], LoraGroup(rounded))
    wanted = [torch.randn_like(y) for y in outputs]
    torch.autograd.backward(outputs, wanted)
    found = [x.grad, *(tensor.grad for tensor in trained(rounded))]

    h = norm(x).detach().requires_grad_()
    weights = [exact(fp8.quantise(layer.weight())) for layer in layers]
    by_adapters = [0 if layer.A_RI is None else layer.scale * (h @ layer.A_RI.T) @ layer.B_OR.T for layer in layers]
    biases = [0 if layer.bias is None else layer.bias for layer in layers]
    expected = [exact(fp8.quantise(h)) @ W.T + b + low for W, b, low in zip(weights, biases, by_adapters, strict=True)]
    torch.testing.assert_close(outputs, tuple(expected))
    adapters = trained(layers)
    pairs = [(low, dy) for low, dy in zip(by_adapters, wanted, strict=True) if torch.is_tensor(low)]
    grad_h, *grads = torch.autograd.grad([low for low, _ in pairs], [h, *adapters], [dy for _, dy in pairs])
    for layer, W, dy in zip(layers, weights, wanted, strict=True):
        scale = fp8.quantise(layer.weight()).scale
        grad_h = grad_h + exact(fp8.quantise(dy * scale.T)) @ (W / scale)
    (grad_x,) = torch.autograd.grad(norm(x), x, grad_h)
    torch.testing.assert_close(found, [grad_x, *grads])
    plain = lora_linears_reference(norm, [x], layers)
    assert not any(torch.equal(one, other) for one, other in zip(outputs, plain, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(lora_linears(norm, [x], LoraGroup(rounded)), plain)
