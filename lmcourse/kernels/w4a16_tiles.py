"""W4A16 for more tokens: the weights' words become tiles of float16 on their way into the tensor cores.

Traffic is that of w4a16.py for every number of tokens up to a tile's; the instructions of unpacking are shared by all
tokens of the tile, so a program takes as many as it can.

    words [TILE_N, TILE_K / 8] ──nibbles.py──▶ weights [TILE_N, TILE_K], the left operand: it fills the 64 rows of an
    x [TILE_K, TILE_M]                         instruction even for one token                         → [TILE_N, TILE_M]

    k is split over programs where there are few rows; each split leaves a float32 part, added in order by what follows

    unpacked     more tokens than that: one program a row of groups writes the weights as float16 (4 times the traffic,
                 once for all tokens), and torch's library multiplies

Lesson: 4 (when 4 bits stop paying)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmcourse.kernels.lang import (
    jit,
    launch_options,
    let_next_start,
    load_tile,
    next_power,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.nibbles import half_of, split_group, unpack_tile, uses_asm
from lmcourse.kernels.operands import PackedMatrix

__all__ = [
    "MOST_PACKED_TILE_TOKENS",
    "PackedTilePlan",
    "add_product",
    "dot_words_tile",
    "fit_tile_k",
    "load_weights",
    "plan_packed_tiles",
    "unpack_triton",
    "w4a16_tiles",
    "w4a16_unpacked",
]

MOST_PACKED_TILE_TOKENS = 128
_PROGRAMS = 132


@jit
def load_weights(
    words_ptr,
    groups_ptr,
    rows,
    m_rows,
    start,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    MASKED: tl.constexpr,
    ASM: tl.constexpr,
):
    """weight[rows, start : start + TILE_K] as float16, and scales [TILE_N, …].

    Where the tile lies in one group the weight is still to be multiplied by the scale of its row. Zero beyond the
    width, in which groups come out even.
    """
    row = rows.to(tl.int64)
    word = start // 8 + tl.arange(0, TILE_K // 8)
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    m_word = word < WIDTH // 8
    words = words_ptr + row[:, None] * (WIDTH // 8) + word[None, :]
    b_words = load_tile(words, m_rows, m_word, MASKED, uneven)
    if GROUP >= TILE_K:
        groups = groups_ptr + row * (WIDTH // GROUP) + start // GROUP
        b_groups = (tl.load(groups, mask=m_rows, other=0) if MASKED else tl.load(groups))[:, None]
    else:
        groups = groups_ptr + row[:, None] * (WIDTH // GROUP) + (word // (GROUP // 8))[None, :]
        b_groups = load_tile(groups, m_rows, m_word, MASKED, uneven)
    b_zero, b_edge = split_group(b_groups, ASM)
    b_scale = half_of(b_groups)
    b_weight = unpack_tile(b_words, b_zero, b_edge, TILE_N, TILE_K, ASM)
    if GROUP < TILE_K:  # several groups: each weight gets its own scale
        eights = tl.broadcast_to(b_scale[:, :, None], (TILE_N, TILE_K // 8, 8))
        b_weight *= tl.reshape(eights, (TILE_N, TILE_K))
    return b_weight, b_scale


@jit
def add_product(b_sum, b_weight, b_scale, b_x, GROUP: tl.constexpr, TILE_K: tl.constexpr):
    """b_sum + (weight · scale) · x; where a tile has one scale a row, it costs less behind the product."""
    if GROUP < TILE_K:
        b_sum = tl.dot(b_weight, b_x, b_sum)
    else:
        b_sum += tl.dot(b_weight, b_x) * b_scale.to(tl.float32)
    return b_sum


@jit
def dot_words_tile(
    x_ptr,
    words_ptr,
    groups_ptr,
    rows,
    m_rows,
    tokens,
    num_tokens,
    first,
    last,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    MASKED: tl.constexpr,
    ASM: tl.constexpr,
):
    """Σ_k weight[rows, k] · x[tokens, k] for first ≤ k < last, as float32 [TILE_N, TILE_M]."""
    k = tl.arange(0, TILE_K)
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    b_sum = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    for start in range(first, last, TILE_K):
        b_weight, b_scale = load_weights(
            words_ptr, groups_ptr, rows, m_rows, start, WIDTH, GROUP, TILE_N, TILE_K, MASKED, ASM
        )
        at = start + k
        x = x_ptr + tokens.to(tl.int64)[None, :] * WIDTH + at[:, None]
        b_x = load_tile(x, at < WIDTH, tokens < num_tokens, uneven, MASK_SECOND=True)
        b_sum = add_product(b_sum, b_weight, b_scale, b_x, GROUP, TILE_K)
    return b_sum


@jit
def _w4a16_tiles_kernel(
    x_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    SHARE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows of the weight, one share of k, TILE_M tokens
    rows = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    i_split = tl.program_id(1)
    tokens = tl.program_id(2) * TILE_M + tl.arange(0, TILE_M)
    m_rows = rows < NUM_ROWS
    let_next_start(PDL)
    # load, compute
    b_bias = tl.zeros((TILE_N,), dtype=tl.float32)
    if HAS_BIAS:
        b_bias += tl.load(bias_ptr + rows, mask=m_rows & (i_split == 0), other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    first = i_split * SHARE
    last = tl.minimum(first + SHARE, WIDTH)
    ragged: tl.constexpr = NUM_ROWS % TILE_N != 0
    b_sum = dot_words_tile(
        x_ptr, words_ptr, groups_ptr, rows, m_rows, tokens, num_tokens, first, last,
        WIDTH, GROUP, TILE_N, TILE_M, TILE_K, ragged, ASM,
    )  # fmt: skip
    tl.static_assert(b_sum.shape == (TILE_N, TILE_M))
    # store: this split's part
    m_out = m_rows[:, None] & (tokens < num_tokens)[None, :]
    o_out = (i_split * num_tokens + tokens).to(tl.int64)[None, :] * NUM_ROWS + rows[:, None]
    tl.store(out_ptr + o_out, (b_sum + b_bias[:, None]).to(out_ptr.dtype.element_ty), mask=m_out)


class PackedTilePlan(NamedTuple):
    """How a product is cut into programs."""

    tile_n: int
    tile_m: int
    tile_k: int
    share: int  # k's of one split
    warps: int
    stages: int


def plan_packed_tiles(num_rows: int, width: int, num_tokens: int, group_size: int) -> PackedTilePlan:
    """Few tokens: small programs, several on each multiprocessor; more: one large program on each."""
    tile_m, tile_k = max(8, min(128, next_power(num_tokens))), 128
    tile_n, warps, stages, wanted = (64, 4, 4, 4 * _PROGRAMS) if tile_m <= 16 else (128, 8, 3, _PROGRAMS)
    programs = triton.cdiv(num_rows, tile_n) * triton.cdiv(num_tokens, tile_m)
    splits = max(1, min(8, round(wanted / programs), width // (2 * tile_k)))
    share = triton.cdiv(triton.cdiv(width, splits), tile_k) * tile_k
    return PackedTilePlan(tile_n, tile_m, fit_tile_k(tile_k, group_size), share, warps, stages)


def fit_tile_k(tile_k: int, group_size: int) -> int:
    """A tile lies in one group, or groups come out even in it."""
    return tile_k if tile_k % group_size == 0 or group_size % tile_k == 0 else 16


def w4a16_tiles(
    x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None, *, plan: PackedTilePlan | None = None
) -> Tensor:
    """Up to MOST_PACKED_TILE_TOKENS tokens of float16; float32 parts if there are several."""
    (num_tokens, width), num_rows = x.shape, matrix.shape[0]
    plan = plan or plan_packed_tiles(num_rows, width, num_tokens, matrix.group_size)
    splits = triton.cdiv(width, plan.share)
    part_dtype = dtype or x.dtype if splits == 1 else torch.float32
    out = torch.empty((splits, num_tokens, num_rows), dtype=part_dtype, device=x.device)
    grid = (triton.cdiv(num_rows, plan.tile_n), splits, triton.cdiv(num_tokens, plan.tile_m))
    _w4a16_tiles_kernel[grid](
        x, matrix.words, matrix.groups, matrix.bias, out, num_tokens,
        WIDTH=width, NUM_ROWS=num_rows, GROUP=matrix.group_size, SHARE=plan.share, HAS_BIAS=matrix.bias is not None,
        TILE_N=plan.tile_n, TILE_M=plan.tile_m, TILE_K=plan.tile_k, ASM=uses_asm(),
        num_warps=plan.warps, num_stages=plan.stages, **launch_options(x.device),
    )  # fmt: skip
    return out


@jit
def _unpack_kernel(
    words_ptr,
    groups_ptr,
    out_ptr,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows, TILE_K columns
    rows = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    start = tl.program_id(1) * TILE_K
    m_rows = rows < NUM_ROWS
    # load, compute
    let_next_start(PDL)
    b_weight, b_scale = load_weights(
        words_ptr, groups_ptr, rows, m_rows, start, WIDTH, GROUP, TILE_N, TILE_K, MASKED=True, ASM=ASM
    )
    if GROUP >= TILE_K:
        b_weight *= b_scale
    # store: the memory may be in use by what runs before
    wait_for_inputs(PDL)
    at = start + tl.arange(0, TILE_K)
    out = out_ptr + rows.to(tl.int64)[:, None] * WIDTH + at[None, :]
    tl.store(out, b_weight, mask=m_rows[:, None] & (at < WIDTH)[None, :])


def unpack_triton(matrix: PackedMatrix) -> Tensor:
    """The weight as float16 [out_features, in_features]."""
    num_rows, width = matrix.shape
    out = torch.empty((num_rows, width), dtype=torch.float16, device=matrix.words.device)
    tile_k = fit_tile_k(256, matrix.group_size)
    _unpack_kernel[(triton.cdiv(num_rows, 16), triton.cdiv(width, tile_k))](
        matrix.words, matrix.groups, out, WIDTH=width, NUM_ROWS=num_rows, GROUP=matrix.group_size,
        TILE_N=16, TILE_K=tile_k, ASM=uses_asm(), num_warps=4, **launch_options(out.device),
    )  # fmt: skip
    return out


def w4a16_unpacked(x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None) -> Tensor:
    """Any number of tokens of float16; one part."""
    return linear(x, unpack_triton(matrix), matrix.bias)[None].to(dtype or x.dtype)
