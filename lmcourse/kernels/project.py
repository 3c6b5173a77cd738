"""Projection: out[t, n] = Σ_k x[t, k] · weight[n, k] + bias[n], left as parts to be summed by the norm that follows.

The number of tokens decides what a projection is. For few of them it is the reading of the weight, whatever is done
with it on the way; for many it is arithmetic, and torch's library is best at that.

Traffic, InternLM2-1.8B's down matrix [2048, 8192], 2 bytes: 33.6 MB of weight; 20 KiB of x and out per token. At
4.2 TB/s 8 µs. FLOPs 33.5 M per token: above about 190 tokens the arithmetic of an H200 takes longer than the reading.

    rows, 1 token            each program: a few rows of the weight, all of k, held in registers; no loop over k
    tiles, up to 64          each program: TILE_N rows, a share of k, on the tensor cores; weights are the left operand,
                             because it is they that fill the 64 rows of an instruction
    linear, above            torch; up to 256, a long matrix as a batch of products, one of each share of k

           k →                               k →   split 0 │ split 1
    n  ┌───────────────────┐  program 0      n  ┌─────────┬─────────┐
    ↓  │ ROWS rows         │                 ↓  │ TILE_N  │         │   program (0, 0) and (0, 1)
       ├───────────────────┤  program 1         ├─────────┼─────────┤
       │                   │                    │         │         │   each leaves its own part, in float32
       └───────────────────┘                    └─────────┴─────────┘

Measured (benchmarks/kernels_gpu, H100): down of one token 12.4 µs, 2.70 TB/s; head 121.5 µs, 3.12 TB/s.

Lesson: 3 (what limits a decode)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmcourse.kernels.arranged import project_arranged
from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.lang import (
    jit,
    jit_varying,
    launch_options,
    let_next_start,
    load_row,
    load_tile,
    next_power,
    shared_kib,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.operands import AnyMatrix, Int8Matrix, Matrix, PackedMatrix
from lmcourse.kernels.w4a16 import W4A16_PROJECT
from lmcourse.kernels.w8a16 import W8A16_PROJECT

__all__ = [
    "MOST_ROW_TOKENS",
    "MOST_SHARED_TOKENS",
    "MOST_TILE_TOKENS",
    "MULTIPROCESSORS",
    "TilePlan",
    "dot_rows",
    "load_weight_rows",
    "plan_rows",
    "plan_shares",
    "plan_tiles",
    "project",
    "project_reference",
    "project_rows",
    "project_shares",
    "project_tiles",
]

MOST_ROW_TOKENS, MOST_TILE_TOKENS, MOST_SHARED_TOKENS = 1, 64, 256
_MANY_ROWS = 32768  # so many that programs may be large, as those of a head are
_PROGRAMS = 128  # about one per multiprocessor; more splits only add parts to sum
MULTIPROCESSORS = 132  # of an H200
_LEAST_SHARE = 2048  # of k; for less the library is faster in one piece


def project_reference(x: Tensor, matrix: Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """torch's own product, in one part."""
    if dtype is torch.float32 and x.is_cuda and x.element_size() == 2 and matrix.bias is None:
        # a head's sums as they are: rounding them would cost another pass over [num_tokens, vocab]
        return torch.mm(x, matrix.weight.t(), out_dtype=torch.float32)[None]
    return linear(x, matrix.weight, matrix.bias)[None].to(dtype or x.dtype)


@jit
def load_weight_rows(weight_ptr, rows, m_rows, WIDTH: tl.constexpr, TILE_K: tl.constexpr, MASKED: tl.constexpr):
    """weight[rows, :] as a tile [rows, TILE_K], 0 beyond the width; MASKED: and 0 where m_rows is not."""
    k = tl.arange(0, TILE_K)
    pointers = weight_ptr + rows.to(tl.int64)[:, None] * WIDTH + k[None, :]
    return load_tile(pointers, m_rows, k < WIDTH, MASKED, WIDTH != TILE_K)


