"""The small operations on a CUDA device against the same on the CPU."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import LayerKV, add_rms_norm, rms_norm, rotate, swiglu, write_kv

pytestmark = pytest.mark.gpu
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("num_tokens", [1, 63, 781])
def test_operations_on_cuda_equal_those_on_cpu(dtype, num_tokens):
    x, residual, weight = (torch.randn(shape).to(dtype) for shape in ((num_tokens, 136), (num_tokens, 136), (136,)))
    q, k = torch.randn(num_tokens, 6, 64).to(dtype), torch.randn(num_tokens, 2, 64).to(dtype)
    angles = 100 * torch.rand(num_tokens, 32)
    cos, sin = angles.cos(), angles.sin()
    cases = (
        (rms_norm, (x, weight, 1e-5)),
        (add_rms_norm, (x, residual, weight, 1e-5)),
        (swiglu, (x,)),
        (rotate, (q, k, cos, sin)),
    )
    for operation, arguments in cases:
        want = operation(*arguments)
        got = operation(*(item.cuda() if isinstance(item, torch.Tensor) else item for item in arguments))
        for one, other in zip(
            *((item,) if isinstance(item, torch.Tensor) else item for item in (got, want)), strict=True
        ):
            torch.testing.assert_close(one.cpu(), other, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_write_kv_on_cuda_equals_that_on_cpu(dtype):
    keys, values = (torch.randn(90, 2, 64).to(dtype) for _ in range(2))
    slots = torch.randperm(8 * 16)[:90]
    pools = []
    for device in ("cpu", "cuda"):
        layer = LayerKV(*(torch.full((8, 2, 16, 64), torch.nan, dtype=dtype, device=device) for _ in range(2)))
        write_kv(keys.to(device), values.to(device), layer, slots.to(device))
        pools.append(layer)
    for one, other in zip(*pools, strict=True):
        torch.testing.assert_close(other.cpu(), one, atol=0, rtol=0, equal_nan=True)
