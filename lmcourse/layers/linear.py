"""Linear: y = x · Wᵀ + b, with W stored [out_features, in_features] as checkpoints store it, or packed.

Every matrix of a model goes through this class, so it is the one place that knows how weights are stored.

Lesson: 2 (inside one layer), 4 (from a checkpoint to the kernel)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmcourse.kernels import AnyMatrix, Matrix, PackedMatrix, arrange_packed, arrange_weight, project
from lmcourse.layers.parallel import ALONE, Ranks
from lmcourse.quant import PLAIN, WeightFormat

__all__ = ["Linear", "empty_weight"]


def empty_weight(*shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
    """A weight without values yet, in the default dtype and on the default device; loading fills or replaces it."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


class Linear(nn.Module):
    """A matrix and, where the family has one, a bias."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, ranks: Ranks = ALONE) -> None:
        """ranks: who has the other input features, and so the rest of each sum; ALONE: all are here."""
        super().__init__()
        self.ranks = ranks
        self.in_features, self.out_features = in_features, out_features
        self.weight_format: WeightFormat = PLAIN
        self.weight: Tensor
        self._leaves: tuple[str, ...] = ()
        self.use_format(PLAIN)
        self.bias = empty_weight(out_features) if bias else None

    def use_format(self, weight_format: WeightFormat) -> None:
        """Store the matrix in this format from now on; its values are still to be loaded."""
        for name in self._leaves:
            delattr(self, name)
        leaves = weight_format.leaves(self.out_features, self.in_features)
        for name, leaf in leaves.items():
            self.register_parameter(name, empty_weight(*leaf.shape, dtype=leaf.dtype))
        self.weight_format, self._leaves = weight_format, tuple(leaves)

    def forward(self, x: Tensor) -> Tensor:
        """x: [num_tokens, in_features] → parts [num_parts, num_tokens, out_features], which add up to the product."""
        return self.ranks.add_up(project(x, self.matrix))

    def arrange(self) -> None:
        """Lay the matrix out for this device's library: the values stay, and only kernels can read them."""
        matrix = self.matrix
        if isinstance(matrix, Matrix):
            self.weight = nn.Parameter(arrange_weight(matrix.weight), requires_grad=False)
        elif isinstance(matrix, PackedMatrix):
            arranged = arrange_packed(matrix)
            self.words = nn.Parameter(arranged.words, requires_grad=False)
            self.groups = nn.Parameter(arranged.groups, requires_grad=False)

    @property
    def matrix(self) -> AnyMatrix:
        """As the kernels take it."""
        return self.weight_format.matrix({name: getattr(self, name) for name in self._leaves}, self.bias)

    def extra_repr(self) -> str:
        stored = ", ".join(f"{name} {str(getattr(self, name).dtype).removeprefix('torch.')}" for name in self._leaves)
        return f"{self.in_features} -> {self.out_features}, bias={self.bias is not None}, {stored}"
