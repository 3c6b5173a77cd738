"""ragged_attention and its reference against float64 arithmetic, one query at a time."""

from __future__ import annotations

import math

import pytest
import torch

from lmcourse.kernels import attention, ragged_attention
from lmcourse.kernels.attention import ragged_attention_batched, ragged_attention_reference

TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
BATCHES = {
    "one decode": [(1, 1)],
    "one long decode": [(1, 53)],
    "decodes": [(1, 1), (1, 4), (1, 5), (1, 17)],
    "one far longer": [(1, 200), (1, 2), (1, 3)],
    "prefill": [(9, 9)],
    "prefill after a prefix": [(6, 31)],
    "prefills": [(2, 2), (7, 8), (13, 13), (3, 40)],
    "mixed": [(1, 30), (5, 5), (1, 1), (2, 17), (1, 8)],
}
HEADS = [(2, 2, 8), (4, 2, 16), (6, 1, 12), (9, 3, 64)]  # num_heads, num_kv_heads, head_dim


@pytest.mark.parametrize("operation", [ragged_attention, ragged_attention_reference, ragged_attention_batched])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), HEADS)
def test_ragged_attention_any_batch_and_heads(operation, name, num_heads, num_kv_heads, head_dim, form, make_paged):
    paged = make_paged(BATCHES[name], num_kv_heads=num_kv_heads, head_dim=head_dim, form=form)
    q = torch.randn(paged.batch.query_starts[-1], num_heads, head_dim)
    scale = 1 / math.sqrt(head_dim)
    out = operation(q, paged.layer, paged.batch, scale)
    torch.testing.assert_close(out.double(), paged.attend(q, scale), atol=paged.rounding(q, scale), rtol=0)


def test_alike_decodes_waste_no_more_than_they_need(make_paged):
    lens = torch.randint(1, 300, (40,)).tolist()
    batch = make_paged([*((1, length) for length in lens), (3, 7)], num_kv_heads=1, head_dim=8).batch
    rows = [torch.arange(40)[alike.rows].tolist() for alike in batch.alike]
    assert sorted(row for of_group in rows for row in of_group) == list(range(40))
    for alike, of_group in zip(batch.alike, rows, strict=True):
        own = [lens[row] for row in of_group]
        assert alike.longest == max(own) <= 2 * min(own)
        assert torch.equal(alike.tables, batch.block_tables[of_group])
        padded = torch.zeros(len(own), alike.longest, dtype=torch.bool) if alike.padding is None else alike.padding[0]
        assert (~padded).sum(dim=1).tolist() == own
    assert len(batch.alike) <= 9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens_per_block", [1, 16, 64])
def test_ragged_attention_half_precision(dtype, tokens_per_block, form, make_paged):
    paged = make_paged(BATCHES["mixed"], dtype=dtype, tokens_per_block=tokens_per_block, form=form)
    q = torch.randn(paged.batch.query_starts[-1], 4, 8).to(dtype)
    out = ragged_attention(q, paged.layer, paged.batch, 0.35)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), paged.attend(q, 0.35), atol=TOLERANCES[dtype], rtol=1e-2)


def test_ragged_attention_large_scores_do_not_overflow(make_paged):
    paged = make_paged(BATCHES["mixed"])
    q = 1000 * torch.randn(paged.batch.query_starts[-1], 4, 8)
    out = ragged_attention(q, paged.layer, paged.batch, 1.0)
    torch.testing.assert_close(out.double(), paged.attend(q, 1.0), atol=1e-3, rtol=0)


def test_ragged_attention_pieces_smaller_than_the_batch(form, make_paged, monkeypatch):
    monkeypatch.setattr(attention, "_PIECE_BYTES", {"cpu": 1})
    paged = make_paged(BATCHES["one far longer"], form=form)
    q = torch.randn(3, 4, 8)
    out = ragged_attention(q, paged.layer, paged.batch, 0.3)
    torch.testing.assert_close(out.double(), paged.attend(q, 0.3), atol=2e-6, rtol=0)


def test_ragged_attention_prefix_in_tiles(make_paged, monkeypatch):
    monkeypatch.setattr(attention, "_SCORE_BYTES", 4 * 4 * 50 * 7)
    paged = make_paged([(30, 50), (1, 3)])
    q = torch.randn(31, 4, 8)
    out = ragged_attention(q, paged.layer, paged.batch, 0.3)
    torch.testing.assert_close(out.double(), paged.attend(q, 0.3), atol=2e-6, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", BATCHES)
def test_ragged_attention_on_cuda(name, dtype, form, make_paged):
    paged = make_paged(BATCHES[name], dtype=dtype, device="cuda", head_dim=64, tokens_per_block=16, form=form)
    q = torch.randn(paged.batch.query_starts[-1], 6, 64).to(dtype)
    out = ragged_attention(q.cuda(), paged.layer, paged.batch, 0.125)
    atol = TOLERANCES[dtype] + 3e-6
    torch.testing.assert_close(out.cpu().double(), paged.attend(q, 0.125), atol=atol, rtol=1e-2)


def test_ragged_attention_request_with_nan_disturbs_no_other(make_paged):
    paged = make_paged([(1, 9), (1, 6), (1, 30), (4, 8)])
    q = torch.randn(7, 4, 8)
    clean = ragged_attention(q, paged.layer, paged.batch, 0.3)
    for block in paged.batch.block_tables[1, :2]:
        paged.layer.keys[block] = torch.nan
    out = ragged_attention(q, paged.layer, paged.batch, 0.3)
    assert out[1].isnan().all()
    others = [0, 2, 3, 4, 5, 6]
    assert torch.equal(out[others], clean[others])


def test_ragged_attention_leaves_pool_and_queries_as_they_are(make_paged):
    paged = make_paged(BATCHES["mixed"])
    q = torch.randn(paged.batch.query_starts[-1], 4, 8)
    before = [tensor.clone() for tensor in (q, *paged.layer)]
    ragged_attention(q, paged.layer, paged.batch, 0.3)
    for tensor, copy in zip((q, *paged.layer), before, strict=True):
        torch.testing.assert_close(tensor, copy, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(6, 4, 8), (7, 4, 6), (7, 3, 8)])
def test_ragged_attention_wrong_shape_is_refused(shape, make_paged):
    paged = make_paged([(1, 9), (1, 6), (1, 30), (4, 8)])
    with pytest.raises(ValueError, match="expected"):
        ragged_attention(torch.randn(shape), paged.layer, paged.batch, 0.3)
