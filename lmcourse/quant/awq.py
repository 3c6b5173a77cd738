"""AWQ (arXiv 2306.00978): some input channels matter more; make their weights larger before rounding them.

    y = W · x = (W · diag(s)) · (diag(1/s) · x)         the same product; rounding W · diag(s) hurts channel i by 1/s_i

diag(1/s) costs nothing: it is folded into what makes x, a norm's weight or the rows of the matrix before. Which s?

    smooth_scale   one rule: s = sqrt(largest |x| / typical |w|), as LMDeploy 0.3.0
    search_scale   s = (mean |x|)^r / (typical |w|)^(1 − r) for 20 values of r; the one with the least output error
    search_clip    then, per group: is a grid that cuts off the largest weights better for the rest?

Output errors need no second look at the data: E|ΔW · x|² = Σ ΔW · C · ΔWᵀ, with C = E[x · xᵀ] gathered once.

Lesson: 4 (AWQ from scratch)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.quant.rounding import QuantSettings, fake_quantise, fit_grid, grouped

__all__ = [
    "ChannelStats",
    "ScaleSearch",
    "output_error",
    "search_clip",
    "search_scale",
    "smooth_scale",
    "typical_weight",
]

_NUM_RATIOS = 20
_SHRINKS = tuple(1 - i / 20 for i in range(10))  # 1, 0.95 … 0.55 of a group's largest weight
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class ChannelStats:
    """What calibration says of the input x [tokens, columns] of a matrix."""

    mean_abs: Tensor  # float32 [columns]
    largest_abs: Tensor  # float32 [columns]
    second_moment: Tensor  # float32 [columns, columns]: the mean of x · xᵀ


@dataclass(frozen=True)
class ScaleSearch:
    """The best scales, and the whole curve for whoever wants to look at it."""

    scale: Tensor  # float32 [columns]
    ratio: float
    ratios: tuple[float, ...]
    errors: tuple[float, ...]  # mean squared error of the output, per ratio
    unscaled_error: float  # of rounding to nearest without scales


def output_error(difference: Tensor, second_moment: Tensor) -> Tensor:
    """E|difference · x|² per row: float32 [rows]."""
    return ((difference @ second_moment) * difference).sum(-1)


def typical_weight(weights: Sequence[Tensor], group_size: int) -> Tensor:
    """[columns]: |w| as a share of its group's largest, averaged over the rows of all matrices."""
    shares = []
    for weight in weights:
        groups = grouped(weight.float().abs(), group_size)
        shares.append((groups / groups.amax(-1, keepdim=True).clamp(min=1e-12)).flatten(1).mean(0) * len(weight))
    return torch.stack(shares).sum(0) / sum(map(len, weights))


def smooth_scale(weights: Sequence[Tensor], stats: ChannelStats, settings: QuantSettings, alpha: float = 0.5) -> Tensor:
    """LMDeploy 0.3.0's fixed rule: largest |x|^alpha / typical |w|^(1 − alpha), float32 [columns]."""
    weight_scale = typical_weight(weights, settings.group_size).clamp(min=1e-4)
    return _normalised(stats.largest_abs.clamp(min=1e-4) ** alpha / weight_scale ** (1 - alpha))


def search_scale(weights: Sequence[Tensor], stats: ChannelStats, settings: QuantSettings) -> ScaleSearch:
    """The scales that share one input x, tried on all matrices that read it: weights, each [rows, columns]."""
    weight_scale = typical_weight(weights, settings.group_size)
    ratios = tuple(i / _NUM_RATIOS for i in range(_NUM_RATIOS))
    scales = [_ratio_scale(stats.mean_abs, weight_scale, ratio) for ratio in ratios]
    errors = [_total_error(weights, scale, stats, settings) for scale in scales]
    ones = torch.ones_like(scales[0])
    unscaled = _total_error(weights, ones, stats, settings)
    best = min(range(len(errors)), key=errors.__getitem__)
    if unscaled <= errors[best]:
        return ScaleSearch(ones, 0.0, ratios, tuple(errors), unscaled)
    return ScaleSearch(scales[best], ratios[best], ratios, tuple(errors), unscaled)


def search_clip(weight: Tensor, second_moment: Tensor, settings: QuantSettings) -> Tensor:
    """[rows, groups]: the largest |w| that each group should keep; every group is judged by itself."""
    columns, size = weight.shape[1], settings.group_size
    moments = second_moment.view(columns // size, size, columns // size, size)
    diagonal = torch.stack([moments[i, :, i] for i in range(columns // size)])  # [groups, size, size]
    limits = [_clip_rows(rows, diagonal, settings) for rows in _row_chunks(weight)]
    return torch.cat(limits)


def _row_chunks(weight: Tensor) -> Sequence[Tensor]:
    """The rows a few thousand at a time, so that float32 copies stay small."""
    return weight.float().chunk(max(1, -(-len(weight) // _ROWS_AT_ONCE)))


def _clip_rows(weight: Tensor, diagonal: Tensor, settings: QuantSettings) -> Tensor:
    groups = grouped(weight, settings.group_size)
    largest = groups.abs().amax(-1)
    best_limit, best_error = largest, torch.full_like(largest, torch.inf)
    for shrink in _SHRINKS:
        limit = largest * shrink
        rounded = fake_quantise(weight, fit_grid(weight, settings, limit=limit), settings)
        difference = (rounded - weight).view_as(groups).transpose(0, 1)  # [groups, rows, size]
        error = ((difference @ diagonal) * difference).sum(-1).transpose(0, 1)
        better = error < best_error
        best_limit, best_error = torch.where(better, limit, best_limit), torch.where(better, error, best_error)
    return best_limit


def _ratio_scale(activation: Tensor, weight_scale: Tensor, ratio: float) -> Tensor:
    return _normalised((activation**ratio / (weight_scale ** (1 - ratio) + 1e-4)).clamp(min=1e-4))


def _normalised(scale: Tensor) -> Tensor:
    """Centred on 1 in the logarithm, so that neither weights nor activations drift."""
    return scale / (scale.max() * scale.min()).sqrt()


def _total_error(weights: Sequence[Tensor], scale: Tensor, stats: ChannelStats, settings: QuantSettings) -> float:
    total = torch.zeros((), device=scale.device, dtype=torch.float64)
    for weight in weights:
        for rows in _row_chunks(weight):
            scaled = rows * scale
            difference = fake_quantise(scaled, fit_grid(scaled, settings), settings) / scale - rows
            total += output_error(difference, stats.second_moment).sum().double()
    return float(total) / sum(map(len, weights))
