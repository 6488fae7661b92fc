"""Rounding to e4m3 and the products of what is rounded; in Triton's interpreter the kernel of a card."""

import os

import pytest
import torch

from nsllm_lite.kernels import fp8

HALF_STEP = 2.0**-4  # of e4m3, relative: 3 bits of mantissa


def exact(q: fp8.Quantised) -> torch.Tensor:
    return q.values.float() * q.scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_rounded_to_three_bits_of_mantissa_by_rows(dtype):
    torch.manual_seed(0)
    x = (torch.randn(50, 300) * 2.0 ** torch.arange(-60, 40, 2)[:, None]).to(dtype)
    q = fp8.quantise(x)
    largest = q.values.float().abs().amax(1)
    assert ((largest >= 224) & (largest <= 448)).all(), "the range is used"
    assert torch.equal(torch.frexp(q.scale)[0], torch.full_like(q.scale, 0.5)), "powers of two"
    size = x.float().abs()
    normal = size >= 2.0**-13 * size.amax(1, keepdim=True)
    error = (exact(q) - x.float()).abs()
    assert normal.float().mean() > 0.99
    assert (error <= torch.where(normal, HALF_STEP * size, 2.0**-17 * size.amax(1, keepdim=True))).all()
    assert float(error.max() / size.max()) > 0.01, "something is rounded"
    assert torch.equal(exact(fp8.quantise(exact(q))), exact(q)), "what is in e4m3 stays"


def test_zeros_and_what_is_no_number():
    x = torch.tensor([[0.0, 0.0], [1e-45, 0.0], [448.0, 1.0], [torch.inf, 1.0], [1.0, torch.nan], [2.0**-126, 0.0]])
    rounded = exact(fp8.quantise(x))
    assert torch.equal(rounded[[0, 2, 5]], x[[0, 2, 5]])
    assert rounded[1].abs().max() < 1e-38
    assert rounded[3:5].isnan().any(1).all()
    y = fp8.product(fp8.quantise(x), fp8.quantise(torch.ones(3, 2)), torch.float32)
    assert y[3:5].isnan().all()


def test_both_products_see_the_same_rounded_weight():
    torch.manual_seed(0)
    W = torch.randn(40, 96, dtype=torch.bfloat16) * torch.logspace(-3, 3, 40)[:, None]
    x, dy = torch.randn(8, 96), torch.randn(8, 40)
    rounded = exact(fp8.quantise(W))
    weights = [fp8.weight_of(lambda: W.float(), both) for both in (True, False)]
    for weight in weights:
        y = fp8.forward(fp8.quantise(x), weight)
        torch.testing.assert_close(y, exact(fp8.quantise(x)) @ rounded.T)
        dx = fp8.backward(dy, weight)
        of_dy = exact(fp8.quantise(dy * weight.scale.T)) / weight.scale.T
        torch.testing.assert_close(dx, of_dy @ rounded)
    assert torch.equal(*(fp8.backward(dy, weight) for weight in weights))
    for found, plain in ((y, x @ W.float().T), (dx, dy @ W.float())):
        # of two operands, each with an error of at most half a step; rounding has no sign, so sums have less
        assert 0.005 < float((found - plain).norm() / plain.norm()) < HALF_STEP


def test_autocast_leaves_sums_in_fp32():
    torch.manual_seed(0)
    x, w = (fp8.quantise(torch.randn(5, 64)) for _ in range(2))
    expected = fp8.product(x, w, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fp8.product(x, w, torch.float32), expected)
    assert torch.equal(fp8.product(x, w, torch.bfloat16), expected.bfloat16())


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="make test-kernels has Triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_of_a_card_is_the_reference(dtype):
    """On numbers that are in e4m3: of others the interpreter loses the carry where they round up to a power of two."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    known = torch.arange(256, dtype=torch.uint8).view(fp8.E4M3).float()
    known = known[known.isfinite()]
    x = known[torch.randint(len(known), (7, 100))]
    x[:, 0] = 448
    x *= 2.0 ** torch.arange(-3, 4).float()[:, None]
    x[3] = 0
    scale = 2.0 ** torch.randint(-2, 3, (100,)).float()
    for columns in (None, scale):
        numbers = (x if columns is None else x / columns).to(dtype)
        found, expected = (make(numbers, columns) for make in (fp8.quantise_on_card, fp8.quantise_reference))
        assert torch.equal(found.scale, expected.scale)
        assert torch.equal(found.values.float(), expected.values.float())
