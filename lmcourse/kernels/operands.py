"""What the operations of a layer take and give, by name: a matrix, a norm, a rotation, a reach, the residual stream.

    Stream    residual [num_tokens, hidden], and the summands that the last matrix left beside it:
              parts    [num_parts, num_tokens, hidden]

The sum of a stream is taken by the operation that normalises it, which reads both anyway. A matrix multiplied in one
piece leaves one part in the model's dtype; one whose inner dimension is split over programs leaves a float32 part for
each split, always added in the same order, so that results do not change from run to run.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lmcourse.kernels.packed_bags import TAIL_BYTES

__all__ = [
    "ALL_BEFORE",
    "AnyMatrix",
    "AnyNorm",
    "CentredNorm",
    "Int8Matrix",
    "Matrix",
    "Norm",
    "PackedMatrix",
    "Reach",
    "Rotation",
    "Stream",
    "sum_parts",
    "sum_stream",
]


class Matrix(NamedTuple):
    """y = x · weightᵀ + bias."""

    weight: Tensor  # [out_features, in_features]
    bias: Tensor | None = None  # [out_features]

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        rows, columns = self.weight.shape
        return rows, columns


class PackedMatrix(NamedTuple):
    """y = x · weightᵀ + bias, with weight[n, k] = (q[n, k] − zero[n, k // group_size]) · scale[n, k // group_size].

    How q, zero and scale lie in the words is in packed.py, and for a processor's engine in packed_bags.py.
    """

    words: Tensor  # int32 [out_features, in_features / 8]: eight 4-bit q each; in bags uint8 [out_features, groups, …]
    groups: Tensor  # int32 [out_features, in_features / group_size]: scale and zero, 16 bits each; in bags the scales
    bias: Tensor | None = None  # [out_features]

    @property
    def in_bags(self) -> bool:
        """Whether it is arranged for a processor."""
        return self.words.dtype is torch.uint8

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        if self.in_bags:
            rows, groups, num_bytes = self.words.shape
            return rows, groups * (num_bytes - TAIL_BYTES) * 2
        rows, words = self.words.shape
        return rows, words * 8

    @property
    def group_size(self) -> int:
        """Input features that share a scale and a zero."""
        return self.shape[1] // self.groups.shape[1]


class Int8Matrix(NamedTuple):
    """y = x · weightᵀ + bias, with weight[n, k] = codes[n, k] · scales[n]; a head, not a layer's matrix."""

    codes: Tensor  # int8 [out_features, in_features], from -127 to 127
    scales: Tensor  # float32 [out_features]
    bias: Tensor | None = None  # [out_features]

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        rows, columns = self.codes.shape
        return rows, columns


AnyMatrix: TypeAlias = Matrix | PackedMatrix | Int8Matrix  # an operation has forms for each


class Norm(NamedTuple):
    """The weight of an RMS norm and what keeps it from dividing by zero."""

    weight: Tensor  # [features]
    eps: float

    @property
    def bias(self) -> None:
        """It has none."""


class CentredNorm(NamedTuple):
    """The weight of a layer norm, which takes the mean away first."""

    weight: Tensor  # [features]
    bias: Tensor | None  # [features]
    eps: float


AnyNorm: TypeAlias = Norm | CentredNorm


class Rotation(NamedTuple):
    """The angles of a step's tokens; cos and sin float32 [num_tokens, head_dim / 2]."""

    cos: Tensor
    sin: Tensor
    query_scale: Tensor | None = None  # float32 [num_tokens]; what turned queries are multiplied by, if anything


class Reach(NamedTuple):
    """How a score depends on the distance between two tokens, beyond what rotation does."""

    slopes: Tensor | None = None  # float32 [num_heads]: lost per token of distance (ALiBi, arXiv 2108.12409 §3)
    window: int | None = None  # tokens that a token sees, itself among them; None: all before it


ALL_BEFORE = Reach()


class Stream(NamedTuple):
    """The residual stream before a norm."""

    residual: Tensor  # [num_tokens, hidden]
    parts: Tensor  # [num_parts, num_tokens, hidden]; the model's dtype, or float32

    def take(self, rows: Tensor) -> Stream:
        """The stream of these tokens alone."""
        return Stream(self.residual[rows], self.parts[:, rows])


def sum_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The product that parts add up to, in dtype: [num_parts, num_tokens, features] → [num_tokens, features]."""
    return (parts[0] if parts.shape[0] == 1 else parts.sum(dim=0)).to(dtype)


def sum_stream(stream: Stream) -> Tensor:
    """residual + parts, rounded once to the residual's dtype."""
    if stream.parts.shape[0] == 0:
        return stream.residual
    added = stream.parts[0] if stream.parts.shape[0] == 1 else stream.parts.sum(dim=0)
    return (stream.residual + added).to(stream.residual.dtype)
