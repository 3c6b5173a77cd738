"""Arranged weights: y = x · weightᵀ + bias on a processor, with the weight in the order in which oneDNN reads it.

A product's inner loop wants a small tile of the weight in one run of memory. A library that is handed rows copies each
tile into such runs first, for every call, and of a few tokens' product that copy is most of the work:

    torch's product     each call: weight ──copied, tile by tile──▶ runs ──▶ sums
    arranged            once:      weight ──copied, tile by tile──▶ runs;    each call: runs ──▶ sums

oneDNN writes machine code for each number of tokens that it meets, half a megabyte for each weight's shape, and keeps
it. So tokens come in few sizes: at most 256 at a time, filled up with zeros to the next of 19 sizes:

    300 tokens ──▶ 256 and 44 ──▶ 256 and 44 + 4 of zeros

Traffic: the weight once for 256 tokens, either way of the same size; the copy's reading and writing go.

Numerics: float32 as torch's own, summed in another order.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from lmcourse.kernels.lang import is_interpreting
from lmcourse.kernels.operands import Matrix

__all__ = ["arrange_weight", "project_arranged"]

_USUAL_TOKENS = 16  # of a step on a processor; others' products are right, too
_SIZES = (1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 257, 32))


def arrange_weight(weight: Tensor) -> Tensor:
    """[out_features, in_features], arranged, for `project` alone; as it is where oneDNN is not, or no float32."""
    if weight.device.type != "cpu" or weight.dtype is not torch.float32 or weight.is_mkldnn or is_interpreting():
        return weight
    if not torch.backends.mkldnn.is_available():
        return weight
    arranged: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _USUAL_TOKENS)
    return arranged


def project_arranged(x: Tensor, matrix: Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """As project_reference, whether the weight is arranged or not."""
    if not matrix.weight.is_mkldnn:
        return linear(x, matrix.weight, matrix.bias)[None].to(dtype or x.dtype)
    most = _SIZES[-1]
    if x.shape[0] <= most:
        return _project_piece(x, matrix)[None].to(dtype or x.dtype)
    out = x.new_empty((x.shape[0], matrix.shape[0]), dtype=dtype or x.dtype)
    for start in range(0, x.shape[0], most):
        out[start : start + most] = _project_piece(x[start : start + most], matrix)
    return out[None]


def _project_piece(x: Tensor, matrix: Matrix) -> Tensor:
    num_tokens = x.shape[0]
    missing = _SIZES[bisect_left(_SIZES, num_tokens)] - num_tokens
    filled = pad(x, (0, 0, 0, missing)) if missing else x
    out: Tensor = torch.ops.mkldnn._linear_pointwise(filled, matrix.weight, matrix.bias, "none", [], "")
    return out[:num_tokens] if missing else out
