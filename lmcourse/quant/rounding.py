"""Round to nearest, group by group: the baseline that every cleverer method has to beat.

    a group      w0 … w127 of one output row, along the INPUT features
    its grid     2^bits levels from min to max:  scale = (max − min) / (2^bits − 1),  zero = round(−min / scale)
    stored       q = round(w / scale) + zero, clamped to the grid
    read back    (q − zero) · scale

0 always lies on the grid, so what was exactly zero stays so. A symmetric grid has its zero in the middle and needs
no zero point; it wastes levels where a group lies to one side.

Lesson: 4 (round to nearest by hand)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.errors import ConfigError

__all__ = ["Grid", "QuantSettings", "fake_quantise", "fit_grid", "grouped", "quantise"]

_SMALLEST_SCALE = 1e-5
_LARGEST_SCALE = 65504.0  # float16's


@dataclass(frozen=True)
class QuantSettings:
    """How finely a weight is stored."""

    bits: int = 4
    group_size: int = 128  # input features that share a scale and a zero
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in range(2, 9):
            raise ConfigError(
                "weights cannot be stored in so many bits", expected="2 to 8", got=self.bits, where="bits"
            )
        if self.group_size < 1:
            raise ConfigError("a group has no weights", expected="1 or more", got=self.group_size, where="group_size")

    @property
    def largest(self) -> int:
        """Highest level of the grid; the lowest is 0."""
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class Grid:
    """What a group is stored on; both [rows, groups]. Scales are such that float16 holds them exactly."""

    scale: Tensor  # float32
    zero: Tensor  # float32, whole numbers


def grouped(weight: Tensor, group_size: int) -> Tensor:
    """[rows, columns] → [rows, groups, group_size]; ConfigError if groups do not come out even."""
    rows, columns = weight.shape
    if columns % group_size:
        raise ConfigError(
            "the group size does not divide a matrix's input features",
            expected=f"a divisor of {columns}",
            got=group_size,
            where="group_size",
            next_step="choose a smaller group, 64 or 32 say",
        )
    return weight.view(rows, columns // group_size, group_size)


def fit_grid(weight: Tensor, settings: QuantSettings, *, limit: Tensor | None = None) -> Grid:
    """The grid of each group of weight [rows, columns]; limit [rows, groups] clips what lies beyond ± it first."""
    groups = grouped(weight.float(), settings.group_size)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if limit is not None:
        low, high = torch.maximum(low, -limit), torch.minimum(high, limit)
    if settings.symmetric:
        middle = 2 ** (settings.bits - 1)
        scale = _storable(torch.maximum(-low, high) / (middle - 1))
        return Grid(scale, torch.full_like(scale, middle))
    scale = _storable((high - low) / settings.largest)
    return Grid(scale, (-low / scale).round().clamp(0, settings.largest))


def quantise(weight: Tensor, grid: Grid, settings: QuantSettings) -> Tensor:
    """uint8 [rows, columns], from 0 to settings.largest."""
    levels = _levels(weight, grid, settings)
    return levels.to(torch.uint8).view_as(weight)


def fake_quantise(weight: Tensor, grid: Grid, settings: QuantSettings) -> Tensor:
    """What a reader of the stored numbers gets, float32 [rows, columns]."""
    values = (_levels(weight, grid, settings) - grid.zero[..., None]) * grid.scale[..., None]
    return values.view_as(weight)


def _levels(weight: Tensor, grid: Grid, settings: QuantSettings) -> Tensor:
    groups = grouped(weight.float(), settings.group_size)
    return (groups / grid.scale[..., None]).round_().add_(grid.zero[..., None]).clamp_(0, settings.largest)


def _storable(scale: Tensor) -> Tensor:
    """Rounded to float16, in which scales are stored, so that quantising already knows the error of that."""
    return scale.clamp(_SMALLEST_SCALE, _LARGEST_SCALE).half().float()
