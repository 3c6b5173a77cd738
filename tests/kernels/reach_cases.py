"""Distances, layer norm and GELU: the Triton forms against float64; used by triton_cases.py."""

from __future__ import annotations

from unittest import mock

import torch

from conftest import build_paged
from lmcourse.kernels import (
    INT8,
    CentredNorm,
    LayerKV,
    Matrix,
    Norm,
    Reach,
    Rotation,
    Stream,
    geglu_tanh,
    gelu,
    gelu_tanh,
)
from lmcourse.kernels.add_norm import add_norm_triton
from lmcourse.kernels.attention import ragged_attention_triton
from lmcourse.kernels.gelu import gelu_triton
from lmcourse.kernels.norm_gate_up import norm_gate_up_rows
from lmcourse.kernels.norm_qkv import norm_qkv_rows
from lmcourse.kernels.norm_up import norm_up_rows

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


def check_other_rows():
    """One token through layer norm and q, k, v; through a norm, a matrix and GELU; through GEGLU."""
    for dtype, tolerance in TOLERANCES.items():
        for centred, parts in ((True, 1), (False, 2), (True, 0)):
            hidden, inner = 44, 37
            part_dtype = dtype if parts < 2 else torch.float32
            stream = Stream((1 + torch.randn(1, hidden)).to(dtype), torch.randn(parts, 1, hidden).to(part_dtype))
            weight, bias = (torch.randn(hidden).to(dtype) for _ in range(2))
            norm = CentredNorm(weight, bias, 1e-5) if centred else Norm(weight, 1e-5)
            normed, total = float64_norm(stream, norm)
            matrix = Matrix((torch.randn(inner, hidden) * 0.15).to(dtype), torch.randn(inner).to(dtype))
            product = normed @ matrix.weight.double().T + matrix.bias.double()
            for activate, kind in ((gelu, "none"), (gelu_tanh, "tanh")):
                out, residual = norm_up_rows(stream, norm, matrix, activate)
                want = torch.nn.functional.gelu(product, approximate=kind)
                torch.testing.assert_close(out.double(), want, atol=5 * tolerance, rtol=tolerance)
                torch.testing.assert_close(residual.double(), total, atol=tolerance, rtol=tolerance)
            check_qkv_rows(stream, norm, normed, dtype, tolerance)
            if not centred:
                gate_up = Matrix((torch.randn(2 * inner, hidden) * 0.15).to(dtype))
                gate, up = (normed @ gate_up.weight.double().T).chunk(2, dim=1)
                out, _ = norm_gate_up_rows(stream, norm, gate_up, geglu_tanh)
                want = torch.nn.functional.gelu(gate, approximate="tanh") * up
                torch.testing.assert_close(out.double(), want, atol=8 * tolerance, rtol=tolerance)


def check_qkv_rows(stream, norm, normed, dtype, tolerance):
    qkv = Matrix((torch.randn(5 * 12, normed.shape[1]) * 0.15).to(dtype), torch.randn(60).to(dtype))
    pool = LayerKV(*(torch.full((2, 1, 4, 12), torch.nan, dtype=dtype) for _ in "kv"))
    still = Rotation(torch.ones(1, 6), torch.zeros(1, 6))
    q, _ = norm_qkv_rows(stream, norm, qkv, still, pool, torch.tensor([5]))
    want = (normed @ qkv.weight.double().T + qkv.bias.double()).view(5, 12)
    got = torch.cat((q[0], pool.keys[1, :, 1], pool.values[1, :, 1]))
    torch.testing.assert_close(got.double(), want, atol=5 * tolerance, rtol=tolerance)


def float64_norm(stream, norm):
    total = stream.residual.double() + stream.parts.double().sum(0)
    centred = total - total.mean(1, keepdim=True) if isinstance(norm, CentredNorm) else total
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
    return normed + (norm.bias.double() if norm.bias is not None else 0), total
