"""RMSNorm: the weight of a norm, applied to the residual stream and what was last added to it.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import Tensor, nn

from lmcourse.kernels import Norm, Stream, add_norm
from lmcourse.layers.linear import empty_weight

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """Scales each token's features to unit root mean square, then by a learned weight."""

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.weight = empty_weight(features)
        self.eps = eps

    def forward(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """(normed, residual), both [num_tokens, features]; the residual now has the parts in it."""
        return add_norm(stream, self.norm)

    @property
    def norm(self) -> Norm:
        """As the kernels take it."""
        return Norm(self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
