"""Paged decode attention: out[r, h] = softmax(scale · q[r, h] · keysᵀ) · values over request r's positions so far.

One query per request and head: no reuse but that of the query heads which share a key/value head, so this is the
reading of the cache. One block is one tile, and a block's keys of one head are one contiguous run. A request's blocks
are split over SPLITS programs, each of which leaves a peak, a sum of weights and a weighted sum of values; a second
launch merges them (arXiv 2205.14135 §3.1). The grid depends on the number of requests and the width of the table alone,
so that one CUDA graph serves growing contexts: a split without blocks returns at once.

Traffic, InternLM2-1.8B (8 key/value heads of 128, 2 bytes), a layer: 4 KiB per cached token. One request at 1024
tokens: 4.2 MB, 1.0 µs at 4.2 TB/s; 64 requests: 268 MB, 64 µs. FLOPs 4 · num_heads · head_dim per cached token.

    table of r   [ 5 │ 2 │ 9 │ 7 │ 4 ]          program (kv head, r, split), TILE_G rows of queries
                 └─ split 0 ─┘└ split 1 ┘       few programs: newest block first (masked), then the full ones

Many programs: one split, the full blocks first, by the copy engine of sm_90: no garbage in those.

Dependent launch: of the blocks only the newest position is this step's; all others are read before the wait, in the
first tile of each program. `positions` and `block_tables` must not change within a step, and a step must end before the
next begins (a CUDA graph does).

Measured (H200, 1024 tokens, with the newest block outside of the loop; benchmarks/kv_h200.json): one request 5.6 µs,
int8 4.8 µs; 64 requests 65.7 µs, 0.96 of a copy's bandwidth, int8 37.6 µs, int4 36.6 µs.

Lesson: 3 (paging)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.kv_tiles import (
    attend,
    attend_block,
    begin_softmax,
    fit_stages,
    in_window,
    load_queries,
    load_scales,
    load_slopes,
    load_words,
    store_outputs,
    tile_constants,
    tile_descriptors,
    tile_pointers,
)
from lmcourse.kernels.lang import (
    jit,
    jit_varying,
    launch_options,
    let_next_start,
    next_power,
    tl,
    wait_for_inputs,
)
from lmcourse.kernels.operands import ALL_BEFORE, Reach
from lmcourse.kernels.packed_kv import AnyKV

__all__ = ["decode_attention", "plan_decode", "plan_splits"]

_LOG2_E = 1.4426950408889634
_PROGRAMS = 512  # about four per multiprocessor of an H200 (132)
_MOST_HALVED = 1300  # programs of whole quantised contexts that are better halved


@jit
def _split_blocks(position, i_split, SPLITS: tl.constexpr, TOKENS_PER_BLOCK: tl.constexpr, WINDOW: tl.constexpr):
    """(first, last) of a split's blocks, first > last if it has none; WINDOW 0: from the request's first block on."""
    unseen = tl.maximum(position - WINDOW + 1, 0) // TOKENS_PER_BLOCK if WINDOW else 0
    num_blocks = position // TOKENS_PER_BLOCK + 1 - unseen
    share = tl.cdiv(num_blocks, SPLITS)
    return unseen + i_split * share, unseen + tl.minimum(i_split * share + share, num_blocks) - 1


@jit
def _load_newest(
    pools, block, i_kv, index, position, rows, w,
    NUM_KV_HEADS: tl.constexpr, W: tl.constexpr, NUM_SCALES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`load_block` of a table's last block; only the position that this step has written waits for its writer."""
    at = index * rows.shape[0] + rows
    b_keys = load_words(pools[0], block, i_kv, rows, at < position, w, NUM_KV_HEADS, W)
    b_values = load_words(pools[1], block, i_kv, rows, at < position, w, NUM_KV_HEADS, W)
    wait_for_inputs(PDL)
    b_keys += load_words(pools[0], block, i_kv, rows, at == position, w, NUM_KV_HEADS, W)
    b_values += load_words(pools[1], block, i_kv, rows, at == position, w, NUM_KV_HEADS, W)
    key_scales = load_scales(pools[2], block, i_kv, rows, at <= position, NUM_KV_HEADS, NUM_SCALES)
    value_scales = load_scales(pools[3], block, i_kv, rows, at <= position, NUM_KV_HEADS, NUM_SCALES)
    return b_keys, b_values, key_scales, value_scales


