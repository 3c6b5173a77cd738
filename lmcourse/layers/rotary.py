"""Rotary: the cos and sin of each token's angles, once per step for all layers.

Holds no table: any position has an angle, also beyond max_context. Cached keys stay as they were turned.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import Tensor, nn

from lmcourse.kernels import Rotation, angles
from lmcourse.spec import RotarySpec

__all__ = ["Rotary"]


class Rotary(nn.Module):
    """Positions → angles, by the rule of a RotarySpec."""

    def __init__(self, spec: RotarySpec, head_dim: int) -> None:
        super().__init__()
        self.spec, self.head_dim = spec, head_dim

    def forward(self, positions: Tensor, rotary_lens: Tensor) -> Rotation:
        """positions and rotary_lens: int64 [num_tokens]."""
        return angles(positions, rotary_lens, self.spec, self.head_dim)

    def extra_repr(self) -> str:
        return f"{self.head_dim}, {self.spec}"
