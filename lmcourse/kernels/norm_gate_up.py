"""Norm, gate and up, SwiGLU: the fourth launch of a layer's decode step, from the residual stream to the MLP's middle.

    (residual + parts) → RMS norm → · weightᵀ + bias → [ gate | up ] → silu(gate) · up

Rows i and intermediate + i of the weight meet in one number, so one program owns both and stores half as many.

Traffic, one token of InternLM2-1.8B: 67.1 MB of weight, 16.0 µs at 4.2 TB/s: two fifths of all that a layer reads.

    rows of the weight      program p
    gate  ┌ 0 … I-1   ┐     ROWS rows here  ──┐
    up    └ I … 2I-1  ┘     the same rows here ┴──►  out [ROWS], or [ROWS, tokens] on the tensor cores

    rows, 1 token            sums and normalises the tokens for itself, as in norm_qkv.py
    tiles, up to 64          normed by add_norm; two products share each tile of x
    composition, above

Measured (benchmarks/kernels_gpu, H100): one token 23.8 µs, 2.83 TB/s; 64 tokens 29.2 µs, add_norm included.

Lesson: 3 (what limits a decode)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from lmcourse.kernels.add_norm import add_norm, normalise_row, sum_row
from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.gelu import bend, geglu_tanh
from lmcourse.kernels.lang import (
    jit,
    jit_varying,
    launch_options,
    let_next_start,
    load_row,
    load_tile,
    next_power,
    shared_kib,
    store_row,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.operands import AnyMatrix, AnyNorm, CentredNorm, Matrix, Norm, PackedMatrix, Stream, sum_parts
from lmcourse.kernels.project import (
    MOST_ROW_TOKENS,
    MOST_TILE_TOKENS,
    MULTIPROCESSORS,
    TilePlan,
    load_weight_rows,
    plan_rows,
    project,
)
from lmcourse.kernels.swiglu import gate, swiglu
from lmcourse.kernels.w4a16 import MOST_PACKED_ROW_TOKENS, norms_apart
from lmcourse.kernels.w4a16_norm_gate_up import w4a16_norm_gate_up_rows, w4a16_norm_gate_up_tiles
from lmcourse.kernels.w4a16_tiles import MOST_PACKED_TILE_TOKENS

__all__ = [
    "Activation",
    "norm_gate_up",
    "norm_gate_up_reference",
    "norm_gate_up_rows",
    "norm_gate_up_tiles",
    "plan_gate_up",
    "plan_gate_up_rows",
]

Activation: TypeAlias = Callable[[Tensor], Tensor]  # [num_tokens, 2 · intermediate] → [num_tokens, intermediate]


def norm_gate_up_reference(
    stream: Stream, norm: AnyNorm, gate_up: AnyMatrix, activate: Activation = swiglu
) -> tuple[Tensor, Tensor]:
    """The composition; each piece in the form that suits the device and the number of tokens."""
    normed, residual = add_norm(stream, norm)
    return activate(sum_parts(project(normed, gate_up), normed.dtype)), residual


@jit
def _norm_gate_up_rows_kernel(
    residual_ptr,
    parts_ptr,
    norm_ptr,
    weight_ptr,
    bias_ptr,
    sum_ptr,
    out_ptr,
    num_tokens,
    eps,
    NUM_PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GEGLU_TANH: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of gate and the same of up
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_rows = rows < INTERMEDIATE
    k = tl.arange(0, TILE_K)
    # load: weights do not wait
    ragged: tl.constexpr = INTERMEDIATE % ROWS != 0
    b_gate = load_weight_rows(weight_ptr, rows, m_rows, WIDTH, TILE_K, ragged)
    b_up = load_weight_rows(weight_ptr, rows + INTERMEDIATE, m_rows, WIDTH, TILE_K, ragged)
    tl.static_assert(b_gate.shape == (ROWS, TILE_K))
    b_norm = load_row(norm_ptr, k, WIDTH, TILE_K).to(tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    for token in range(num_tokens):
        b_sum = sum_row(residual_ptr, parts_ptr, token, k, num_tokens, NUM_PARTS, WIDTH, TILE_K)
        # compute
        b_x = normalise_row(b_sum, b_norm, eps, WIDTH).to(out_ptr.dtype.element_ty).to(tl.float32)
        b_open = tl.sum(b_gate.to(tl.float32) * b_x[None, :], axis=1)
        b_value = tl.sum(b_up.to(tl.float32) * b_x[None, :], axis=1)
        if HAS_BIAS:
            b_open += tl.load(bias_ptr + rows, mask=m_rows).to(tl.float32)
            b_value += tl.load(bias_ptr + INTERMEDIATE + rows, mask=m_rows).to(tl.float32)
        # store
        if GEGLU_TANH:
            b_out = (bend(b_open.to(dtype).to(tl.float32), TANH=True) * b_value.to(dtype).to(tl.float32)).to(dtype)
        else:
            b_out = gate(b_open, b_value, dtype)
        tl.store(out_ptr + token * INTERMEDIATE + rows, b_out, mask=m_rows)
        if tl.program_id(0) == 0:
            store_row(sum_ptr + token * WIDTH, k, b_sum, WIDTH, TILE_K)


@jit_varying("num_tokens")
def _gate_up_tiles_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    WIDTH: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows of gate and the same of up, all tokens
    rows = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    m_rows = rows < INTERMEDIATE
    tokens = tl.arange(0, TILE_M)
    k = tl.arange(0, TILE_K)
    ragged: tl.constexpr = INTERMEDIATE % TILE_N != 0
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    gate_rows = weight_ptr + rows.to(tl.int64)[:, None] * WIDTH
    b_open = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    b_value = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    for start in range(0, WIDTH, TILE_K):
        # load
        at = start + k
        b_gate = load_tile(gate_rows + at[None, :], m_rows, at < WIDTH, ragged, uneven)
        b_up = load_tile(gate_rows + (INTERMEDIATE * WIDTH + at)[None, :], m_rows, at < WIDTH, ragged, uneven)
        b_x = load_tile(
            x_ptr + tokens[None, :] * WIDTH + at[:, None], at < WIDTH, tokens < num_tokens, uneven, MASK_SECOND=True
        )
        tl.static_assert(b_x.shape == (TILE_K, TILE_M))
        # compute
        b_open = tl.dot(b_gate, b_x, b_open, input_precision="ieee")
        b_value = tl.dot(b_up, b_x, b_value, input_precision="ieee")
    if HAS_BIAS:
        b_open += tl.load(bias_ptr + rows, mask=m_rows).to(tl.float32)[:, None]
        b_value += tl.load(bias_ptr + INTERMEDIATE + rows, mask=m_rows).to(tl.float32)[:, None]
    # store
    m_out = m_rows[:, None] & (tokens < num_tokens)[None, :]
    b_out = gate(b_open, b_value, out_ptr.dtype.element_ty)
    tl.store(out_ptr + tokens[None, :] * INTERMEDIATE + rows[:, None], b_out, mask=m_out)


def plan_gate_up_rows(width: int, itemsize: int) -> tuple[int, int]:
    """(rows of gate in a program, its warps): half the registers of project's, since there are programs enough."""
    rows, warps = plan_rows(width, itemsize, most_elements=64)
    return max(1, rows // 2), warps


def norm_gate_up_rows(
    stream: Stream, norm: Norm, gate_up: Matrix, activate: Activation = swiglu
) -> tuple[Tensor, Tensor]:
    """Up to MOST_ROW_TOKENS tokens, in one launch; activate is swiglu or geglu_tanh."""
    residual, parts = stream
    (num_tokens, width), intermediate = residual.shape, gate_up.weight.shape[0] // 2
    rows, warps = plan_gate_up_rows(width, residual.element_size())
    total = torch.empty_like(residual)
    out = torch.empty((num_tokens, intermediate), dtype=residual.dtype, device=residual.device)
    _norm_gate_up_rows_kernel[(triton.cdiv(intermediate, rows),)](
        residual, parts, norm.weight, gate_up.weight, gate_up.bias, total, out, num_tokens, norm.eps,
        NUM_PARTS=parts.shape[0], WIDTH=width, INTERMEDIATE=intermediate, HAS_BIAS=gate_up.bias is not None,
        GEGLU_TANH=activate is geglu_tanh, TILE_K=next_power(width), ROWS=rows, num_warps=warps,
        **launch_options(residual.device),
    )  # fmt: skip
    return out, total


def norm_gate_up_tiles(stream: Stream, norm: Norm, gate_up: Matrix) -> tuple[Tensor, Tensor]:
    """Up to MOST_TILE_TOKENS tokens; 16-bit dtypes."""
    normed, residual = add_norm(stream, norm)
    (num_tokens, width), intermediate = normed.shape, gate_up.weight.shape[0] // 2
    out = torch.empty((num_tokens, intermediate), dtype=normed.dtype, device=normed.device)
    plan = plan_gate_up(num_tokens, intermediate, shared_kib(normed.device))
    _gate_up_tiles_kernel[(triton.cdiv(intermediate, plan.tile_n),)](
        normed, gate_up.weight, gate_up.bias, out, num_tokens,
        WIDTH=width, INTERMEDIATE=intermediate, HAS_BIAS=gate_up.bias is not None,
        TILE_N=plan.tile_n, TILE_M=plan.tile_m, TILE_K=plan.tile_k,
        num_warps=plan.warps, num_stages=plan.stages, **launch_options(normed.device),
    )  # fmt: skip
    return out, residual


def plan_gate_up(num_tokens: int, intermediate: int, room_kib: int = 227) -> TilePlan:
    """Two tiles of weights at a time, as deep as shared memory allows (room_kib, of a program); k is not split.

    More programs than multiprocessors run two on each, since the last of them would keep the machine for themselves:
    half as deep, 64 tokens of Llama-2-7B take 52.9 µs instead of 74.3 (H200, benchmarks/kernels_h200.json).
    """
    tile_m = max(8, next_power(num_tokens))
    if room_kib >= 227 and triton.cdiv(intermediate, 64) > MULTIPROCESSORS:
        return TilePlan(64, tile_m, 64, 0, 4, min(6, 113 * 8 // (128 + tile_m)))
    if room_kib >= 227:
        return TilePlan(64, tile_m, 256, 0, 4, 3) if tile_m <= 8 else TilePlan(64, tile_m, 64, 0, 4, 6)
    return TilePlan(32, tile_m, 128, 0, 4, 4) if num_tokens <= 16 else TilePlan(64, tile_m, 128, 0, 4, 3)


_NORM_GATE_UP: dict[type, Operation[..., tuple[Tensor, Tensor]]] = {
    Matrix: Operation(
        reference=norm_gate_up_reference,
        triton=(
            UpTo(MOST_ROW_TOKENS, norm_gate_up_rows),
            UpTo(MOST_TILE_TOKENS, norm_gate_up_tiles, dtypes=(torch.float16, torch.bfloat16)),
        ),
    ),
    PackedMatrix: Operation(
        reference=norm_gate_up_reference,
        triton=(
            UpTo(MOST_PACKED_ROW_TOKENS, w4a16_norm_gate_up_rows, dtypes=(torch.float16,)),
            UpTo(MOST_PACKED_TILE_TOKENS, w4a16_norm_gate_up_tiles, dtypes=(torch.float16,)),
        ),
    ),
}


def norm_gate_up(
    stream: Stream, norm: AnyNorm, gate_up: AnyMatrix, activate: Activation = swiglu
) -> tuple[Tensor, Tensor]:
    """(activated [num_tokens, intermediate], residual [num_tokens, hidden]).

    activate: [gate | up] → their product; RMS norm and SwiGLU have forms of their own, others are composed.
    """
    residual = stream.residual
    check_shape("parts of norm_gate_up", stream.parts, (stream.parts.shape[0], *residual.shape))
    check_shape("residual of norm_gate_up", residual, (residual.shape[0], gate_up.shape[1]))
    if gate_up.shape[0] % 2:
        raise ValueError(
            f"gate and up do not have as many rows each\n  expected: an even number\n  got: {gate_up.shape[0]}"
        )
    form = _NORM_GATE_UP[type(gate_up)].form_for(residual.device, dtype=residual.dtype, num_tokens=residual.shape[0])
    if activate is geglu_tanh and form is norm_gate_up_rows and isinstance(norm, Norm) and isinstance(gate_up, Matrix):
        return norm_gate_up_rows(stream, norm, gate_up, activate)
    apart = residual.shape[0] <= MOST_PACKED_ROW_TOKENS and norms_apart(gate_up)
    if activate is not swiglu or isinstance(norm, CentredNorm) or apart:
        return norm_gate_up_reference(stream, norm, gate_up, activate)
    return form(stream, norm, gate_up)
