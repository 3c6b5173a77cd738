"""Rotation as a product of complex numbers, in float64."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import rotate

TOLERANCES = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}


def float64_rotation(x, angles):
    half = x.shape[-1] // 2
    turned = (
        torch.complex(x[..., :half].double(), x[..., half:].double())
        * torch.polar(torch.ones_like(angles), angles)[:, None]
    )
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "num_kv_heads", "head_dim"), [(1, 1, 1, 2), (63, 4, 2, 64), (7, 9, 3, 10), (0, 2, 1, 8)]
)
def test_rotate_any_shape(num_tokens, num_heads, num_kv_heads, head_dim, dtype):
    q = torch.randn(num_tokens, num_heads, head_dim).to(dtype)
    k = torch.randn(num_tokens, num_kv_heads, head_dim).to(dtype)
    angles = 100 * torch.rand(num_tokens, head_dim // 2, dtype=torch.float64)
    turned = rotate(q, k, angles.cos().float(), angles.sin().float())
    for x, out in zip((q, k), turned, strict=True):
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), float64_rotation(x, angles), atol=TOLERANCES[dtype], rtol=0)


def test_rotate_heads_that_are_views_of_one_tensor():
    fused = torch.randn(5, 6, 8)
    q, k, _ = fused.split((3, 2, 1), dim=1)
    angles = torch.rand(5, 4)
    got = rotate(q, k, angles.cos(), angles.sin())
    want = rotate(q.contiguous(), k.contiguous(), angles.cos(), angles.sin())
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_rotate_wrong_angles_are_refused():
    with pytest.raises(ValueError, match="cos of rotate"):
        rotate(torch.zeros(3, 2, 8), torch.zeros(3, 1, 8), torch.zeros(3, 8), torch.zeros(3, 4))
