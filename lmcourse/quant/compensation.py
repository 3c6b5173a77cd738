"""Rounding with compensation (GPTQ, arXiv 2210.17323): what one column's rounding spoils, later columns make good.

    for each input column k:   round w[:, k] to its grid;   e = (w[:, k] − rounded) / U[k, k]
                               w[:, k+1:] −= e · U[k, k+1:]        UᵀU: the inverse of C + damping, U upper triangular

The output error Σ ΔW · C · ΔWᵀ counts columns together: where two inputs rise and fall together, an error in one can be
taken back in the other. Grids are fixed before; only which level a weight gets changes, so the layout stays AWQ's.

Lesson: 4 (what is lost)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.quant.rounding import Grid, QuantSettings

__all__ = ["quantise_compensated"]

_DAMPING = 0.01  # of the mean of C's diagonal: inputs that were hardly seen take over no errors
_LEAST_MOMENT = 1e-10


def quantise_compensated(weight: Tensor, grid: Grid, settings: QuantSettings, second_moment: Tensor) -> Tensor:
    """uint8 [rows, columns], from 0 to settings.largest; second_moment is C = E[x · xᵀ] of the input."""
    left, factor = weight.float().clone(), _inverse_factor(second_moment)
    levels = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    for column in range(weight.shape[1]):
        group = column // settings.group_size
        scale, zero = grid.scale[:, group], grid.zero[:, group]
        level = (left[:, column] / scale).round().add_(zero).clamp_(0, settings.largest)
        error = (left[:, column] - (level - zero) * scale) / factor[column, column]
        left[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :]
        levels[:, column] = level.to(torch.uint8)
    return levels


def _inverse_factor(second_moment: Tensor) -> Tensor:
    """Upper triangular U with Uᵀ · U = (C + damping)⁻¹, float32."""
    moment = second_moment.double()
    damping = _DAMPING * moment.diagonal().mean().clamp(min=_LEAST_MOMENT)
    moment = moment + damping * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()
