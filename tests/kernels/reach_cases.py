"""Distances, layer norm and GELU: the Triton forms against float64; used by triton_cases.py."""

from __future__ import annotations

from unittest import mock

import torch

from conftest import build_paged
from lmcourse.kernels import INT8, CentredNorm, Reach, Stream
from lmcourse.kernels.add_norm import add_norm_triton
from lmcourse.kernels.attention import ragged_attention_triton
from lmcourse.kernels.gelu import gelu_triton

TOLERANCES = {torch.float16: 4e-3, torch.float32: 1e-5}
BATCHES = ([(1, 17), (1, 70), (5, 40), (33, 50)], [(1, 130)])
HEADS = ((4, 2, 16, torch.float16), (3, 1, 12, torch.float32))  # query heads, kv heads, head_dim


def check_reach(*, sloped, window):
    for requests in BATCHES:
        for form, (heads, kv_heads, dim, dtype) in zip((None, INT8), HEADS, strict=True):
            shape = {"num_kv_heads": kv_heads, "head_dim": dim, "tokens_per_block": 16}
            paged = build_paged(requests, dtype=dtype, form=form, **shape)
            q = torch.randn(paged.batch.query_starts[-1], heads, dim).to(dtype)
            slopes = torch.rand(heads) * 0.3 if sloped else None
            got = ragged_attention_triton(q, paged.layer, paged.batch, 0.3, Reach(slopes, window))
            want = paged.attend(q, 0.3, slopes=slopes, window=window)
            torch.testing.assert_close(got.double(), want, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])


def check_slopes():
    check_reach(sloped=True, window=None)


def check_windows():
    check_reach(sloped=False, window=2)
    with mock.patch("lmcourse.kernels.decode_attention.plan_splits", return_value=1):
        check_reach(sloped=True, window=21)


def check_centred_norm():
    for tokens, features, parts in ((1, 48, 1), (3, 64, 0), (4, 100, 3)):
        for dtype, tolerance in TOLERANCES.items():
            part_dtype = dtype if parts < 2 else torch.float32
            stream = Stream(
                (3 + torch.randn(tokens, features)).to(dtype), torch.randn(parts, tokens, features).to(part_dtype)
            )
            weight, bias = (torch.randn(features).to(dtype) for _ in range(2))
            total = stream.residual.double() + stream.parts.double().sum(0)
            centred = total - total.mean(1, keepdim=True)
            want = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight.double()
            for offset in (None, bias):
                normed, residual = add_norm_triton(stream, CentredNorm(weight, offset, 1e-5))
                right = want if offset is None else want + offset.double()
                torch.testing.assert_close(normed.double(), right, atol=4 * tolerance, rtol=tolerance)
                torch.testing.assert_close(residual.double(), total, atol=tolerance, rtol=tolerance)


def check_gelu():
    for dtype, tolerance in TOLERANCES.items():
        x = (4 * torch.randn(3, 74)).to(dtype)
        first, second = x.double().chunk(2, dim=1)
        for tanh in (False, True):
            kind = {"approximate": "tanh" if tanh else "none"}
            alone = torch.nn.functional.gelu(x.double(), **kind)
            gated = torch.nn.functional.gelu(first, **kind) * second
            for want, gates in ((alone, False), (gated, True)):
                got = gelu_triton(x, tanh=tanh, gates=gates)
                torch.testing.assert_close(got.double(), want, atol=5 * tolerance, rtol=tolerance)
