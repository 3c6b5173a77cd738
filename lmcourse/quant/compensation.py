"""Rounding with compensation (GPTQ, arXiv 2210.17323): what one column's rounding spoils, later columns make good.

    for each input column k:   round w[:, k] to its grid;   e = (w[:, k] − rounded) / U[k, k]
                               w[:, k+1:] −= e · U[k, k+1:]        UᵀU: the inverse of C + damping, U upper triangular

The output error Σ ΔW · C · ΔWᵀ counts columns together: where two inputs rise and fall together, an error in one can be
taken back in the other. Grids are fixed meanwhile and fitted to the levels afterwards; the layout stays AWQ's.

`aimed` goes one step further back: earlier layers are rounded, too, so a matrix sees x' where it was made for x. The
weights nearest to the old ones for which W' · x' is W · x, in least squares, are what is worth rounding.

Lesson: 4 (what is lost)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.kernels import round_columns
from lmcourse.quant.awq import search_clip
from lmcourse.quant.rounding import Grid, QuantSettings, fit_grid, quantise

__all__ = ["InputMoments", "aimed", "compensated", "inverse_factor", "quantise_compensated", "refitted"]

_DAMPING = 0.01  # of the mean of C's diagonal: inputs that were hardly seen take over no errors
_MOST_CHANCE = 0.25  # fewer than four inputs a column say too little of how they go together
_NEARNESS = 0.1  # of the same mean: how much a weight's distance from the old one counts, beside the output
_LEAST_MOMENT = 1e-10
_FITS = 2
_COLUMNS_AT_ONCE = 128
_LEAST_CHANGE = 0.3  # of a scale: a group whose levels say little keeps its grid


@dataclass(frozen=True)
class InputMoments:
    """Of the input x' that a matrix gets once all before it is rounded, and of the x that it was made for."""

    second: Tensor  # float32 [columns, columns]: C, the mean of x' · x'ᵀ
    cross: Tensor  # float32 [columns, columns]: the mean of x · x'ᵀ
    count: int  # of inputs seen; of few, much of what varies together does so by chance

    @property
    def chance(self) -> float:
        """Unknowns per equation."""
        return len(self.second) / max(self.count, 1)


def aimed(weight: Tensor, moments: InputMoments) -> Tensor:
    """float32 [rows, columns]: the weights that give the old outputs from the new inputs, near the old ones."""
    weight = weight.float()
    damped = _damped(moments.second, _NEARNESS)
    missed = weight.double() @ (moments.cross.double() - moments.second.double())
    change: Tensor = torch.linalg.solve(damped, missed.t()).t()
    return weight + change.float()


def compensated(weight: Tensor, moments: InputMoments, settings: QuantSettings, *, clip: bool) -> tuple[Tensor, Grid]:
    """(levels, the grid that they lie on) of the weights worth rounding; plainly rounded where inputs are few."""
    if moments.chance > _MOST_CHANCE:
        grid = fit_grid(weight, settings)
        return quantise(weight, grid, settings), grid
    target = aimed(weight, moments)
    grid = fit_grid(target, settings, limit=search_clip(target, moments.second, settings) if clip else None)
    factor = inverse_factor(moments.second)
    for _ in range(_FITS):
        levels = quantise_compensated(target, grid, settings, factor)
        grid = refitted(target, levels, grid, moments.second)
    return levels, grid


def quantise_compensated(weight: Tensor, grid: Grid, settings: QuantSettings, factor: Tensor) -> Tensor:
    """uint8 [rows, columns], from 0 to settings.largest; factor is inverse_factor(C), C = E[x · xᵀ] of the input.

    Errors go to the columns of the same portion one by one, to all later ones in one product.
    """
    left = weight.float().clone()
    levels = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    columns = weight.shape[1]
    for first in range(0, columns, _COLUMNS_AT_ONCE):
        at = slice(first, min(first + _COLUMNS_AT_ONCE, columns))
        group = torch.arange(at.start, at.stop, device=weight.device) // settings.group_size
        levels[:, at], errors = round_columns(
            left[:, at], factor[at, at], grid.scale[:, group], grid.zero[:, group], settings.largest
        )
        left[:, at.stop :] -= errors @ factor[at, at.stop :]
    return levels


def refitted(weight: Tensor, levels: Tensor, grid: Grid, second_moment: Tensor) -> Grid:
    """The scales with the least output error for these levels, damped as rounding is; zeros stay."""
    second_moment = _damped(second_moment, _DAMPING).float()
    rows, groups = grid.scale.shape
    size = weight.shape[1] // groups
    steps = (levels.view(rows, groups, size).float() - grid.zero[..., None]).flatten(1)  # the weights, in scales
    wanted = ((weight.float() @ second_moment) * steps).view(rows, groups, size).sum(-1)
    products = torch.stack([
        ((steps[:, i * size : (i + 1) * size] @ second_moment[i * size : (i + 1) * size]) * steps)
        .view(rows, groups, size).sum(-1)
        for i in range(groups)
    ], dim=1)  # fmt: skip
    mean = products.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=_LEAST_MOMENT)
    products = products + 1e-6 * mean[:, None, None] * torch.eye(groups, device=weight.device)
    scale = torch.linalg.solve(products, wanted)
    sound = torch.isfinite(scale) & (scale > _LEAST_CHANGE * grid.scale)
    return Grid(torch.where(sound, scale, grid.scale).half().float(), grid.zero)


def inverse_factor(second_moment: Tensor) -> Tensor:
    """Upper triangular U with Uᵀ · U = (C + damping)⁻¹, float32."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(second_moment, _DAMPING)))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _damped(second_moment: Tensor, share: float) -> Tensor:
    """float64: C + share · the mean of its diagonal."""
    moment = second_moment.to(torch.float64, copy=True)
    moment.diagonal().add_(share * moment.diagonal().mean().clamp(min=_LEAST_MOMENT))
    return moment
