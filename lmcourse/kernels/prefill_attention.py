"""Prefill attention: many new tokens of a request attend to its cached prefix and, causally, to each other.

The same running softmax as in decode_attention.py, for tiles of TILE_M queries of one head; here each key is used by
many queries, so this is arithmetic on the tensor cores. Blocks that lie wholly before a tile's first query need no
mask; the few at the diagonal do.

Work, InternLM2-1.8B (16 heads of 128), 4096 tokens, a layer: 4 · heads · head_dim · T² / 2 = 69 GFLOP, 87 µs at
790 TFLOP/s; bytes are few: q, out and, per tile, the keys and values before it, mostly from the L2 cache.

    keys →   0 … prefix … │ new …
    q tile 0 [ full full full │ ◣          ]      program (tile, head, request); the longest tiles start first
    q tile 1 [ full full full │ full ◣     ]
    q tile 2 [ full full full │ full full ◣]

Measured (benchmarks/kernels_gpu, H100): 4096 tokens 238 µs, 288 TFLOP/s.

Lesson: 3 (chunked prefill)
"""

from __future__ import annotations

from torch import Tensor

from lmcourse.kernels import lang
from lmcourse.kernels.decode_attention import attend, load_block
from lmcourse.kernels.lang import (
    jit,
    launch_options,
    let_next_start,
    next_power,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.ragged import LayerKV, RaggedBatch

__all__ = ["plan_prefill", "prefill_attention"]

_LOG2_E = 1.4426950408889634


@jit
def _prefill_kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    tables_ptr,
    positions_ptr,
    starts_ptr,
    out_ptr,
    first_request,
    columns,
    scale_log2e,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_D: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_M queries of one head of one request, last tiles first
    head, request = tl.program_id(1), first_request + tl.program_id(2)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    start, stop = tl.load(starts_ptr + request), tl.load(starts_ptr + request + 1)
    first_row = start + (tl.num_programs(0) - 1 - tl.program_id(0)) * TILE_M
    if first_row >= stop:
        return
    i_kv = head // (NUM_HEADS // NUM_KV_HEADS)
    tokens = first_row + tl.arange(0, TILE_M)
    rows = tl.arange(0, TOKENS_PER_BLOCK)
    d = tl.arange(0, TILE_D)
    table = tables_ptr + request.to(tl.int64) * columns
    # load
    m_q = (tokens < stop)[:, None] & (d < HEAD_DIM)[None, :]
    o_q = (tokens.to(tl.int64)[:, None] * NUM_HEADS + head) * HEAD_DIM + d[None, :]
    b_q = tl.load(q_ptr + o_q, mask=m_q, other=0.0)
    tl.static_assert(b_q.shape == (TILE_M, TILE_D))
    # compute: blocks that every query of the tile sees, then those at the diagonal
    earliest = tl.load(positions_ptr + first_row).to(tl.int32)
    latest = earliest + tl.minimum(stop - first_row, TILE_M) - 1
    positions = earliest + tl.arange(0, TILE_M)
    num_full = (earliest + 1) // TOKENS_PER_BLOCK
    peak = tl.full((TILE_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((TILE_M,), dtype=tl.float32)
    b_sum = tl.zeros((TILE_M, TILE_D), dtype=tl.float32)
    for index in range(0, num_full):
        block = tl.load(table + index)
        b_keys = load_block(keys_ptr, block, i_kv, rows, None, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
        b_values = load_block(values_ptr, block, i_kv, rows, None, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
        peak, total, b_sum = attend(b_q, b_keys, b_values, None, peak, total, b_sum, scale_log2e)
    for index in range(num_full, latest // TOKENS_PER_BLOCK + 1):
        block = tl.load(table + index)
        at = index * TOKENS_PER_BLOCK + rows
        written = at <= latest
        b_keys = load_block(keys_ptr, block, i_kv, rows, written, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
        b_values = load_block(values_ptr, block, i_kv, rows, written, d, NUM_KV_HEADS, TOKENS_PER_BLOCK, HEAD_DIM)
        seen = at[None, :] <= positions[:, None]
        peak, total, b_sum = attend(b_q, b_keys, b_values, seen, peak, total, b_sum, scale_log2e)
    # store
    tl.store(out_ptr + o_q, (b_sum / total[:, None]).to(out_ptr.dtype.element_ty), mask=m_q)


def plan_prefill(q: Tensor, longest: int) -> tuple[int, int, int]:
    """(TILE_M, warps, stages) for runs of up to `longest` new tokens."""
    # only warpgroup instructions (sm_90, sm_100) keep sums of 128 queries without spilling registers
    if lang.capability(q.device)[0] in (9, 10) and q.element_size() == 2 and longest > 64:
        return 128, 8, 3
    return min(64, max(16, next_power(longest))), 8 if longest > 32 else 4, 2


def prefill_attention(q: Tensor, layer: LayerKV, batch: RaggedBatch, scale: float, out: Tensor) -> None:
    """Requests from `num_decodes` on; q and out are the whole batch's, [num_tokens, num_heads, head_dim]."""
    _, num_heads, head_dim = q.shape
    _, num_kv_heads, tokens_per_block, _ = layer.keys.shape
    first, starts = batch.num_decodes, batch.query_starts
    longest = max(stop - start for start, stop in zip(starts[first:-1], starts[first + 1 :], strict=True))
    tile_m, warps, stages = plan_prefill(q, longest)
    _prefill_kernel[(triton.cdiv(longest, tile_m), num_heads, batch.num_requests - first)](
        q, layer.keys, layer.values, batch.block_tables, batch.positions, batch.device_starts, out,
        first, batch.block_tables.stride(0), scale * _LOG2_E,
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, TOKENS_PER_BLOCK=tokens_per_block,
        TILE_M=tile_m, TILE_D=max(16, next_power(head_dim)), num_warps=warps,
        num_stages=stages, **launch_options(q.device),
    )  # fmt: skip