@jit_varying("columns")
def _decode_kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    keys_map,
    values_map,
    tables_ptr,
    positions_ptr,
    out_ptr,
    sums_ptr,
    peaks_ptr,
    totals_ptr,
    slopes_ptr,
    columns,
    scale_log2e,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    NUM_SCALES: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE_G: tl.constexpr,
    TILE_W: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: a split of one request's blocks, for the query heads of one key/value head
    i_kv, request, i_split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    let_next_start(PDL)
    position = tl.load(positions_ptr + request).to(tl.int32)
    first, last = _split_blocks(position, i_split, SPLITS, TOKENS_PER_BLOCK, WINDOW)
    if first > last:
        return
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    words: tl.constexpr = HEAD_DIM // PARTS
    g = tl.arange(0, TILE_G)
    w = tl.arange(0, TILE_W)
    rows = tl.arange(0, TOKENS_PER_BLOCK)
    table = tables_ptr + request.to(tl.int64) * columns
    pools = keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, keys_map, values_map
    heads = request.to(tl.int64) * NUM_HEADS + i_kv * group + g
    positions = position + tl.zeros((1,), dtype=tl.int32)
    slopes = load_slopes(slopes_ptr, i_kv * group + g, g < group, scale_log2e)
    running = begin_softmax(TILE_G, TILE_W, PARTS)
    if SPLITS == 1:
        # load, compute: many programs at once need no head start, and are short of registers
        wait_for_inputs(PDL)
        q, q_total = load_queries(q_ptr + heads * HEAD_DIM, g < group, w, HEAD_DIM, PARTS)
        begin = first if WINDOW else 0
        if keys_map is not None:
            for index in range(begin, last):
                running = attend_block(
                    q, q_total, positions, slopes, table, index, pools, i_kv, rows, w, running, scale_log2e, None,
                    CAUSAL=False, WINDOW=WINDOW, NUM_KV_HEADS=NUM_KV_HEADS, W=words, NUM_SCALES=NUM_SCALES,
                )  # fmt: skip
            running = attend_block(
                q, q_total, positions, slopes, table, last, pools, i_kv, rows, w, running, scale_log2e, position,
                CAUSAL=True, WINDOW=WINDOW, NUM_KV_HEADS=NUM_KV_HEADS, W=words, NUM_SCALES=NUM_SCALES,
            )  # fmt: skip
        else:  # one loop, all masked
            for index in range(begin, last + 1):
                running = attend_block(
                    q, q_total, positions, slopes, table, index, pools, i_kv, rows, w, running, scale_log2e, position,
                    CAUSAL=True, WINDOW=WINDOW, NUM_KV_HEADS=NUM_KV_HEADS, W=words, NUM_SCALES=NUM_SCALES,
                )  # fmt: skip
    else:
        # load: the newest block of the split, some of it before the wait
        newest = _load_newest(pools, tl.load(table + last), i_kv, last, position, rows, w, NUM_KV_HEADS, words,
                              NUM_SCALES, PDL)  # fmt: skip
        q, q_total = load_queries(q_ptr + heads * HEAD_DIM, g < group, w, HEAD_DIM, PARTS)
        # compute: the newest block with a mask, the full ones without
        distance = positions[:, None] - (last * TOKENS_PER_BLOCK + rows)[None, :]
        running = attend(
            q, q_total, newest, in_window(distance, distance >= 0, WINDOW), running, scale_log2e, slopes, distance
        )
        for index in range(first, last):
            running = attend_block(
                q, q_total, positions, slopes, table, index, pools, i_kv, rows, w, running, scale_log2e, None,
                CAUSAL=False, WINDOW=WINDOW, NUM_KV_HEADS=NUM_KV_HEADS, W=words, NUM_SCALES=NUM_SCALES,
            )  # fmt: skip
    peak, total, shift, sums = running
    # store: the result, or what the merge needs of this split
    o_part = heads * SPLITS + i_split
    if SPLITS == 1:
        store_outputs(out_ptr + o_part * HEAD_DIM, g < group, w, sums, shift, total, HEAD_DIM, NUM_SCALES)
    else:
        store_outputs(sums_ptr + o_part * HEAD_DIM, g < group, w, sums, shift, 1.0 + 0 * total, HEAD_DIM, NUM_SCALES)
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
    WINDOW: tl.constexpr,
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
    first, last = _split_blocks(position, splits, SPLITS, TOKENS_PER_BLOCK, WINDOW)
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


