"""norm_gate_up for 4-bit weights: norm_gate_up.py's launches, with the rows and tiles of w4a16.

    (residual + parts) → RMS norm → · words → [ gate | up ] → silu(gate) · up

Traffic, one token of InternLM2-1.8B: 17.8 MB of words and groups, 4.2 µs at 4.2 TB/s.

    rows, 1 token         norms the token for itself; a few rows of gate and the same of up at a time, all of k in
                          one shot, the next few on their way from memory meanwhile
    tiles, up to 64       normed by add_norm; TILE_N rows of gate and the same of up, on the tensor cores
    composition, above

Lesson: 4 (the kernel, line by line)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.add_norm import add_norm
from lmcourse.kernels.lang import (
    jit,
    launch_options,
    let_next_start,
    load_tile,
    next_power,
    shared_kib,
    store_row,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.nibbles import normed_pairs, uses_asm
from lmcourse.kernels.operands import Norm, PackedMatrix, Stream
from lmcourse.kernels.swiglu import gate
from lmcourse.kernels.w4a16 import RowPlan, dot_rows_of_words, last_row, load_rows_of_words
from lmcourse.kernels.w4a16_tiles import PackedTilePlan, add_product, fit_tile_k, load_weights

__all__ = [
    "MOST_GATE_UP_TILE_TOKENS",
    "plan_packed_gate_up",
    "plan_packed_gate_up_rows",
    "w4a16_norm_gate_up_rows",
    "w4a16_norm_gate_up_tiles",
]

MOST_GATE_UP_TILE_TOKENS = 64


@jit
def _load_both(
    words_ptr,
    groups_ptr,
    rows,
    end,
    INTERMEDIATE: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    TILE_G: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Rows of gate and of up; nothing is read from row `end` on."""
    ragged: tl.constexpr = CHUNKS > 1 or INTERMEDIATE % ROWS != 0
    m_rows = rows < end
    b_gate, g_gate = load_rows_of_words(words_ptr, groups_ptr, rows, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, ragged)
    b_up, g_up = load_rows_of_words(
        words_ptr, groups_ptr, rows + INTERMEDIATE, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, ragged
    )
    return b_gate, g_gate, b_up, g_up


