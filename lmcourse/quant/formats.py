"""WeightFormat: how the engine stores a matrix, and how it gets there from what a checkpoint stores.

    PLAIN        weight [out, in]                                 from   weight
    AwqFormat    words  int32 [out, in / 8]                       from   qweight
                 groups int32 [out, in / group_size]              from   qzeros, scales
    Int8Format   words  int32 [out, in / 4], four codes each      from   qweight (int8)
                 groups int32 [out, 1], the bits of a float32     from   row_scales

A Linear asks its format for its parameters and for the operand that kernels take; loading asks it what to read. Rows
(output features) come first in whatever a format hands out, so that families can stack and regroup them alike.

Lesson: 4 (from a checkpoint to the kernel)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from lmcourse.kernels import AnyMatrix, Int8Matrix, Matrix, PackedMatrix
from lmcourse.kernels.packed import join_groups, pack_words
from lmcourse.quant.packing import VALUES_PER_WORD, pack_columns, unpack_columns

__all__ = [
    "INT8_ROWS",
    "PLAIN",
    "AwqFormat",
    "Int8Format",
    "Leaf",
    "PackedFormat",
    "PlainFormat",
    "StoredAwq",
    "StoredInt8",
    "WeightFormat",
]

_CODES_PER_WORD = 4


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


class StoredInt8(NamedTuple):
    """A matrix in 8 bits as this course's checkpoints store it, rows as they are."""

    qweight: Tensor  # int8 [out, in], from -127 to 127
    row_scales: Tensor  # float32 [out, 1]

    @classmethod
    def round(cls, weight: Tensor) -> StoredInt8:
        """Every row on a grid of its own, symmetric around 0."""
        weight = weight.float()
        scales = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return cls((weight / scales).round().clamp(-127, 127).to(torch.int8), scales)


@dataclass(frozen=True)
class Int8Format:
    """Eight bits per weight and a scale per row: for a head (kernels/w8a16.py)."""

    def leaves(self, out_features: int, in_features: int) -> Mapping[str, Leaf]:
        """words and groups."""
        return {
            "words": Leaf((out_features, in_features // _CODES_PER_WORD), torch.int32),
            "groups": Leaf((out_features, 1), torch.int32),
        }

    def matrix(self, parameters: Mapping[str, Tensor], bias: Tensor | None) -> Int8Matrix:
        """An Int8Matrix; nothing is copied."""
        return Int8Matrix(
            parameters["words"].view(torch.int8), parameters["groups"].view(torch.float32).squeeze(1), bias
        )

    @staticmethod
    def words(qweight: Tensor) -> Tensor:
        """Stored codes → words, the same bytes."""
        return qweight.contiguous().view(torch.int32)

    @staticmethod
    def groups(row_scales: Tensor) -> Tensor:
        """Stored scales → groups, the same bytes."""
        return row_scales.contiguous().view(torch.int32)


INT8_ROWS = Int8Format()
PackedFormat: TypeAlias = AwqFormat | Int8Format
