"""Rotary: the cos and sin of each token's angles, once per step for all layers.

Feature pair i of head_dim / 2 turns by position · base^(-2i / head_dim). Three rules, by RotarySpec.scaling:

    None       as trained
    linear     position / factor: more positions squeezed into the trained range
    dynamic    NTK-aware: beyond trained_context the base grows with the length L that the token is rotated for,
               base · (factor · L / trained_context - (factor - 1)) ^ (head_dim / (head_dim - 2))

L comes with each token (`rotary_lens`: the whole prompt's length, or the context if longer), so that a prompt computed
in chunks turns as if computed at once, and requests of one batch do not disturb each other. Cached keys stay as
they are.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmcourse.kernels import Rotation
from lmcourse.spec import RotarySpec

__all__ = ["Rotary"]


class Rotary(nn.Module):
    """Positions → angles. Holds no table: any position has an angle, also beyond max_context."""

    def __init__(self, spec: RotarySpec, head_dim: int) -> None:
        super().__init__()
        self.spec, self.head_dim = spec, head_dim

    def forward(self, positions: Tensor, rotary_lens: Tensor) -> Rotation:
        """positions and rotary_lens: int64 [num_tokens]."""
        angles = positions.float()[:, None] * self._frequencies(rotary_lens)
        return Rotation(angles.cos(), angles.sin())

    def _frequencies(self, rotary_lens: Tensor) -> Tensor:
        """Radians per position: [head_dim / 2], or [num_tokens, head_dim / 2] when they differ by token."""
        exponents = torch.arange(0, self.head_dim, 2, device=rotary_lens.device).float() / self.head_dim
        if self.spec.scaling == "dynamic":
            return 1.0 / self._grown_base(rotary_lens)[:, None] ** exponents
        frequencies = 1.0 / self.spec.base**exponents
        return frequencies / self.spec.factor if self.spec.scaling == "linear" else frequencies

    def _grown_base(self, rotary_lens: Tensor) -> Tensor:
        spec, dim = self.spec, self.head_dim
        length = rotary_lens.clamp(min=spec.trained_context).float()
        growth = spec.factor * length / spec.trained_context - (spec.factor - 1)
        return spec.base * growth ** (dim / (dim - 2))

    def extra_repr(self) -> str:
        return f"{self.head_dim}, {self.spec}"