def plan_splits(num_requests: int, num_kv_heads: int, columns: int, parts: int = 1) -> int:
    """A power of two, from what a CUDA graph is captured for: no more programs than the machine keeps busy."""
    programs = max(1, num_requests * num_kv_heads)
    wanted = max(1, _PROGRAMS // programs)
    if parts > 1 and programs <= _MOST_HALVED:
        wanted = max(2, wanted)
    return 1 << (min(columns, wanted).bit_length() - 1)


def plan_decode(splits: int, parts: int, programs: int) -> tuple[int, int]:
    """(warps, stages). A tile that is found through a table is loaded (stages - 1) / 2 tiles ahead.

    Measured on an H200 with the contexts of 256 mixed requests as they end one by one, and with equal ones. Programs
    that read quantised blocks (parts > 1) spend longer on each: two a request even out long and short ones.
    """
    if parts > 1:
        return ((4, 5) if splits <= 4 or parts == 4 else (2, 3)) if splits <= 8 else (4, 3)
    if splits > 1:
        return (2, 3) if splits == 2 and programs >= _PROGRAMS else (4, 3)
    # three programs or two at a time on a multiprocessor: equal ones fill it in one go, others want to be many rounds
    return (2, 3) if abs(programs - _PROGRAMS) <= 64 else (2, 5)


def decode_attention(
    q: Tensor, kv: AnyKV, places: tuple[Tensor, Tensor], scale: float, out: Tensor, reach: Reach = ALL_BEFORE
) -> None:
    """q, out [requests, num_heads, head_dim]; places: block_tables [requests, columns], positions [requests]."""
    block_tables, positions = places
    num_requests, num_heads, head_dim = q.shape
    constants = tile_constants(kv)
    parts = constants["PARTS"]
    splits = plan_splits(num_requests, kv.num_kv_heads, block_tables.shape[1], parts)
    warps, stages = plan_decode(splits, parts, num_requests * kv.num_kv_heads * splits)
    stages = fit_stages(kv, stages, 16 * head_dim * q.element_size())
    cells = (num_requests, num_heads, splits) if splits > 1 else (0, 0, 0)
    sums, peaks, totals = (
        torch.empty((*cells, *rest), dtype=torch.float32, device=q.device) for rest in ((head_dim,), (), ())
    )
    options = launch_options(q.device)
    maps = tile_descriptors(kv) if parts == splits == 1 and q.element_size() == 2 else (None, None)
    _decode_kernel[(kv.num_kv_heads, num_requests, splits)](
        q, *tile_pointers(kv), *maps, block_tables, positions, out, sums, peaks, totals, reach.slopes,
        block_tables.stride(0), scale * _LOG2_E, NUM_HEADS=num_heads, SPLITS=splits,
        WINDOW=reach.window or 0, TILE_G=max(16, next_power(num_heads // kv.num_kv_heads)),
        num_warps=warps, num_stages=stages, **constants, **options,
    )  # fmt: skip
    if splits > 1:
        _merge_kernel[(num_requests, num_heads)](
            sums, peaks, totals, positions, out, NUM_HEADS=num_heads, HEAD_DIM=head_dim,
            TOKENS_PER_BLOCK=kv.tokens_per_block, SPLITS=splits, WINDOW=reach.window or 0,
            TILE_D=next_power(head_dim), num_warps=4, **options,
        )  # fmt: skip
