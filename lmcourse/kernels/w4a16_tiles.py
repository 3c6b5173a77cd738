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
    shared_kib,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.nibbles import half_of, unpack_tile, uses_asm
from lmcourse.kernels.operands import PackedMatrix
from lmcourse.kernels.packed import choose_unit

__all__ = [
    "MOST_PACKED_TILE_TOKENS",
    "PackedTilePlan",
    "dot_words_tile",
    "load_weights",
    "plan_packed_tiles",
    "tile_options",
    "unpack_triton",
    "w4a16_tiles",
    "w4a16_unpacked",
]

MOST_PACKED_TILE_TOKENS = 256
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
    UNIT: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    MASKED: tl.constexpr,
    SCALED: tl.constexpr,
    ASM: tl.constexpr,
):
    """weight[rows, start : start + TILE_K] as float16, and scales [TILE_N, …] with which, if not SCALED, it is still
    to be multiplied; then the tile lies in one group. Zero beyond the width, in which groups come out even. Offsets
    are 32 bits: there are no 2³¹ words.
    """
    word = start // 8 + tl.arange(0, TILE_K // 8)
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    m_word = word < WIDTH // 8
    words = words_ptr + (rows[:, None] * (WIDTH // 8) + word[None, :])
    b_words = load_tile(words, m_rows, m_word, MASKED, uneven)
    if GROUP % TILE_K == 0:
        groups = groups_ptr + (rows * (WIDTH // GROUP) + start // GROUP)
        b_groups = (tl.load(groups, mask=m_rows, other=0) if MASKED else tl.load(groups))[:, None]
    else:
        groups = groups_ptr + (rows[:, None] * (WIDTH // GROUP) + (word * 8 // UNIT * UNIT // GROUP)[None, :])
        b_groups = load_tile(groups, m_rows, m_word, MASKED, uneven)
    return unpack_tile(b_words, b_groups, TILE_N, TILE_K, UNIT, SCALED, ASM), half_of(b_groups)


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
    UNIT: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    MASKED: tl.constexpr,
    SCALED: tl.constexpr,
    ASM: tl.constexpr,
):
    """Σ_k weight[rows, k] · x[tokens, k] for first ≤ k < last, as float32 [TILE_N, TILE_M]."""
    k = tl.arange(0, TILE_K)
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    b_sum = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    for start in range(first, last, TILE_K):
        b_weight, b_scale = load_weights(
            words_ptr, groups_ptr, rows, m_rows, start, WIDTH, GROUP, UNIT, TILE_N, TILE_K, MASKED, SCALED, ASM
        )
        at = start + k
        x = x_ptr + (tokens[None, :] * WIDTH + at[:, None])
        b_x = load_tile(x, at < WIDTH, tokens < num_tokens, uneven, MASK_SECOND=True)
        if SCALED:
            b_sum = tl.dot(b_weight, b_x, b_sum)
        else:  # one scale a row costs less behind the product
            b_sum += tl.dot(b_weight, b_x) * b_scale.to(tl.float32)
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
    UNIT: tl.constexpr,
    SHARE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    SCALED: tl.constexpr,
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
        WIDTH, GROUP, UNIT, TILE_N, TILE_M, TILE_K, ragged, SCALED, ASM,
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
    scales_weights: bool = False  # before the product, not behind it


def plan_packed_tiles(num_rows: int, width: int, num_tokens: int, room_kib: int = 227) -> PackedTilePlan:
    """Enough programs to fill the machine; few tokens: twice, since parts cost little. room_kib is of a program."""
    tile_m, tile_k = max(16, min(128 if room_kib >= 163 else 64, next_power(num_tokens))), 128
    if tile_m <= 16:
        tile_n, warps, stages, wanted, least = 128, 8, 4, 2 * _PROGRAMS, 256
    elif num_tokens <= 128:
        stages = 2 if room_kib < 163 else 4 if tile_m <= 64 else 3
        tile_n, warps, wanted, least = 64, 4, 2 * _PROGRAMS, 512
    else:
        tile_n, warps, stages, wanted, least = 128, 8, 3, _PROGRAMS, 512
    programs = triton.cdiv(num_rows, tile_n) * triton.cdiv(num_tokens, tile_m)
    splits = max(1, min(8, wanted // programs, width // least))
    share = triton.cdiv(triton.cdiv(width, splits), tile_k) * tile_k
    return PackedTilePlan(tile_n, tile_m, tile_k, share, warps, stages, scales_weights=tile_m > 64)


def tile_options(plan: PackedTilePlan, group_size: int) -> dict[str, int | bool]:
    """What a launch of this plan says to the kernel and its compiler."""
    return {
        "GROUP": group_size,
        "UNIT": choose_unit(group_size),
        "TILE_N": plan.tile_n,
        "TILE_M": plan.tile_m,
        "TILE_K": plan.tile_k,
        "SCALED": plan.scales_weights or group_size % plan.tile_k != 0,
        "ASM": uses_asm(),
        "num_warps": plan.warps,
        "num_stages": plan.stages,
    }


def w4a16_tiles(
    x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None, *, plan: PackedTilePlan | None = None
) -> Tensor:
    """Up to MOST_PACKED_TILE_TOKENS tokens of float16; float32 parts if there are several."""
    (num_tokens, width), num_rows = x.shape, matrix.shape[0]
    plan = plan or plan_packed_tiles(num_rows, width, num_tokens, shared_kib(x.device))
    splits = triton.cdiv(width, plan.share)
    part_dtype = dtype or x.dtype if splits == 1 else torch.float32
    out = torch.empty((splits, num_tokens, num_rows), dtype=part_dtype, device=x.device)
    grid = (triton.cdiv(num_rows, plan.tile_n), splits, triton.cdiv(num_tokens, plan.tile_m))
    _w4a16_tiles_kernel[grid](
        x, matrix.words, matrix.groups, matrix.bias, out, num_tokens,
        WIDTH=width, NUM_ROWS=num_rows, SHARE=plan.share, HAS_BIAS=matrix.bias is not None,
        **tile_options(plan, matrix.group_size), **launch_options(x.device),
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
    UNIT: tl.constexpr,
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
    b_weight, _ = load_weights(
        words_ptr,
        groups_ptr,
        rows,
        m_rows,
        start,
        WIDTH,
        GROUP,
        UNIT,
        TILE_N,
        TILE_K,
        MASKED=True,
        SCALED=True,
        ASM=ASM,
    )
    # store: the memory may be in use by what runs before
    wait_for_inputs(PDL)
    at = start + tl.arange(0, TILE_K)
    out = out_ptr + rows.to(tl.int64)[:, None] * WIDTH + at[None, :]
    tl.store(out, b_weight, mask=m_rows[:, None] & (at < WIDTH)[None, :])


def unpack_triton(matrix: PackedMatrix) -> Tensor:
    """The weight as float16 [out_features, in_features]."""
    num_rows, width = matrix.shape
    out = torch.empty((num_rows, width), dtype=torch.float16, device=matrix.words.device)
    tile_k = 256
    _unpack_kernel[(triton.cdiv(num_rows, 16), triton.cdiv(width, tile_k))](
        matrix.words, matrix.groups, out, WIDTH=width, NUM_ROWS=num_rows, GROUP=matrix.group_size,
        UNIT=choose_unit(matrix.group_size), TILE_N=16, TILE_K=tile_k, ASM=uses_asm(),
        num_warps=4, **launch_options(out.device),
    )  # fmt: skip
    return out


def w4a16_unpacked(x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None) -> Tensor:
    """Any number of tokens of float16; one part."""
    return linear(x, unpack_triton(matrix), matrix.bias)[None].to(dtype or x.dtype)
