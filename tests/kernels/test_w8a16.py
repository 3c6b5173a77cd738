"""The int8 head: which form runs, and what the compiler makes of the forms for GPUs that need not be here."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from compiled import SHARED_BYTES, build, record

from lmcourse.kernels import Int8Matrix, project
from lmcourse.kernels.w8a16 import w8a16_rows, w8a16_tiles

VOCAB, HIDDEN = 92544, 2048


def meta(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize(("tokens", "form"), [(1, w8a16_rows), (8, w8a16_tiles), (64, w8a16_tiles)])
def test_forms_fit_the_gpu(tokens, form, capability):
    matrix = Int8Matrix(meta(VOCAB, HIDDEN, dtype=torch.int8), meta(VOCAB, dtype=torch.float32))
    launch = record(form, meta(tokens, HIDDEN), matrix, torch.float32, capability=divmod(capability, 10))[-1]
    built = build(launch, capability)
    print(f"sm_{capability}, {tokens} tokens: {built.registers} registers, {built.shared_bytes} B shared")
    assert built.spill_bytes == 0
    assert built.shared_bytes <= SHARED_BYTES[capability]
    if form is w8a16_rows:
        assert built.has("LDG.E.128")
    else:
        assert built.has("HMMA") or built.has("HGMMA")


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_project_takes_an_int8_matrix(tokens, dtype):
    codes, scales = torch.randint(-127, 128, (50, 24), dtype=torch.int8), torch.rand(50)
    x = torch.randn(tokens, 24).to(dtype)
    got = project(x, Int8Matrix(codes, scales), torch.float32)
    want = x.double() @ (codes.double() * scales.double()[:, None]).t()
    assert got.shape == (1, tokens, 50)
    torch.testing.assert_close(got[0].double(), want, rtol=1e-5, atol=1e-3)
