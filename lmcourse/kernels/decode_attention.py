"""Paged decode attention: out[r, h] = softmax(scale · q[r, h] · keysᵀ) · values over request r's positions so far.

One query per request and head: no reuse but that of the query heads which share a key/value head, so this is the
reading of the cache. One block is one tile, and a block's keys of one head are one contiguous run. A request's blocks
are split over SPLITS programs, each of which leaves a peak, a sum of weights and a weighted sum of values; a second
launch merges them (arXiv 2205.14135 §3.1). The grid depends on the number of requests and the width of the table alone,
so that one CUDA graph serves growing contexts: a split without blocks returns at once.

Traffic, InternLM2-1.8B (8 key/value heads of 128, 2 bytes), a layer: 4 KiB per cached token. One request at 1024
tokens: 4.2 MB, 1.0 µs at 4.2 TB/s; 64 requests: 268 MB, 64 µs. FLOPs 4 · num_heads · head_dim per cached token.

    table of r   [ 5 │ 2 │ 9 │ 7 │ 4 ]          program (r, kv head, split), TILE_G rows of queries
                 └─ split 0 ─┘└ split 1 ┘       newest block first (masked), then the full ones

Dependent launch: of the blocks only the newest position is this step's; all others are read before the wait, in the
first tile of each program. `positions` and `block_tables` must not change within a step, and a step must end before the
next begins (a CUDA graph does).

Measured (benchmarks/kernels_gpu, H100): one request at 1024 tokens 5.5 µs; 64 requests 102 µs, 2.62 TB/s.

Lesson: 3 (paging)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, wait_for_inputs
from lmcourse.kernels.ragged import LayerKV

__all__ = ["attend", "decode_attention", "load_block", "plan_decode", "plan_splits"]

_LOG2_E = 1.4426950408889634
_PROGRAMS = 512  # about four per multiprocessor of an H200 (132)


@jit
def load_block(pool_ptr, block, i_kv, rows, m_rows, d, NUM_KV_HEADS: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr):
    """pool[block, i_kv, rows, :], 0 where m_rows is not or beyond D; no mask at all for m_rows None."""
    run = (tl.cast(block, tl.int64) * NUM_KV_HEADS + i_kv) * (ROWS * D)
    pointers = pool_ptr + run + rows[:, None] * D + d[None, :]
    padded: tl.constexpr = d.shape[0] != D
    if m_rows is not None:
        b_block = tl.load(pointers, mask=m_rows[:, None] & (d < D)[None, :], other=0.0)
    elif padded:
        b_block = tl.load(pointers, mask=(d < D)[None, :], other=0.0)
    else:
        b_block = tl.load(pointers)
    return b_block


@jit
def attend(b_q, b_keys, b_values, m_scores, peak, total, b_sum, scale_log2e):
    """One more tile of keys and values in a running softmax: (peak, total, b_sum), sums relative to 2^peak."""
    scores = tl.dot(b_q, tl.trans(b_keys), input_precision="ieee") * scale_log2e
    if m_scores is not None:
        scores = tl.where(m_scores, scores, float("-inf"))
    higher = tl.maximum(peak, tl.max(scores, axis=1))
    weights = tl.math.exp2(scores - higher[:, None])
    rescale = tl.math.exp2(peak - higher)
    b_sum = tl.dot(weights.to(b_values.dtype), b_values, b_sum * rescale[:, None], input_precision="ieee")
    return higher, total * rescale + tl.sum(weights, axis=1), b_sum


@jit
def _split_blocks(position, i_split, SPLITS: tl.constexpr, TOKENS_PER_BLOCK: tl.constexpr):
    """(first, last) of a split's blocks, first > last if it has none."""
    num_blocks = position // TOKENS_PER_BLOCK + 1
    share = tl.cdiv(num_blocks, SPLITS)
    return i_split * share, tl.minimum(i_split * share + share, num_blocks) - 1