@jit
def _w4a16_gate_up_rows_kernel(
    residual_ptr,
    parts_ptr,
    norm_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    sum_ptr,
    out_ptr,
    eps,
    NUM_PARTS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_G: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: CHUNKS times ROWS rows of gate and the same of up
    width: tl.constexpr = NUM_GROUPS * GROUP_WORDS * 8
    words: tl.constexpr = TILE_G * GROUP_WORDS
    rows = tl.program_id(0) * (ROWS * CHUNKS) + tl.arange(0, ROWS)
    # load: weights do not wait
    b_gate, g_gate, b_up, g_up = _load_both(
        words_ptr, groups_ptr, rows, INTERMEDIATE, INTERMEDIATE, NUM_GROUPS, GROUP_WORDS, TILE_G, ROWS, CHUNKS
    )
    tl.static_assert(b_gate.shape == (ROWS, TILE_G, GROUP_WORDS))
    let_next_start(PDL)
    wait_for_inputs(PDL)
    at, b_sum, x0, x1, x2, x3 = normed_pairs(
        residual_ptr, parts_ptr, norm_ptr, 0, 1, eps, NUM_PARTS, width, TILE_G, GROUP_WORDS
    )
    if tl.program_id(0) == 0:
        store_row(sum_ptr, at, b_sum, width, words * 8)
    for _ in range(CHUNKS):
        # load: the next chunk, while this one is multiplied
        n_gate, gn_gate, n_up, gn_up = _load_both(
            words_ptr,
            groups_ptr,
            rows + ROWS,
            last_row(ROWS, CHUNKS, INTERMEDIATE),
            INTERMEDIATE,
            NUM_GROUPS,
            GROUP_WORDS,
            TILE_G,
            ROWS,
            CHUNKS,
        )
        # compute
        b_open = dot_rows_of_words(b_gate, g_gate, x0, x1, x2, x3, ASM)
        b_value = dot_rows_of_words(b_up, g_up, x0, x1, x2, x3, ASM)
        m_rows = rows < INTERMEDIATE
        if HAS_BIAS:
            b_open += tl.load(bias_ptr + rows, mask=m_rows).to(tl.float32)
            b_value += tl.load(bias_ptr + INTERMEDIATE + rows, mask=m_rows).to(tl.float32)
        # store
        tl.store(out_ptr + rows, gate(b_open, b_value, out_ptr.dtype.element_ty), mask=m_rows)
        b_gate, g_gate, b_up, g_up = n_gate, gn_gate, n_up, gn_up
        rows += ROWS


def w4a16_norm_gate_up_rows(
    stream: Stream, norm: Norm, gate_up: PackedMatrix, *, plan: RowPlan | None = None
) -> tuple[Tensor, Tensor]:
    """One token of float16, in one launch."""
    residual, parts = stream
    (num_rows, width), groups = gate_up.shape, gate_up.groups.shape[1]
    intermediate, plan = num_rows // 2, plan or plan_packed_gate_up_rows(width)
    total = torch.empty_like(residual)
    out = torch.empty((1, intermediate), dtype=residual.dtype, device=residual.device)
    _w4a16_gate_up_rows_kernel[(triton.cdiv(intermediate, plan.rows * plan.chunks),)](
        residual, parts, norm.weight, gate_up.words, gate_up.groups, gate_up.bias, total, out, norm.eps,
        NUM_PARTS=parts.shape[0], NUM_GROUPS=groups, GROUP_WORDS=gate_up.group_size // 8, INTERMEDIATE=intermediate,
        HAS_BIAS=gate_up.bias is not None, TILE_G=next_power(groups), ROWS=plan.rows, CHUNKS=plan.chunks,
        ASM=uses_asm(), num_warps=plan.warps, **launch_options(residual.device),
    )  # fmt: skip
    return out, total


def plan_packed_gate_up_rows(width: int) -> RowPlan:
    """The norm is paid once for all rows of a program, so it takes several chunks; one chunk fills the registers."""
    return RowPlan(4, 4, 4) if width <= 2048 else RowPlan(4, 8, 4)


@jit
def _w4a16_gate_up_tiles_kernel(
    x_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    WIDTH: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows of gate and the same of up, TILE_M tokens
    rows = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    m_rows = rows < INTERMEDIATE
    tokens = tl.program_id(1) * TILE_M + tl.arange(0, TILE_M)
    ragged: tl.constexpr = INTERMEDIATE % TILE_N != 0
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    k = tl.arange(0, TILE_K)
    b_open = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    b_value = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    for start in range(0, WIDTH, TILE_K):
        # load
        b_gate, s_gate = load_weights(
            words_ptr, groups_ptr, rows, m_rows, start, WIDTH, GROUP, TILE_N, TILE_K, ragged, ASM
        )
        b_up, s_up = load_weights(
            words_ptr, groups_ptr, rows + INTERMEDIATE, m_rows, start, WIDTH, GROUP, TILE_N, TILE_K, ragged, ASM
        )
        x = x_ptr + tokens.to(tl.int64)[None, :] * WIDTH + (start + k)[:, None]
        b_x = load_tile(x, start + k < WIDTH, tokens < num_tokens, uneven, MASK_SECOND=True)
        tl.static_assert(b_x.shape == (TILE_K, TILE_M))
        # compute
        b_open = add_product(b_open, b_gate, s_gate, b_x, GROUP, TILE_K)
        b_value = add_product(b_value, b_up, s_up, b_x, GROUP, TILE_K)
    if HAS_BIAS:
        b_open += tl.load(bias_ptr + rows, mask=m_rows).to(tl.float32)[:, None]
        b_value += tl.load(bias_ptr + INTERMEDIATE + rows, mask=m_rows).to(tl.float32)[:, None]
    # store
    m_out = m_rows[:, None] & (tokens < num_tokens)[None, :]
    b_out = gate(b_open, b_value, out_ptr.dtype.element_ty)
    tl.store(out_ptr + tokens.to(tl.int64)[None, :] * INTERMEDIATE + rows[:, None], b_out, mask=m_out)


def plan_packed_gate_up(num_tokens: int, group_size: int, room_kib: int = 227) -> PackedTilePlan:
    """Two tiles of weights at a time, so half as tall as a projection's; k is not split. room_kib is of a program."""
    tile_m = max(8, min(128, next_power(num_tokens)))
    tile_k = fit_tile_k(128, group_size)
    if tile_m <= 16:
        return PackedTilePlan(32, tile_m, tile_k, 0, warps=4, stages=3)
    return PackedTilePlan(64 if room_kib >= 227 else 32, tile_m, tile_k, 0, warps=8, stages=3)


def w4a16_norm_gate_up_tiles(
    stream: Stream, norm: Norm, gate_up: PackedMatrix, *, plan: PackedTilePlan | None = None
) -> tuple[Tensor, Tensor]:
    """Up to MOST_GATE_UP_TILE_TOKENS tokens of float16."""
    normed, residual = add_norm(stream, norm)
    (num_tokens, width), intermediate = normed.shape, gate_up.shape[0] // 2
    out = torch.empty((num_tokens, intermediate), dtype=normed.dtype, device=normed.device)
    plan = plan or plan_packed_gate_up(num_tokens, gate_up.group_size, shared_kib(normed.device))
    _w4a16_gate_up_tiles_kernel[(triton.cdiv(intermediate, plan.tile_n), triton.cdiv(num_tokens, plan.tile_m))](
        normed, gate_up.words, gate_up.groups, gate_up.bias, out, num_tokens,
        WIDTH=width, INTERMEDIATE=intermediate, GROUP=gate_up.group_size, HAS_BIAS=gate_up.bias is not None,
        TILE_N=plan.tile_n, TILE_M=plan.tile_m, TILE_K=plan.tile_k, ASM=uses_asm(),
        num_warps=plan.warps, num_stages=plan.stages, **launch_options(normed.device),
    )  # fmt: skip
    return out, residual
