"""Rotary: the cos and sin of each token's angles, once per step for all layers.

Holds no table: any position has an angle, also beyond max_context. Cached keys stay as they were turned.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmcourse.kernels import Rotation, angles
from lmcourse.spec import RotarySpec

__all__ = ["Rotary"]


class Rotary(nn.Module):
    """Positions → angles, by the rule of a RotarySpec; and what queries are multiplied by, where logn_context is."""

    def __init__(self, spec: RotarySpec, head_dim: int, logn_context: int | None = None) -> None:
        super().__init__()
        self.spec, self.head_dim, self.logn_context = spec, head_dim, logn_context

    def forward(self, positions: Tensor, rotary_lens: Tensor) -> Rotation:
        """positions and rotary_lens: int64 [num_tokens]."""
        rotation = angles(positions, rotary_lens, self.spec, self.head_dim)
        if self.logn_context is None:
            return rotation
        logs = torch.log(positions.float() + 1) / math.log(self.logn_context)
        return rotation._replace(query_scale=logs.clamp(min=1))

    def extra_repr(self) -> str:
        return f"{self.head_dim}, {self.spec}"
