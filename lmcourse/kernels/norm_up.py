"""Norm, one matrix, GELU: the fourth launch of a decode step for families whose MLP has no gate, like Falcon.

    (residual + parts) → norm → · weightᵀ + bias → gelu

What norm_gate_up.py is for gated MLPs, for one token; of more, the composition.

Traffic, one token of Falcon-7B: 165 MB of weight, 39 µs at 4.2 TB/s; as three launches 4 to 6 µs more.

    rows of the weight      program p: ROWS rows, all of k, held in registers; sums and normalises the token for itself

Lesson: 8 (what differs between families)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from lmcourse.kernels.add_norm import add_norm, norm_row, sum_row
from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.gelu import bend, gelu, gelu_tanh
from lmcourse.kernels.lang import (
    jit,
    launch_options,
    let_next_start,
    load_row,
    next_power,
    store_row,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.operands import AnyMatrix, AnyNorm, CentredNorm, Matrix, Stream, sum_parts
from lmcourse.kernels.project import MOST_ROW_TOKENS, load_weight_rows, plan_rows, project

__all__ = ["norm_up", "norm_up_reference", "norm_up_rows"]

Activation: TypeAlias = Callable[[Tensor], Tensor]  # [num_tokens, features] → the same


def norm_up_reference(
    stream: Stream, norm: AnyNorm, up: AnyMatrix, activate: Activation = gelu
) -> tuple[Tensor, Tensor]:
    """The composition; each piece in the form that suits the device and the number of tokens."""
    normed, residual = add_norm(stream, norm)
    return activate(sum_parts(project(normed, up), normed.dtype)), residual


@jit
def _norm_up_rows_kernel(
    residual_ptr,
    parts_ptr,
    norm_ptr,
    norm_bias_ptr,
    weight_ptr,
    bias_ptr,
    sum_ptr,
    out_ptr,
    num_tokens,
    eps,
    NUM_PARTS: tl.constexpr,
    CENTRED: tl.constexpr,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    TANH: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of the weight
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_rows = rows < NUM_ROWS
    k = tl.arange(0, TILE_K)
    # load: weights do not wait
    b_weight = load_weight_rows(weight_ptr, rows, m_rows, WIDTH, TILE_K, NUM_ROWS % ROWS != 0)
    tl.static_assert(b_weight.shape == (ROWS, TILE_K))
    b_norm = load_row(norm_ptr, k, WIDTH, TILE_K).to(tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    for token in range(num_tokens):
        b_sum = sum_row(residual_ptr, parts_ptr, token, k, num_tokens, NUM_PARTS, WIDTH, TILE_K)
        # compute
        b_x = norm_row(b_sum, b_norm, norm_bias_ptr, k, eps, CENTRED, WIDTH, TILE_K).to(dtype).to(tl.float32)
        b_out = tl.sum(b_weight.to(tl.float32) * b_x[None, :], axis=1)
        if bias_ptr is not None:
            b_out += tl.load(bias_ptr + rows, mask=m_rows).to(tl.float32)
        # store
        b_out = bend(b_out.to(dtype).to(tl.float32), TANH)
        tl.store(out_ptr + token * NUM_ROWS + rows, b_out.to(dtype), mask=m_rows)
        if tl.program_id(0) == 0:
            store_row(sum_ptr + token * WIDTH, k, b_sum, WIDTH, TILE_K)


def norm_up_rows(stream: Stream, norm: AnyNorm, up: Matrix, activate: Activation = gelu) -> tuple[Tensor, Tensor]:
    """Up to MOST_ROW_TOKENS tokens, in one launch; activate is gelu or gelu_tanh."""
    residual, parts = stream
    (num_tokens, width), num_rows = residual.shape, up.weight.shape[0]
    rows, warps = plan_rows(width, residual.element_size())
    total = torch.empty_like(residual)
    out = torch.empty((num_tokens, num_rows), dtype=residual.dtype, device=residual.device)
    _norm_up_rows_kernel[(triton.cdiv(num_rows, rows),)](
        residual, parts, norm.weight, norm.bias, up.weight, up.bias, total, out, num_tokens, norm.eps,
        NUM_PARTS=parts.shape[0], CENTRED=isinstance(norm, CentredNorm), WIDTH=width, NUM_ROWS=num_rows,
        TANH=activate is gelu_tanh, TILE_K=next_power(width), ROWS=rows, num_warps=warps,
        **launch_options(residual.device),
    )  # fmt: skip
    return out, total


_NORM_UP = Operation(reference=norm_up_reference, triton=(UpTo(MOST_ROW_TOKENS, norm_up_rows),))


def norm_up(stream: Stream, norm: AnyNorm, up: AnyMatrix, activate: Activation = gelu) -> tuple[Tensor, Tensor]:
    """(activated [num_tokens, intermediate], residual [num_tokens, hidden])."""
    residual = stream.residual
    check_shape("parts of norm_up", stream.parts, (stream.parts.shape[0], *residual.shape))
    check_shape("residual of norm_up", residual, (residual.shape[0], up.shape[1]))
    if not isinstance(up, Matrix) or activate not in (gelu, gelu_tanh):
        return norm_up_reference(stream, norm, up, activate)
    form = _NORM_UP.form_for(residual.device, dtype=residual.dtype, num_tokens=residual.shape[0])
    return form(stream, norm, up, activate)
