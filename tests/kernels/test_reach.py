"""Attention with slopes and windows, in each form of plain torch and on CUDA, against float64 arithmetic."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import Reach, ragged_attention
from lmcourse.kernels.attention import ragged_attention_batched, ragged_attention_reference

BATCHES = {
    "decodes": [(1, 1), (1, 4), (1, 5), (1, 37)],
    "one decode": [(1, 53)],
    "prefills": [(2, 2), (7, 8), (13, 13), (3, 40)],
    "mixed": [(1, 30), (5, 5), (1, 1), (2, 17), (1, 8)],
}


@pytest.mark.parametrize("operation", [ragged_attention_reference, ragged_attention_batched])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("sloped", "window"), [(True, None), (False, 2), (False, 9), (True, 11), (False, 1000)])
def test_reach_bends_and_ends_scores(operation, batch, sloped, window, form, make_paged):
    paged = make_paged(BATCHES[batch], num_kv_heads=2, head_dim=8, form=form)
    q, slopes = torch.randn(paged.batch.query_starts[-1], 6, 8), torch.rand(6) if sloped else None
    out = operation(q, paged.layer, paged.batch, 0.35, Reach(slopes, window))
    want = paged.attend(q, 0.35, slopes=slopes, window=window)
    atol = paged.rounding(q, 0.35, slope=1.0 if sloped else 0.0)
    torch.testing.assert_close(out.double(), want, atol=atol, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("sloped", "window"), [(True, None), (False, 70), (True, 200)])
def test_reach_on_cuda(dtype, sloped, window, make_paged):
    requests = [(1, 300), (1, 5), (200, 330), (65, 65)]
    paged = make_paged(requests, num_kv_heads=2, head_dim=64, tokens_per_block=64, dtype=dtype, device="cuda")
    q = torch.randn(paged.batch.query_starts[-1], 10, 64).to(dtype)
    slopes = torch.rand(10) * 0.2 if sloped else None
    reach = Reach(None if slopes is None else slopes.cuda(), window)
    out = ragged_attention(q.cuda(), paged.layer, paged.batch, 0.125, reach)
    tolerance = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}[dtype]
    want = paged.attend(q, 0.125, slopes=slopes, window=window)
    torch.testing.assert_close(out.cpu().double(), want, atol=tolerance, rtol=tolerance)