@jit
def _project_rows_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of the weight
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_rows = rows < NUM_ROWS
    k = tl.arange(0, TILE_K)
    # load: no kernel writes weights, so they need not wait
    b_weight = load_weight_rows(weight_ptr, rows, m_rows, WIDTH, TILE_K, NUM_ROWS % ROWS != 0)
    tl.static_assert(b_weight.shape == (ROWS, TILE_K))
    b_bias = tl.load(bias_ptr + rows, mask=m_rows, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    let_next_start(PDL)
    wait_for_inputs(PDL)
    for token in range(num_tokens):
        b_x = load_row(x_ptr + token * WIDTH, k, WIDTH, TILE_K).to(tl.float32)
        # compute
        b_out = tl.sum(b_weight.to(tl.float32) * b_x[None, :], axis=1) + b_bias
        # store
        tl.store(out_ptr + token * NUM_ROWS + rows, b_out.to(out_ptr.dtype.element_ty), mask=m_rows)


@jit
def dot_rows(
    x_ptr,
    weight_ptr,
    rows,
    m_rows,
    num_tokens,
    first,
    last,
    WIDTH: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Σ_k weight[rows, k] · x[:, k] for first ≤ k < last, as float32 [TILE_N, TILE_M]."""
    tokens = tl.arange(0, TILE_M)
    k = tl.arange(0, TILE_K)
    b_sum = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    weight_rows = weight_ptr + rows.to(tl.int64)[:, None] * WIDTH
    for start in range(first, last, TILE_K):
        at = start + k
        b_weight = load_tile(weight_rows + at[None, :], m_rows, at < last, MASKED, WIDTH % TILE_K != 0)
        x_pointers = x_ptr + tokens[None, :] * WIDTH + at[:, None]
        b_x = load_tile(x_pointers, at < last, tokens < num_tokens, WIDTH % TILE_K != 0, MASK_SECOND=True)
        b_sum = tl.dot(b_weight, b_x, b_sum, input_precision="ieee")
    return b_sum


@jit_varying("num_tokens")
def _project_tiles_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    SHARE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows of the weight, one share of k, all tokens
    rows = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    i_split = tl.program_id(1)
    tokens = tl.arange(0, TILE_M)
    let_next_start(PDL)
    # load, compute
    b_bias = tl.zeros((TILE_N,), dtype=tl.float32)
    if HAS_BIAS:
        b_bias += tl.load(bias_ptr + rows, mask=(rows < NUM_ROWS) & (i_split == 0), other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    first = i_split * SHARE
    last = tl.minimum(first + SHARE, WIDTH)
    m_rows = rows < NUM_ROWS
    ragged: tl.constexpr = NUM_ROWS % TILE_N != 0
    b_sum = dot_rows(x_ptr, weight_ptr, rows, m_rows, num_tokens, first, last, WIDTH, TILE_N, TILE_M, TILE_K, ragged)
    tl.static_assert(b_sum.shape == (TILE_N, TILE_M))
    # store: this split's part
    m_out = m_rows[:, None] & (tokens < num_tokens)[None, :]
    o_out = (i_split * num_tokens + tokens).to(tl.int64)[None, :] * NUM_ROWS + rows[:, None]
    tl.store(out_ptr + o_out, (b_sum + b_bias[:, None]).to(out_ptr.dtype.element_ty), mask=m_out)


def plan_rows(width: int, itemsize: int, *, most_elements: int = 128) -> tuple[int, int]:
    """(rows of a program, its warps): 64 registers of weights a thread at 2 bytes, and a reduction within few warps."""
    tile = next_power(width)
    warps = 4 if tile <= 4096 else 8 if tile <= 8192 else 16
    return max(1, min(16, most_elements * 32 * warps * 2 // (tile * itemsize))), warps


def project_rows(x: Tensor, matrix: Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """Up to MOST_ROW_TOKENS tokens; one part."""
    (num_tokens, width), num_rows = x.shape, matrix.weight.shape[0]
    rows, warps = plan_rows(width, x.element_size())
    out = torch.empty((1, num_tokens, num_rows), dtype=dtype or x.dtype, device=x.device)
    _project_rows_kernel[(triton.cdiv(num_rows, rows),)](
        x, matrix.weight, matrix.bias, out, num_tokens,
        WIDTH=width, NUM_ROWS=num_rows, HAS_BIAS=matrix.bias is not None,
        TILE_K=next_power(width), ROWS=rows, num_warps=warps, **launch_options(x.device),
    )  # fmt: skip
    return out


class TilePlan(NamedTuple):
    """How a product is cut into programs."""

    tile_n: int
    tile_m: int
    tile_k: int
    share: int  # k's of one split
    warps: int
    stages: int


def plan_tiles(num_rows: int, width: int, num_tokens: int, room_kib: int = 227) -> TilePlan:
    """Enough programs to fill the machine, at most 8 parts to sum; room_kib is the shared memory of a program."""
    tile_m, tile_n, tile_k = max(8, next_power(num_tokens)), 64, 128
    if num_rows >= _MANY_ROWS and room_kib >= 163:
        return TilePlan(64, tile_m, 256, width, 4, 3) if tile_m <= 16 else TilePlan(128, tile_m, 64, width, 4, 4)
    splits = max(1, min(8, _PROGRAMS // triton.cdiv(num_rows, tile_n), width // (4 * tile_k)))
    share = triton.cdiv(triton.cdiv(width, splits), tile_k) * tile_k
    alone = triton.cdiv(num_rows, tile_n) <= MULTIPROCESSORS  # otherwise two programs share one's shared memory
    return TilePlan(tile_n, tile_m, tile_k, share, warps=4, stages=4 if alone and tile_m > 16 else 3)


def project_tiles(x: Tensor, matrix: Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """Up to MOST_TILE_TOKENS tokens; float32 parts if there are several."""
    (num_tokens, width), num_rows = x.shape, matrix.weight.shape[0]
    plan = plan_tiles(num_rows, width, num_tokens, shared_kib(x.device))
    splits = triton.cdiv(width, plan.share)
    part_dtype = dtype or x.dtype if splits == 1 else torch.float32
    out = torch.empty((splits, num_tokens, num_rows), dtype=part_dtype, device=x.device)
    _project_tiles_kernel[(triton.cdiv(num_rows, plan.tile_n), splits)](
        x, matrix.weight, matrix.bias, out, num_tokens,
        WIDTH=width, NUM_ROWS=num_rows, SHARE=plan.share, HAS_BIAS=matrix.bias is not None,
        TILE_N=plan.tile_n, TILE_M=plan.tile_m, TILE_K=plan.tile_k,
        num_warps=plan.warps, num_stages=plan.stages, **launch_options(x.device),
    )  # fmt: skip
    return out


def plan_shares(num_rows: int, width: int, num_tokens: int) -> int:
    """Shares of k that give every multiprocessor a tile of 128 x 128, if they are long; 1 for a wide matrix.

    InternLM2-1.8B's down matrix, 208 tokens, with the norm that sums: 24.6 us whole, 18.7 in four (H200).
    """
    tiles = triton.cdiv(num_rows, 128) * triton.cdiv(num_tokens, 128)
    shares = min(4, MULTIPROCESSORS // tiles, width // _LEAST_SHARE) if width >= num_rows else 1
    return shares if shares > 1 and width % (8 * shares) == 0 else 1


def project_shares(x: Tensor, matrix: Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """Up to MOST_SHARED_TOKENS tokens by torch's library; float32 parts if there are several."""
    (num_tokens, width), num_rows = x.shape, matrix.weight.shape[0]
    shares = plan_shares(num_rows, width, num_tokens)
    if shares == 1 or matrix.bias is not None:
        return project_reference(x, matrix, dtype)
    left = x.view(num_tokens, shares, -1).transpose(0, 1)
    right = matrix.weight.view(num_rows, shares, -1).permute(1, 2, 0)
    return torch.bmm(left, right, out_dtype=torch.float32) if x.is_cuda else torch.bmm(left.float(), right.float())


_PROJECT: dict[type, Operation[..., Tensor]] = {
    Matrix: Operation(
        reference=project_reference,
        by_device={"cpu": project_arranged},
        triton=(
            UpTo(MOST_ROW_TOKENS, project_rows),
            UpTo(MOST_TILE_TOKENS, project_tiles, dtypes=(torch.float16, torch.bfloat16)),
            UpTo(MOST_SHARED_TOKENS, project_shares, dtypes=(torch.float16, torch.bfloat16)),
        ),
    ),
    PackedMatrix: W4A16_PROJECT,
    Int8Matrix: W8A16_PROJECT,
}


def project(x: Tensor, matrix: AnyMatrix, dtype: torch.dtype | None = None) -> Tensor:
    """x [num_tokens, in_features] → parts [num_parts, num_tokens, out_features]; their sum is the product.

    A single part is in the given dtype, x's if none is given; several are float32.
    """
    check_shape("x of project", x, (x.shape[0], matrix.shape[1]))
    operation = _PROJECT[type(matrix)]
    if x.shape[0] == 0:
        return x.new_empty((1, 0, matrix.shape[0]), dtype=dtype)
    return operation.form_for(x.device, dtype=x.dtype, num_tokens=x.shape[0])(x, matrix, dtype)
