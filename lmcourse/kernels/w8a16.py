"""W8A16: out[t, n] = scale[n] · Σ_k x[t, k] · code[n, k] + bias[n], a whole number from -127 to 127 per weight.

For a head: of a model whose layers have 4 bits, a 16-bit head is the largest matrix that a step reads. One scale per
row (a word of the vocabulary) can be taken out of the sum, so a weight costs a load, a conversion and a multiplication.

Traffic, InternLM2-1.8B's head [92544, 2048]: 189.5 MB of codes, 0.4 MB of scales where float16 has 379 MB; x and out
0.4 MB per token. At 4.2 TB/s 45 µs instead of 90.

    rows, 1 token            each program: a few rows of codes, all of k, held in registers
    tiles, up to 64          each program: TILE_N rows, all tokens; codes as x's dtype, on the tensor cores
    unpacked, above          float weights, chunk by chunk of the rows, then torch's library

           k →                                  k →
    n  ┌───────────────────┐ × scale        n  ┌─────────┐ × scale
    ↓  │ ROWS rows         │  program 0     ↓  │ TILE_N  │  program 0: TILE_K columns at a time
       ├───────────────────┤                   ├─────────┤
       │                   │  program 1        │         │  program 1

Lesson: 4 (the head in 8 bits)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import (
    jit,
    jit_varying,
    launch_options,
    let_next_start,
    load_row,
    load_tile,
    next_power,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.operands import Int8Matrix

__all__ = ["MOST_INT8_TILE_TOKENS", "W8A16_PROJECT", "w8a16_reference", "w8a16_rows", "w8a16_tiles", "w8a16_unpacked"]

MOST_INT8_TILE_TOKENS = 64
_ROWS_AT_ONCE = 8192  # of codes that are floats at one time where torch multiplies


def w8a16_reference(x: Tensor, matrix: Int8Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """In float32, some rows at a time, in one part."""
    parts = [linear(x.float(), codes.float()) for codes in matrix.codes.split(_ROWS_AT_ONCE)]
    out = torch.cat(parts, dim=1) * matrix.scales
    return (out if matrix.bias is None else out + matrix.bias)[None].to(dtype or x.dtype)


@jit
def _w8a16_rows_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of codes
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_rows = rows < NUM_ROWS
    k = tl.arange(0, TILE_K)
    # load: no kernel writes weights, so they need not wait
    pointers = codes_ptr + rows.to(tl.int64)[:, None] * WIDTH + k[None, :]
    b_codes = load_tile(pointers, m_rows, k < WIDTH, NUM_ROWS % ROWS != 0, WIDTH != TILE_K)
    b_scales = tl.load(scales_ptr + rows, mask=m_rows, other=0.0)
    tl.static_assert(b_codes.shape == (ROWS, TILE_K))
    let_next_start(PDL)
    wait_for_inputs(PDL)
    b_x = load_row(x_ptr, k, WIDTH, TILE_K).to(tl.float32)
    # compute
    b_out = tl.sum(b_codes.to(tl.float32) * b_x[None, :], axis=1) * b_scales
    if HAS_BIAS:
        b_out += tl.load(bias_ptr + rows, mask=m_rows, other=0.0).to(tl.float32)
    # store
    tl.store(out_ptr + rows, b_out.to(out_ptr.dtype.element_ty), mask=m_rows)


@jit_varying("num_tokens")
def _w8a16_tiles_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows of codes, all tokens
    rows = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    m_rows = rows < NUM_ROWS
    tokens = tl.arange(0, TILE_M)
    k = tl.arange(0, TILE_K)
    code_rows = codes_ptr + rows.to(tl.int64)[:, None] * WIDTH
    let_next_start(PDL)
    b_scales = tl.load(scales_ptr + rows, mask=m_rows, other=0.0)
    wait_for_inputs(PDL)
    # load, compute: every code is exact in x's dtype
    b_sum = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    for start in range(0, WIDTH, TILE_K):
        at = start + k
        b_codes = load_tile(code_rows + at[None, :], m_rows, at < WIDTH, NUM_ROWS % TILE_N != 0, WIDTH % TILE_K != 0)
        x_pointers = x_ptr + tokens[None, :] * WIDTH + at[:, None]
        b_x = load_tile(x_pointers, at < WIDTH, tokens < num_tokens, WIDTH % TILE_K != 0, MASK_SECOND=True)
        b_sum = tl.dot(b_codes.to(b_x.dtype), b_x, b_sum, input_precision="ieee")
    tl.static_assert(b_sum.shape == (TILE_N, TILE_M))
    b_out = b_sum * b_scales[:, None]
    if HAS_BIAS:
        b_out += tl.load(bias_ptr + rows, mask=m_rows, other=0.0).to(tl.float32)[:, None]
    # store
    m_out = m_rows[:, None] & (tokens < num_tokens)[None, :]
    o_out = tokens.to(tl.int64)[None, :] * NUM_ROWS + rows[:, None]
    tl.store(out_ptr + o_out, b_out.to(out_ptr.dtype.element_ty), mask=m_out)


def w8a16_rows(x: Tensor, matrix: Int8Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """One token; one part."""
    num_rows, width = matrix.shape
    tile, warps = next_power(width), 4 if width <= 4096 else 8
    rows = max(1, min(16, 128 * 32 * warps // tile))
    out = torch.empty((1, 1, num_rows), dtype=dtype or x.dtype, device=x.device)
    _w8a16_rows_kernel[(triton.cdiv(num_rows, rows),)](
        x.contiguous(), matrix.codes, matrix.scales, matrix.bias, out,
        WIDTH=width, NUM_ROWS=num_rows, HAS_BIAS=matrix.bias is not None,
        TILE_K=tile, ROWS=rows, num_warps=warps, **launch_options(x.device),
    )  # fmt: skip
    return out


def w8a16_tiles(x: Tensor, matrix: Int8Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """Up to MOST_INT8_TILE_TOKENS tokens; one part."""
    (num_tokens, width), num_rows = x.shape, matrix.shape[0]
    tile_m = max(16, next_power(num_tokens))
    tile_n, tile_k = 64, 256 if tile_m == 16 else 128
    out = torch.empty((1, num_tokens, num_rows), dtype=dtype or x.dtype, device=x.device)
    _w8a16_tiles_kernel[(triton.cdiv(num_rows, tile_n),)](
        x.contiguous(), matrix.codes, matrix.scales, matrix.bias, out, num_tokens,
        WIDTH=width, NUM_ROWS=num_rows, HAS_BIAS=matrix.bias is not None,
        TILE_N=tile_n, TILE_M=tile_m, TILE_K=tile_k, num_warps=4, num_stages=3, **launch_options(x.device),
    )  # fmt: skip
    return out


def w8a16_unpacked(x: Tensor, matrix: Int8Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """torch's product with some rows of weights in x's dtype at a time; one part."""
    out = torch.empty((1, len(x), matrix.shape[0]), dtype=dtype or x.dtype, device=x.device)
    for first in range(0, matrix.shape[0], _ROWS_AT_ONCE):
        chosen = slice(first, first + _ROWS_AT_ONCE)
        weight = (matrix.codes[chosen] * matrix.scales[chosen, None]).to(x.dtype)
        out[0, :, chosen] = linear(x, weight, None if matrix.bias is None else matrix.bias[chosen])
    return out


W8A16_PROJECT: Operation[..., Tensor] = Operation(
    reference=w8a16_reference,
    triton=(
        UpTo(1, w8a16_rows),
        UpTo(MOST_INT8_TILE_TOKENS, w8a16_tiles, dtypes=(torch.float16, torch.bfloat16)),
        UpTo(float("inf"), w8a16_unpacked),
    ),
)
