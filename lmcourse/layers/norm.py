"""RMSNorm: the weight of a norm, with and without the residual sum before it.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import Tensor, nn

from lmcourse.kernels import add_rms_norm, rms_norm
from lmcourse.layers.linear import empty_weight

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """Scales each token's features to unit root mean square, then by a learned weight."""

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.weight = empty_weight(features)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., features]."""
        return rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual)."""
        return add_rms_norm(x, residual, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
