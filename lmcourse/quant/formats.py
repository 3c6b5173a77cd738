"""WeightFormat: how the engine stores a matrix, and how it gets there from what a checkpoint stores.

    PLAIN        weight [out, in]                                 from   weight
    AwqFormat    words  int32 [out, in / 8]                       from   qweight
                 groups int32 [out, in / group_size]              from   qzeros, scales

A Linear asks its format for its parameters and for the operand that kernels take; loading asks it what to read. Rows
(output features) come first in whatever a format hands out, so that families can stack and regroup them alike.

Lesson: 4 (from a checkpoint to the kernel)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lmcourse.kernels import AnyMatrix, Matrix, PackedMatrix
from lmcourse.kernels.packed import join_groups, pack_words
from lmcourse.quant.packing import VALUES_PER_WORD, pack_columns, unpack_columns

__all__ = ["PLAIN", "AwqFormat", "Leaf", "PlainFormat", "StoredAwq", "WeightFormat"]


class Leaf(NamedTuple):
    """One parameter of a matrix: its shape, and its dtype if that is not the model's."""

    shape: tuple[int, int]
    dtype: torch.dtype | None


class WeightFormat(Protocol):
    """What a Linear and the loader need to know."""

    def leaves(self, out_features: int, in_features: int) -> Mapping[str, Leaf]:
        """Parameters by name."""
        ...

    def matrix(self, parameters: Mapping[str, Tensor], bias: Tensor | None) -> AnyMatrix:
        """As the kernels take it."""
        ...


@dataclass(frozen=True)
class PlainFormat:
    """One number per weight, in the model's dtype."""

    def leaves(self, out_features: int, in_features: int) -> Mapping[str, Leaf]:
        """weight."""
        return {"weight": Leaf((out_features, in_features), None)}

    def matrix(self, parameters: Mapping[str, Tensor], bias: Tensor | None) -> Matrix:
        """A Matrix."""
        return Matrix(parameters["weight"], bias)


PLAIN = PlainFormat()


class StoredAwq(NamedTuple):
    """A matrix as AWQ checkpoints store it, input features first."""

    qweight: Tensor  # int32 [in, out / 8]
    qzeros: Tensor  # int32 [in / group_size, out / 8]
    scales: Tensor  # float16 [in / group_size, out]

    @classmethod
    def pack(cls, values: Tensor, scales: Tensor, zeros: Tensor) -> StoredAwq:
        """values [out, in] and zeros [out, groups] from 0 to 15, scales [out, groups]."""
        qweight, qzeros = (pack_columns(part.t().contiguous()) for part in (values, zeros))
        return cls(qweight, qzeros, scales.t().half().contiguous())


@dataclass(frozen=True)
class AwqFormat:
    """Four bits per weight, a scale and a zero per group of input features."""

    group_size: int

    def leaves(self, out_features: int, in_features: int) -> Mapping[str, Leaf]:
        """words and groups."""
        return {
            "words": Leaf((out_features, in_features // VALUES_PER_WORD), torch.int32),
            "groups": Leaf((out_features, in_features // self.group_size), torch.int32),
        }

    def matrix(self, parameters: Mapping[str, Tensor], bias: Tensor | None) -> PackedMatrix:
        """A PackedMatrix."""
        return PackedMatrix(parameters["words"], parameters["groups"], bias)

    @staticmethod
    def rows_of_words(qweight: Tensor) -> Tensor:
        """Stored qweight → uint8 values [out, in]; rows may be stacked and regrouped before pack_words."""
        return unpack_columns(qweight).t().contiguous()

    @staticmethod
    def rows_of_groups(qzeros: Tensor, scales: Tensor) -> Tensor:
        """Stored qzeros and scales → group words int32 [out, groups]."""
        return join_groups(scales.t().contiguous(), unpack_columns(qzeros).t().contiguous())

    def pack_rows(self, values: Tensor) -> Tensor:
        """uint8 values [out, in] → words."""
        return pack_words(values, self.group_size)
