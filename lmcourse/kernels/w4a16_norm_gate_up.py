"""norm_gate_up for 4-bit weights: norm_gate_up.py's launches, with the rows and tiles of w4a16.

    (residual + parts) → RMS norm → · words → [ gate | up ] → silu(gate) · up

Traffic, one token of InternLM2-1.8B: 17.8 MB of words and groups, 4.2 µs at 4.2 TB/s.

    rows, 1 token         norms the token for itself; a few rows of gate and the same of up at a time, all of k in
                          one shot, the next few on their way from memory meanwhile
    tiles, up to 256      normed by add_norm; half a tile of gate and the same rows of up, on the tensor cores
    parts, up to 16       normed by add_norm; w4a16's tiles, where they cut k: SwiGLU sums what they leave. Programs of
                          half of k, twice as many, are worth the launch: 9.2 us and it, not 14.5 (w4a16_h200.json)
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
    next_power,
    shared_kib,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.nibbles import normed_pairs, uses_asm
from lmcourse.kernels.operands import Norm, PackedMatrix, Stream
from lmcourse.kernels.packed import choose_unit
from lmcourse.kernels.swiglu import gate, swiglu_parts
from lmcourse.kernels.w4a16 import RowPlan, dot_rows_of_words, last_row, load_rows_of_words
from lmcourse.kernels.w4a16_tiles import PackedTilePlan, dot_words_tile, plan_packed_tiles, tile_options, w4a16_tiles

__all__ = [
    "plan_packed_gate_up",
    "plan_packed_gate_up_rows",
    "w4a16_norm_gate_up_rows",
    "w4a16_norm_gate_up_tiles",
]

_FEW = 16  # tokens


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
    UNIT: tl.constexpr,
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
    rows = tl.program_id(0) * (ROWS * CHUNKS) + tl.arange(0, ROWS)
    # load: weights do not wait
    b_gate, g_gate, b_up, g_up = _load_both(
        words_ptr, groups_ptr, rows, INTERMEDIATE, INTERMEDIATE, NUM_GROUPS, GROUP_WORDS, TILE_G, ROWS, CHUNKS
    )
    tl.static_assert(b_gate.shape == (ROWS, TILE_G, GROUP_WORDS))
    let_next_start(PDL)
    wait_for_inputs(PDL)
    x0, x1, x2, x3 = normed_pairs(
        residual_ptr, parts_ptr, norm_ptr, sum_ptr, tl.program_id(0) == 0, eps, NUM_PARTS, width, TILE_G, GROUP_WORDS,
        UNIT,
    )  # fmt: skip
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
        NUM_PARTS=parts.shape[0], NUM_GROUPS=groups, GROUP_WORDS=gate_up.group_size // 8,
        UNIT=choose_unit(gate_up.group_size), INTERMEDIATE=intermediate,
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
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    SCALED: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: half a tile of gate's rows and the same of up's, TILE_M tokens
    half: tl.constexpr = TILE_N // 2
    i = tl.arange(0, TILE_N)
    places = tl.program_id(0) * half + i % half
    rows = places + i // half * INTERMEDIATE
    m_rows = places < INTERMEDIATE
    tokens = tl.program_id(1) * TILE_M + tl.arange(0, TILE_M)
    ragged: tl.constexpr = INTERMEDIATE % half != 0
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load, compute
    b_sum = dot_words_tile(
        x_ptr, words_ptr, groups_ptr, rows, m_rows, tokens, num_tokens, 0, WIDTH,
        WIDTH, GROUP, UNIT, TILE_N, TILE_M, TILE_K, ragged, SCALED, ASM,
    )  # fmt: skip
    tl.static_assert(b_sum.shape == (TILE_N, TILE_M))
    if HAS_BIAS:
        b_sum += tl.load(bias_ptr + rows, mask=m_rows, other=0.0).to(tl.float32)[:, None]
    b_open, b_value = tl.split(tl.permute(tl.reshape(b_sum, (2, half, TILE_M)), (1, 2, 0)))
    # store
    out_rows = tl.program_id(0) * half + tl.arange(0, half)
    m_out = (out_rows < INTERMEDIATE)[:, None] & (tokens < num_tokens)[None, :]
    b_out = gate(b_open, b_value, out_ptr.dtype.element_ty)
    tl.store(out_ptr + tokens.to(tl.int64)[None, :] * INTERMEDIATE + out_rows[:, None], b_out, mask=m_out)


def plan_packed_gate_up(num_tokens: int, room_kib: int = 227) -> PackedTilePlan:
    """k is not split; room_kib is of a program."""
    tile_m = min(256, max(16, next_power(num_tokens)))
    if tile_m <= 16 and room_kib >= 163:
        return PackedTilePlan(128, tile_m, 128, 0, warps=8, stages=4)
    if tile_m <= 64 or room_kib < 163:
        return PackedTilePlan(64, min(64, tile_m), 128, 0, warps=4, stages=4 if room_kib >= 163 else 2)
    tile_m = tile_m if room_kib >= 227 else 128
    return PackedTilePlan(128, tile_m, 128, 0, warps=8, stages=3, scales_weights=True)


def w4a16_norm_gate_up_tiles(
    stream: Stream, norm: Norm, gate_up: PackedMatrix, *, plan: PackedTilePlan | None = None
) -> tuple[Tensor, Tensor]:
    """Up to MOST_PACKED_TILE_TOKENS tokens of float16."""
    normed, residual = add_norm(stream, norm)
    (num_tokens, width), intermediate = normed.shape, gate_up.shape[0] // 2
    room_kib = shared_kib(normed.device)
    if plan is None and num_tokens <= _FEW:
        cut = plan_packed_tiles(2 * intermediate, width, num_tokens, room_kib)
        if cut.share < width:
            return swiglu_parts(w4a16_tiles(normed, gate_up, plan=cut), normed.dtype), residual
    plan = plan or plan_packed_gate_up(num_tokens, room_kib)
    out = torch.empty((num_tokens, intermediate), dtype=normed.dtype, device=normed.device)
    _w4a16_gate_up_tiles_kernel[(triton.cdiv(2 * intermediate, plan.tile_n), triton.cdiv(num_tokens, plan.tile_m))](
        normed, gate_up.words, gate_up.groups, gate_up.bias, out, num_tokens,
        WIDTH=width, INTERMEDIATE=intermediate, HAS_BIAS=gate_up.bias is not None,
        **tile_options(plan, gate_up.group_size), **launch_options(normed.device),
    )  # fmt: skip
    return out, residual
