"""Prefill attention: many new tokens of a request attend to its cached prefix and, causally, to each other.

The same running softmax as in decode_attention.py, for tiles of TILE_M queries of one head; here each key is used by
many queries, so this is arithmetic on the tensor cores. Blocks that lie wholly before a tile's first query need no
mask; the few at the diagonal do.

Work, InternLM2-1.8B (16 heads of 128), 4096 tokens, a layer: 4 · heads · head_dim · T² / 2 = 69 GFLOP, 87 µs at
790 TFLOP/s; bytes are few: q, out and, per tile, the keys and values before it, mostly from the L2 cache.

    keys →   0 … prefix … │ new …
    q tile 0 [ full full full │ ◣          ]      program (head, tile, request); the longest tiles start first
    q tile 1 [ full full full │ full ◣     ]
    q tile 2 [ full full full │ full full ◣]

Measured (H200, 4096 tokens; benchmarks/kv_h200.json): 469 TFLOP/s, int8 289, int4 166.

Lesson: 3 (chunked prefill)
"""

from __future__ import annotations

from torch import Tensor

from lmcourse.kernels import lang
from lmcourse.kernels.kv_tiles import (
    attend_block,
    begin_softmax,
    fit_stages,
    load_queries,
    load_slopes,
    store_outputs,
    tile_constants,
    tile_descriptors,
    tile_pointers,
)
from lmcourse.kernels.lang import jit_varying, launch_options, let_next_start, next_power, tl, triton, wait_for_inputs
from lmcourse.kernels.operands import ALL_BEFORE, Reach
from lmcourse.kernels.packed_kv import AnyKV
from lmcourse.kernels.ragged import RaggedBatch

__all__ = ["plan_prefill", "prefill_attention"]

_LOG2_E = 1.4426950408889634


@jit_varying("first_request", "columns")
def _prefill_kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    keys_map,
    values_map,
    tables_ptr,
    positions_ptr,
    starts_ptr,
    out_ptr,
    slopes_ptr,
    first_request,
    columns,
    scale_log2e,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    NUM_SCALES: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_W: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_M queries of one head of one request, last tiles first
    head, request = tl.program_id(0), first_request + tl.program_id(2)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    start, stop = tl.load(starts_ptr + request), tl.load(starts_ptr + request + 1)
    first_row = start + (tl.num_programs(1) - 1 - tl.program_id(1)) * TILE_M
    if first_row >= stop:
        return
    i_kv = head // (NUM_HEADS // NUM_KV_HEADS)
    words: tl.constexpr = HEAD_DIM // PARTS
    tokens = first_row + tl.arange(0, TILE_M)
    rows = tl.arange(0, TOKENS_PER_BLOCK)
    w = tl.arange(0, TILE_W)
    table = tables_ptr + request.to(tl.int64) * columns
    pools = keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, keys_map, values_map
    # load
    o_rows = (tokens.to(tl.int64) * NUM_HEADS + head) * HEAD_DIM
    q, q_total = load_queries(q_ptr + o_rows, tokens < stop, w, HEAD_DIM, PARTS)
    tl.static_assert(q[0].shape == (TILE_M, TILE_W))
    # compute: blocks that every query of the tile sees, then those at the diagonal
    earliest = tl.load(positions_ptr + first_row).to(tl.int32)
    latest = earliest + tl.minimum(stop - first_row, TILE_M) - 1
    positions = earliest + tl.arange(0, TILE_M)
    num_full = (earliest + 1) // TOKENS_PER_BLOCK
    num_seen = latest // TOKENS_PER_BLOCK + 1
    first_seen = tl.maximum(earliest - WINDOW + 1, 0) // TOKENS_PER_BLOCK if WINDOW else 0
    slopes = load_slopes(slopes_ptr, head + 0 * positions, positions >= 0, scale_log2e)
    running = begin_softmax(TILE_M, TILE_W, PARTS)
    for index in range(first_seen, num_full):
        running = attend_block(
            q, q_total, positions, slopes, table, index, pools, i_kv, rows, w, running, scale_log2e, None,
            CAUSAL=False, WINDOW=WINDOW, NUM_KV_HEADS=NUM_KV_HEADS, W=words, NUM_SCALES=NUM_SCALES,
        )  # fmt: skip
    masked_from = num_full
    if keys_map is not None:  # blocks that the request has filled hold no garbage
        num_filled = (tl.load(positions_ptr + stop - 1).to(tl.int32) + 1) // TOKENS_PER_BLOCK
        masked_from = tl.maximum(num_full, tl.minimum(num_seen, num_filled))
        for index in range(num_full, masked_from):
            running = attend_block(
                q, q_total, positions, slopes, table, index, pools, i_kv, rows, w, running, scale_log2e, None,
                CAUSAL=True, WINDOW=WINDOW, NUM_KV_HEADS=NUM_KV_HEADS, W=words, NUM_SCALES=NUM_SCALES,
            )  # fmt: skip
    for index in range(masked_from, num_seen):
        running = attend_block(
            q, q_total, positions, slopes, table, index, pools, i_kv, rows, w, running, scale_log2e, latest,
            CAUSAL=True, WINDOW=WINDOW, NUM_KV_HEADS=NUM_KV_HEADS, W=words, NUM_SCALES=NUM_SCALES,
        )  # fmt: skip
    _, total, shift, sums = running
    # store
    store_outputs(out_ptr + o_rows, tokens < stop, w, sums, shift, total, HEAD_DIM, NUM_SCALES)


def plan_prefill(q: Tensor, longest: int, parts: int) -> tuple[int, int, int, bool]:
    """(TILE_M, warps, stages, whether by tensor descriptors) for runs of up to `longest` new tokens."""
    # one warpgroup (sm_90, sm_100) a program: while one waits for its scores, another multiplies
    if lang.capability(q.device)[0] in (9, 10) and q.element_size() == 2 and longest > 64:
        return 64, 4, 5, parts == 1
    return min(64, max(16, next_power(longest))), 8 if longest > 32 else 4, 3, False


def prefill_attention(
    q: Tensor, kv: AnyKV, batch: RaggedBatch, scale: float, out: Tensor, reach: Reach = ALL_BEFORE
) -> None:
    """Requests from `num_decodes` on; q and out are the whole batch's, [num_tokens, num_heads, head_dim]."""
    num_heads = q.shape[1]
    first, starts = batch.num_decodes, batch.query_starts
    longest = max(stop - start for start, stop in zip(starts[first:-1], starts[first + 1 :], strict=True))
    constants = tile_constants(kv)
    tile_m, warps, stages, mapped = plan_prefill(q, longest, constants["PARTS"])
    stages = fit_stages(kv, stages, tile_m * kv.head_dim * q.element_size())
    maps = tile_descriptors(kv) if mapped else (None, None)
    _prefill_kernel[(num_heads, triton.cdiv(longest, tile_m), batch.num_requests - first)](
        q, *tile_pointers(kv), *maps, batch.block_tables, batch.positions, batch.device_starts, out, reach.slopes,
        first, batch.block_tables.stride(0), scale * _LOG2_E, NUM_HEADS=num_heads, WINDOW=reach.window or 0,
        TILE_M=tile_m, num_warps=warps, num_stages=stages, **constants, **launch_options(q.device),
    )  # fmt: skip
