"""W4A16: out[t, n] = Σ_k x[t, k] · (q[n, k] − zero[n, g]) · scale[n, g] + bias[n], weights read as their 4 bits.

Traffic, InternLM2-1.8B's down matrix [2048, 8192]: 8.9 MB of words and groups where float16 has 33.6 MB; at 4.2 TB/s
2.1 µs instead of 8. The price is arithmetic: a weight must cost at most about 4 instructions (an H200 issues that many
while it reads 0.53 bytes), and an unpacking that looks harmless costs 14. nibbles.py does it in about 2.

    rows, 1 token            each program: a few rows, all of k in one shot, on the CUDA cores       this file
    long rows                the same where a power of two would leave lanes idle: 4096 of k at a time
    tiles, up to 256         weights unpacked into the tensor cores' left operand                    w4a16_tiles.py
    unpacked, above          all weights unpacked once, then torch's library                         w4a16_tiles.py

    words of one row   ┌ group 0: 16 words ┬ group 1 ┬ … ┐     a thread holds 4 words, 32 weights, of one group,
    (groups of 128)    │ 4 threads         │         │   │     and the 16 pairs of x that belong to them
                       └───────────────────┴─────────┴───┘

Numerics: x/16 · (q − zero) in float16, four products at a time, so that nothing below x = 17,000 overflows; then
float32: times the scale, and all sums.

Lesson: 4 (the kernel, line by line)
"""

from __future__ import annotations

from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, triton, wait_for_inputs
from lmcourse.kernels.nibbles import dot_words, half_of, load_pairs, split_group, uses_asm
from lmcourse.kernels.operands import AnyMatrix, PackedMatrix
from lmcourse.kernels.packed import choose_unit, unpack_matrix
from lmcourse.kernels.w4a16_tiles import MOST_PACKED_TILE_TOKENS, w4a16_tiles, w4a16_unpacked

__all__ = [
    "MOST_PACKED_ROW_TOKENS",
    "W4A16_PROJECT",
    "RowPlan",
    "dot_rows_of_words",
    "last_row",
    "load_rows_of_words",
    "norms_apart",
    "plan_rows_of_words",
    "w4a16_pieces",
    "w4a16_reference",
    "w4a16_rows",
]

# Rows of words serve single tokens; from two on, tiles read each weight once for all tokens.
MOST_PACKED_ROW_TOKENS = 1
_WIDEST_NORMED = 2048
_PIECE = 1 << 18  # weights, 1 MiB of float32
_STEP, _MOST_STEPS = 4096, 4  # features of a long row at a time, and how often


def w4a16_reference(x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None) -> Tensor:
    """Unpack, then torch's own product, in one part."""
    return linear(x, unpack_matrix(matrix, x.dtype), matrix.bias)[None].to(dtype or x.dtype)