@jit
def _decode_kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    tables_ptr,
    positions_ptr,
    out_ptr,
    sums_ptr,
    peaks_ptr,
    totals_ptr,
    columns,
    scale_log2e,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE_G: tl.constexpr,
    TILE_D: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: a split of one request's blocks, for the query heads of one key/value head
    request, i_kv, i_split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    let_next_start(PDL)
    position = tl.load(positions_ptr + request).to(tl.int32)
    first, last = _split_blocks(position, i_split, SPLITS, TOKENS_PER_BLOCK)
    if first > last:
        return
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    g = tl.arange(0, TILE_G)
    d = tl.arange(0, TILE_D)
    rows = tl.arange(0, TOKENS_PER_BLOCK)
    table = tables_ptr + request.to(tl.int64) * columns
    # load: the newest block of the split, but for the position that this step has written
    block = tl.load(table + last)
    at = last * TOKENS_PER_BLOCK + rows
    b_keys = load_block(keys_ptr, block, i_kv, rows, at < position, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
    b_values = load_block(values_ptr, block, i_kv, rows, at < position, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
    tl.static_assert(b_keys.shape == (TOKENS_PER_BLOCK, TILE_D))
    wait_for_inputs(PDL)
    b_keys += load_block(keys_ptr, block, i_kv, rows, at == position, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
    b_values += load_block(values_ptr, block, i_kv, rows, at == position, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
    heads = request.to(tl.int64) * NUM_HEADS + i_kv * group + g
    m_q = (g < group)[:, None] & (d < HEAD_DIM)[None, :]
    b_q = tl.load(q_ptr + heads[:, None] * HEAD_DIM + d[None, :], mask=m_q, other=0.0)
    # compute: the newest block with a mask, the full ones without
    peak = tl.full((TILE_G,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((TILE_G,), dtype=tl.float32)
    b_sum = tl.zeros((TILE_G, TILE_D), dtype=tl.float32)
    peak, total, b_sum = attend(b_q, b_keys, b_values, (at <= position)[None, :], peak, total, b_sum, scale_log2e)
    for index in range(first, last):
        block = tl.load(table + index)
        b_keys = load_block(keys_ptr, block, i_kv, rows, None, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
        b_values = load_block(values_ptr, block, i_kv, rows, None, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
        peak, total, b_sum = attend(b_q, b_keys, b_values, None, peak, total, b_sum, scale_log2e)
    # store
    if SPLITS == 1:
        b_out = (b_sum / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + heads[:, None] * HEAD_DIM + d[None, :], b_out, mask=m_q)
    else:
        o_part = heads * SPLITS + i_split
        tl.store(sums_ptr + o_part[:, None] * HEAD_DIM + d[None, :], b_sum, mask=m_q)
        tl.store(peaks_ptr + o_part, peak, mask=g < group)
        tl.store(totals_ptr + o_part, total, mask=g < group)


@jit
def _merge_kernel(
    sums_ptr,
    peaks_ptr,
    totals_ptr,
    positions_ptr,
    out_ptr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE_D: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: all splits of one head of one request
    request = tl.program_id(0)
    row = request.to(tl.int64) * NUM_HEADS + tl.program_id(1)
    d = tl.arange(0, TILE_D)
    splits = tl.arange(0, SPLITS)
    let_next_start(PDL)
    position = tl.load(positions_ptr + request).to(tl.int32)
    first, last = _split_blocks(position, splits, SPLITS, TOKENS_PER_BLOCK)
    m_splits = first <= last
    wait_for_inputs(PDL)
    # load
    peaks = tl.load(peaks_ptr + row * SPLITS + splits, mask=m_splits, other=float("-inf"))
    totals = tl.load(totals_ptr + row * SPLITS + splits, mask=m_splits, other=0.0)
    m_sums = m_splits[:, None] & (d < HEAD_DIM)[None, :]
    b_sums = tl.load(sums_ptr + (row * SPLITS + splits)[:, None] * HEAD_DIM + d[None, :], mask=m_sums, other=0.0)
    tl.static_assert(b_sums.shape == (SPLITS, TILE_D))
    # compute
    weights = tl.math.exp2(peaks - tl.max(peaks, axis=0))
    b_out = tl.sum(b_sums * weights[:, None], axis=0) / tl.sum(totals * weights, axis=0)
    # store
    tl.store(out_ptr + row * HEAD_DIM + d, b_out.to(out_ptr.dtype.element_ty), mask=d < HEAD_DIM)


def plan_splits(num_requests: int, num_kv_heads: int, columns: int) -> int:
    """A power of two, from what a CUDA graph is captured for: no more programs than the machine keeps busy."""
    wanted = min(columns, max(1, _PROGRAMS // max(1, num_requests * num_kv_heads)))
    return 1 << (wanted.bit_length() - 1)


def plan_decode(splits: int) -> tuple[int, int]:
    """(warps, stages): of a loop whose loads depend on a load, two stages are no more than one tile ahead."""
    return (4, 3) if splits > 1 else (4, 4)


def decode_attention(
    q: Tensor, layer: LayerKV, block_tables: Tensor, positions: Tensor, scale: float, out: Tensor
) -> None:
    """q, out [requests, num_heads, head_dim]; block_tables [requests, columns]; positions [requests], the newest."""
    num_requests, num_heads, head_dim = q.shape
    _, num_kv_heads, tokens_per_block, _ = layer.keys.shape
    splits = plan_splits(num_requests, num_kv_heads, block_tables.shape[1])
    warps, stages = plan_decode(splits)
    cells = (num_requests, num_heads, splits) if splits > 1 else (0, 0, 0)
    sums, peaks, totals = (
        torch.empty((*cells, *rest), dtype=torch.float32, device=q.device) for rest in ((head_dim,), (), ())
    )
    common = {
        "NUM_HEADS": num_heads, "HEAD_DIM": head_dim, "TOKENS_PER_BLOCK": tokens_per_block, "SPLITS": splits,
        "TILE_D": max(16, next_power(head_dim)), **launch_options(q.device),
    }  # fmt: skip
    _decode_kernel[(num_requests, num_kv_heads, splits)](
        q, layer.keys, layer.values, block_tables, positions, out, sums, peaks, totals,
        block_tables.stride(0), scale * _LOG2_E, NUM_KV_HEADS=num_kv_heads,
        TILE_G=max(16, next_power(num_heads // num_kv_heads)), num_warps=warps, num_stages=stages, **common,
    )  # fmt: skip
    if splits > 1:
        _merge_kernel[(num_requests, num_heads)](sums, peaks, totals, positions, out, num_warps=4, **common)
