"""RMS norm against float64."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import add_rms_norm, rms_norm

TOLERANCES = {torch.float32: (2e-6, 2e-6), torch.float16: (1e-3, 1e-3), torch.bfloat16: (8e-3, 8e-3)}  # atol, rtol
SHAPES = [(1, 1), (63, 64), (5, 781), (3, 1823), (2, 3, 10), (0, 16)]


def float64_norm(x, weight, eps):
    x = x.double()
    return x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps) ** 0.5 * weight.double()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_any_shape(shape, dtype):
    x, weight = (3 * torch.randn(shape)).to(dtype), torch.randn(shape[-1]).to(dtype)
    out = rms_norm(x, weight, 1e-5)
    assert out.dtype == dtype
    atol, rtol = TOLERANCES[dtype]
    torch.testing.assert_close(out.double(), float64_norm(x, weight, 1e-5), atol=atol, rtol=rtol)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_add_rms_norm_any_shape(shape, dtype):
    x, residual, weight = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)
    before = x.clone(), residual.clone()
    out, total = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])
    assert torch.equal(total, x + residual)
    atol, rtol = TOLERANCES[dtype]
    torch.testing.assert_close(out.double(), float64_norm(total, weight, 1e-5), atol=atol, rtol=rtol)


def test_rms_norm_large_half_values_do_not_overflow():
    x = torch.full((2, 8), 60000.0, dtype=torch.float16)
    assert torch.equal(rms_norm(x, torch.ones(8, dtype=torch.float16), 1e-5), torch.ones(2, 8, dtype=torch.float16))


def test_rms_norm_zeros_stay_zeros():
    assert torch.equal(rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-5), torch.zeros(2, 8))


def test_rms_norm_wrong_weight_is_refused():
    with pytest.raises(ValueError, match=r"expected: \[8\]\n  got: \[7\]"):
        rms_norm(torch.zeros(2, 8), torch.ones(7), 1e-5)
    with pytest.raises(ValueError, match="residual"):
        add_rms_norm(torch.zeros(2, 8), torch.zeros(3, 8), torch.ones(8), 1e-5)