def w4a16_pieces(x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None) -> Tensor:
    """The same on a processor, some rows of the weight at a time: plain numbers never leave its caches."""
    rows = max(1, _PIECE // matrix.shape[1])
    biases = repeat(None) if matrix.bias is None else matrix.bias.split(rows)
    pieces = zip(matrix.words.split(rows), matrix.groups.split(rows), biases, strict=False)
    products = [w4a16_reference(x, PackedMatrix(*piece), dtype) for piece in pieces]
    return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


@jit
def load_rows_of_words(words_ptr, groups_ptr, rows, m_rows, NUM_GROUPS: tl.constexpr, GROUP_WORDS: tl.constexpr,
                       TILE_G: tl.constexpr, MASKED: tl.constexpr, FIRST: tl.constexpr = 0):  # fmt: skip
    """Words [ROWS, TILE_G, GROUP_WORDS] and group words [ROWS, TILE_G, 1] of rows, from group FIRST on.

    Zero beyond the last group.
    """
    group = FIRST + tl.arange(0, TILE_G)
    at = group[:, None] * GROUP_WORDS + tl.arange(0, GROUP_WORDS)[None, :]
    row = rows.to(tl.int64)[:, None, None]
    words = words_ptr + row * (NUM_GROUPS * GROUP_WORDS) + at[None, :, :]
    groups = groups_ptr + row * NUM_GROUPS + group[None, :, None]
    if MASKED or NUM_GROUPS % TILE_G != 0:
        mask = m_rows[:, None, None] & (group < NUM_GROUPS)[None, :, None]
        b_words, b_groups = tl.load(words, mask=mask, other=0), tl.load(groups, mask=mask, other=0)
    else:
        b_words, b_groups = tl.load(words), tl.load(groups)
    return b_words, b_groups


@jit
def last_row(ROWS: tl.constexpr, CHUNKS: tl.constexpr, NUM_ROWS: tl.constexpr):
    """The end of this program's rows: beyond it nothing is fetched ahead."""
    return tl.minimum((tl.program_id(0) + 1) * (ROWS * CHUNKS), NUM_ROWS)


@jit
def dot_rows_of_words(b_words, b_groups, x0, x1, x2, x3, ASM: tl.constexpr):
    """float32 [ROWS]; x0 … x3 are pairs of x / 16, int32 [TILE_G, GROUP_WORDS]."""
    b_zero, b_edge = split_group(b_groups, ASM)
    x0, x1, x2, x3 = x0[None, :, :], x1[None, :, :], x2[None, :, :], x3[None, :, :]
    b_sum = dot_words(b_words, x0, x1, x2, x3, b_zero, b_edge, ASM)
    b_sum = b_sum * half_of(b_groups).to(tl.float32)
    return tl.sum(tl.sum(b_sum, axis=2), axis=1) * 16.0  # axis by axis: Triton 3.6 sums a reshaped tile wrongly


@jit
def _weigh_words(b_words, b_groups, x0, x1, x2, x3, ASM: tl.constexpr):
    """As dot_rows_of_words, one number a word: not yet summed, nor times 16."""
    b_zero, b_edge = split_group(b_groups, ASM)
    x0, x1, x2, x3 = x0[None, :, :], x1[None, :, :], x2[None, :, :], x3[None, :, :]
    return dot_words(b_words, x0, x1, x2, x3, b_zero, b_edge, ASM) * half_of(b_groups).to(tl.float32)


@jit
def _w4a16_rows_kernel(
    x_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    out_ptr,
    NUM_ROWS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_G: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: CHUNKS times ROWS rows of the weight
    rows = tl.program_id(0) * (ROWS * CHUNKS) + tl.arange(0, ROWS)
    # load: no kernel writes weights, so they need not wait
    ragged: tl.constexpr = CHUNKS > 1 or NUM_ROWS % ROWS != 0
    b_words, b_groups = load_rows_of_words(
        words_ptr, groups_ptr, rows, rows < NUM_ROWS, NUM_GROUPS, GROUP_WORDS, TILE_G, ragged
    )
    tl.static_assert(b_words.shape == (ROWS, TILE_G, GROUP_WORDS))
    let_next_start(PDL)
    wait_for_inputs(PDL)
    x0, x1, x2, x3 = load_pairs(x_ptr, NUM_GROUPS * GROUP_WORDS, TILE_G, GROUP_WORDS, UNIT, ASM)
    for _ in range(CHUNKS):
        # load: the next rows, while these are multiplied
        n_words, n_groups = load_rows_of_words(
            words_ptr, groups_ptr, rows + ROWS, rows + ROWS < last_row(ROWS, CHUNKS, NUM_ROWS), NUM_GROUPS,
            GROUP_WORDS, TILE_G, MASKED=True,
        )  # fmt: skip
        # compute
        m_rows = rows < NUM_ROWS
        b_out = dot_rows_of_words(b_words, b_groups, x0, x1, x2, x3, ASM)
        if HAS_BIAS:
            b_out += tl.load(bias_ptr + rows, mask=m_rows, other=0.0).to(tl.float32)
        # store
        tl.store(out_ptr + rows, b_out.to(out_ptr.dtype.element_ty), mask=m_rows)
        b_words, b_groups = n_words, n_groups
        rows += ROWS


@jit
def _w4a16_long_rows_kernel(
    x_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    out_ptr,
    NUM_ROWS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_G: tl.constexpr,
    ROWS: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of the weight, TILE_G groups of them at a time
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_rows = rows < NUM_ROWS
    steps: tl.constexpr = (NUM_GROUPS + TILE_G - 1) // TILE_G
    # load: all words at once, as if there were no steps
    b_words, b_groups = (), ()
    for step in tl.static_range(steps):
        words, groups = load_rows_of_words(
            words_ptr, groups_ptr, rows, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, NUM_ROWS % ROWS != 0, step * TILE_G
        )
        b_words, b_groups = b_words + (words,), b_groups + (groups,)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    b_sum = tl.zeros((ROWS, TILE_G, GROUP_WORDS), dtype=tl.float32)
    for step in tl.static_range(steps):
        # compute
        x0, x1, x2, x3 = load_pairs(
            x_ptr + step * (TILE_G * GROUP_WORDS * 4), (NUM_GROUPS - step * TILE_G) * GROUP_WORDS, TILE_G, GROUP_WORDS,
            UNIT, ASM,
        )  # fmt: skip
        b_sum += _weigh_words(b_words[step], b_groups[step], x0, x1, x2, x3, ASM)
    b_out = tl.sum(tl.sum(b_sum, axis=2), axis=1) * 16.0
    if HAS_BIAS:
        b_out += tl.load(bias_ptr + rows, mask=m_rows, other=0.0).to(tl.float32)
    # store
    tl.store(out_ptr + rows, b_out.to(out_ptr.dtype.element_ty), mask=m_rows)


class RowPlan(NamedTuple):
    """How the rows of a product of one token are given to programs."""

    rows: int  # at a time
    warps: int
    chunks: int = 1  # how many times


def plan_rows_of_words(num_rows: int, width: int) -> RowPlan:
    """x is read and split once for all chunks of a program; one chunk is what its registers hold."""
    if width <= _WIDEST_NORMED:
        return RowPlan(4, 2, 1)
    if width <= 4096:
        return RowPlan(8, 8, 1) if num_rows <= 4096 else RowPlan(2, 4, 4)
    if width != next_power(width) and width <= _MOST_STEPS * _STEP:
        return RowPlan(4, 8)
    return RowPlan(2, 8, 4) if num_rows <= 2048 else RowPlan(4, 8, 4)


def norms_apart(matrix: AnyMatrix) -> bool:
    """Whether one token is better normed by a launch of its own: in each program of a wide product it costs more.

    Llama-2-7B, one request, H200: 550 tokens/s with both norms in the products, 585 without (w4a16_h200.json).
    """
    return isinstance(matrix, PackedMatrix) and matrix.shape[1] > _WIDEST_NORMED


def w4a16_rows(
    x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None, *, plan: RowPlan | None = None
) -> Tensor:
    """One token of float16; one part."""
    (num_rows, width), groups = matrix.shape, matrix.groups.shape[1]
    plan = plan or plan_rows_of_words(num_rows, width)
    out = torch.empty((1, 1, num_rows), dtype=dtype or x.dtype, device=x.device)
    step = max(1, _STEP // matrix.group_size)
    steps = triton.cdiv(groups, step)
    if groups == next_power(groups) or steps > _MOST_STEPS:
        kernel, tiles = _w4a16_rows_kernel, {"TILE_G": next_power(groups), "CHUNKS": plan.chunks}
    else:
        kernel, tiles, plan = (
            _w4a16_long_rows_kernel,
            {"TILE_G": min(step, next_power(groups))},
            plan._replace(chunks=1),
        )
    kernel[(triton.cdiv(num_rows, plan.rows * plan.chunks),)](
        x.contiguous().view(torch.int32), matrix.words, matrix.groups, matrix.bias, out,
        NUM_ROWS=num_rows, NUM_GROUPS=groups, GROUP_WORDS=matrix.group_size // 8,
        UNIT=choose_unit(matrix.group_size), HAS_BIAS=matrix.bias is not None, **tiles,
        ROWS=plan.rows, ASM=uses_asm(), num_warps=plan.warps, **launch_options(x.device),
    )  # fmt: skip
    return out


W4A16_PROJECT: Operation[..., Tensor] = Operation(
    reference=w4a16_reference,
    by_device={"cpu": w4a16_pieces},
    triton=(
        UpTo(MOST_PACKED_ROW_TOKENS, w4a16_rows, dtypes=(torch.float16,)),
        UpTo(MOST_PACKED_TILE_TOKENS, w4a16_tiles, dtypes=(torch.float16,)),
        UpTo(float("inf"), w4a16_unpacked, dtypes=(torch.float16,)),
    ),
)
