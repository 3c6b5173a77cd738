"""Rounding with compensation, one portion of columns: each is rounded, and those after it take over its error.

    for each column k:   q = round(w[:, k] / scale) + zero, kept in 0 … largest
                         e = (w[:, k] − (q − zero) · scale) / U[k, k];      w[:, k+1:] −= e · U[k, k+1:]

A chain of columns, but rows know nothing of each other. As operations in torch that is a dozen launches a column:
16,384 columns in a layer of 1.8B, each waited for by the next. In one launch a row stays in registers until it is done.

Traffic of 8192 rows × 128 columns: weights, scales, zeros read (12 MiB), levels and errors written (5 MiB), 17 MiB.

    program r    rows r · TILE_ROWS …, all columns of the portion      w  [· · · k → → → →]   U[k]  [0 0 0 d → → → →]

Numerics: float32. A weight in the middle of two levels may go to either.

Lesson: 4 (what is lost)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import jit_varying, next_power, tl, triton

__all__ = ["round_columns", "round_columns_reference", "round_columns_triton"]

_TILE_ROWS, _MOST_COLUMNS = 8, 256


def round_columns_reference(
    weight: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, largest: int
) -> tuple[Tensor, Tensor]:
    """The formula, column by column."""
    left = weight.clone()
    levels, errors = torch.empty_like(left, dtype=torch.uint8), torch.empty_like(left)
    for k in range(left.shape[1]):
        level = (left[:, k] / scale[:, k]).round().add_(zero[:, k]).clamp_(0, largest)
        error = (left[:, k] - (level - zero[:, k]) * scale[:, k]) / factor[k, k]
        left[:, k + 1 :] -= error[:, None] * factor[k, k + 1 :]
        levels[:, k], errors[:, k] = level.to(torch.uint8), error
    return levels, errors


@jit_varying("num_rows", "columns", "stride")
def _round_columns_kernel(
    weight_ptr,  # [num_rows, columns], rows `stride` apart
    factor_ptr,  # [columns, columns]
    scale_ptr,  # [columns, num_rows], as all below
    zero_ptr,
    levels_ptr,
    errors_ptr,
    num_rows,
    columns,
    stride,
    LARGEST: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    # which tile am I: some rows, all columns
    i = tl.program_id(0).to(tl.int64) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    j = tl.arange(0, TILE_COLUMNS)
    m_i, m_j = i < num_rows, j < columns
    # load
    b_left = tl.load(weight_ptr + i[:, None] * stride + j[None, :], mask=m_i[:, None] & m_j[None, :], other=0.0)
    at = i
    for k in range(columns):
        b_scale = tl.load(scale_ptr + at, mask=m_i, other=1.0)
        b_zero = tl.load(zero_ptr + at, mask=m_i, other=0.0)
        b_factor = tl.load(factor_ptr + k * columns + j, mask=m_j & (j >= k), other=0.0)
        # compute
        b_column = tl.sum(tl.where(j[None, :] == k, b_left, 0.0), axis=1)
        diagonal = tl.sum(tl.where(j == k, b_factor, 0.0), axis=0)
        b_level = tl.floor(b_column / b_scale + 0.5) + b_zero
        b_level = tl.minimum(tl.maximum(b_level, 0.0), LARGEST)
        b_error = (b_column - (b_level - b_zero) * b_scale) / diagonal
        b_left -= b_error[:, None] * b_factor[None, :]
        # store
        tl.store(levels_ptr + at, b_level.to(tl.uint8), mask=m_i)
        tl.store(errors_ptr + at, b_error, mask=m_i)
        at += num_rows


def round_columns_triton(
    weight: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, largest: int
) -> tuple[Tensor, Tensor]:
    """One warp holds a row's columns, so that a column is picked out within the warp; results are columns first."""
    rows, columns = weight.shape
    levels = torch.empty((columns, rows), dtype=torch.uint8, device=weight.device)
    errors = torch.empty((columns, rows), dtype=torch.float32, device=weight.device)
    if weight.numel():
        weight = weight if weight.stride(1) == 1 else weight.contiguous()
        grid = (triton.cdiv(rows, _TILE_ROWS),)
        _round_columns_kernel[grid](
            weight, factor.contiguous(), scale.t().contiguous(), zero.t().contiguous(), levels, errors, rows, columns,
            weight.stride(0), LARGEST=largest, TILE_ROWS=_TILE_ROWS, TILE_COLUMNS=next_power(columns), num_warps=4,
        )  # fmt: skip
    return levels.t(), errors.t()


_ROUND_COLUMNS = Operation(
    reference=round_columns_reference, triton=(UpTo(float("inf"), round_columns_triton, (torch.float32,)),)
)


def round_columns(weight: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """(levels uint8, errors float32) of weight [rows, columns]; scale and zero as large, factor [columns, columns].

    All float32, factor upper triangular. The weight stays as it is; errors are what columns after these are to take
    over, times their part of U. ValueError for shapes that do not go together, or more than 256 columns.
    """
    columns = weight.shape[1]
    fits = factor.shape == (columns, columns) and scale.shape == zero.shape == weight.shape
    if not fits or columns > _MOST_COLUMNS:
        got = ", ".join(str(tuple(tensor.shape)) for tensor in (weight, factor, scale, zero))
        raise ValueError(
            f"a portion of columns cannot be rounded\n  expected: [rows, n], [n, n], [rows, n], [rows, n] with n up to "
            f"{_MOST_COLUMNS}\n  got: {got}"
        )
    return _ROUND_COLUMNS.form_for(weight.device, dtype=weight.dtype)(weight, factor, scale, zero, largest)
