"""SwiGLU against float64."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import swiglu

TOLERANCES = {torch.float32: (1e-6, 1e-6), torch.float16: (1e-3, 1e-3), torch.bfloat16: (8e-3, 8e-3)}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(1, 2), (63, 128), (5, 1562), (2, 3, 14), (0, 4)])
def test_swiglu_any_shape(shape, dtype):
    gate_up = (4 * torch.randn(shape)).to(dtype)
    gate, up = gate_up.double().tensor_split(2, dim=-1)
    out = swiglu(gate_up)
    assert out.dtype == dtype
    atol, rtol = TOLERANCES[dtype]
    torch.testing.assert_close(out.double(), gate / (1 + torch.exp(-gate)) * up, atol=atol, rtol=rtol)


def test_swiglu_extreme_gates_stay_finite():
    out = swiglu(torch.tensor([[-1e4, 1e4, 2.0, 2.0]]))
    assert out.tolist() == [[0.0, 2e4]]


def test_swiglu_odd_width_is_refused():
    with pytest.raises(ValueError, match="even"):
        swiglu(torch.zeros(2, 5))
