"""Linear: y = x · Wᵀ + b, with W stored [out_features, in_features] as checkpoints store it.

Every matrix of a model goes through this class, so it is the one place that knows how weights are stored.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmcourse.kernels import Matrix, project

__all__ = ["Linear", "empty_weight"]


def empty_weight(*shape: int) -> nn.Parameter:
    """A weight without values yet, in the default dtype and on the default device; loading fills or replaces it."""
    return nn.Parameter(torch.empty(shape), requires_grad=False)


class Linear(nn.Module):
    """A matrix and, where the family has one, a bias."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = empty_weight(out_features, in_features)
        self.bias = empty_weight(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x: [num_tokens, in_features] → parts [num_parts, num_tokens, out_features], which add up to the product."""
        return project(x, self.matrix)

    @property
    def matrix(self) -> Matrix:
        """As the kernels take it."""
        return Matrix(self.weight, self.bias)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return f"{in_features} -> {out_features}, bias={self.bias is not None}, {self.weight.dtype}"
