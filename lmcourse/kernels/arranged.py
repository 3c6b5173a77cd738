"""Arranged weights: y = x · weightᵀ + bias on a processor, with the weight in the order in which oneDNN reads it.

A product's inner loop wants a small tile of the weight in one run of memory. A library that is handed rows copies each
tile into such runs first, for every call, and of a few tokens' product that copy is most of the work:

    torch's product     each call: weight ──copied, tile by tile──▶ runs ──▶ sums
    arranged            once:      weight ──copied, tile by tile──▶ runs;    each call: runs ──▶ sums

Traffic: the weight once, either way of the same size; the copy's reading and writing go.

Numerics: float32 as torch's own, summed in another order.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmcourse.kernels.lang import is_interpreting
from lmcourse.kernels.operands import Matrix

__all__ = ["arrange_weight", "project_arranged"]

_USUAL_TOKENS = 16  # of a step on a processor; others' products are right, too


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
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix.weight, matrix.bias, "none", [], "")
    return out[None].to(dtype or x.dtype)
