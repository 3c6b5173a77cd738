"""W4A16: out[t, n] = Σ_k x[t, k] · (q[n, k] − zero[n, g]) · scale[n, g], weights of 4 bits read as they are stored.

Lesson: 4 (the kernel, line by line)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmcourse.kernels.dispatch import Operation
from lmcourse.kernels.operands import PackedMatrix
from lmcourse.kernels.packed import unpack_matrix

__all__ = ["W4A16_PROJECT", "w4a16_reference"]


def w4a16_reference(x: Tensor, matrix: PackedMatrix, dtype: torch.dtype | None = None) -> Tensor:
    """Unpack, then torch's own product, in one part."""
    return linear(x, unpack_matrix(matrix, x.dtype), matrix.bias)[None].to(dtype or x.dtype)


W4A16_PROJECT: Operation[..., Tensor] = Operation(reference=w4a16_reference)
