"""What the quantising of a layer is about, and the steps that all its matrices share.

Lesson: 4 (AWQ from scratch)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.lite.methods import Method
from lmcourse.models import StoredTensor, TensorRule, stored_tensors
from lmcourse.quant import (
    ChannelStats,
    Grid,
    InputMoments,
    QuantSettings,
    StoredAwq,
    compensated,
    fit_grid,
    quantise,
    search_clip,
)
from lmcourse.spec import ModelSpec

__all__ = ["LayerJob", "pack_compensated", "pack_levels", "pack_nearest", "scaled_stats"]


@dataclass(frozen=True)
class LayerJob:
    """Which layer of which family, and how."""

    spec: ModelSpec
    rules: tuple[TensorRule, ...]
    number: int
    method: Method
    settings: QuantSettings

    def stored(self, module: str, leaf: str) -> StoredTensor:
        """The stored tensors of a module of this layer."""
        return stored_tensors(self.rules, f"layers.{self.number}.{module}.{leaf}")


def scaled_stats(stats: ChannelStats, scale: Tensor) -> ChannelStats:
    """Of the same input divided by the scales."""
    return ChannelStats(
        stats.mean_abs / scale, stats.largest_abs / scale, stats.second_moment / (scale[:, None] * scale)
    )


def pack_nearest(job: LayerJob, name: str, weight: Tensor, clipped_by: ChannelStats | None) -> dict[str, Tensor]:
    """Every weight rounded by itself; clipped_by: the input that says how far groups are clipped, None: not at all."""
    limit = None if clipped_by is None else search_clip(weight, clipped_by.second_moment, job.settings)
    grid = fit_grid(weight, job.settings, limit=limit)
    return pack_levels(name, quantise(weight, grid, job.settings), grid)


def pack_compensated(
    job: LayerJob, matrices: Mapping[str, Tensor], moments: InputMoments, *, clip: bool
) -> dict[str, Tensor]:
    """Matrices that read one input, rounded as one: each of the sums over that input is taken apart once for all."""
    levels, grid = compensated(torch.cat(list(matrices.values())), moments, job.settings, clip=clip)
    out: dict[str, Tensor] = {}
    first = 0
    for name, weight in matrices.items():
        rows = slice(first, first := first + len(weight))
        out |= pack_levels(name, levels[rows], Grid(grid.scale[rows], grid.zero[rows]))
    return out


def pack_levels(name: str, levels: Tensor, grid: Grid) -> dict[str, Tensor]:
    """As AWQ stores them, on the CPU, under the names that belong to the plain weight's."""
    packed = StoredAwq.pack(levels, grid.scale, grid.zero)
    stem = name.removesuffix("weight")
    return {stem + leaf: tensor.cpu() for leaf, tensor in packed._asdict().items()}
