"""RMS norm: y = x / sqrt(mean(x²) + eps) · weight, over the features of each token (arXiv 1910.07467 §3).

Activations grow from layer to layer; this puts each token's features back to unit root mean square, then lets the
model choose a scale per feature. `add_rms_norm` first adds what a layer produced to the residual stream, because the
sum is needed twice: normalised now, and as it is after the next layer.

Traffic, one token of InternLM2-1.8B (2048 features, 2 bytes):

    rms_norm                read x, write y                              8 KiB
    add, then rms_norm      read x, residual, sum; write sum, y         20 KiB
    add_rms_norm, fused     read x, residual; write sum, y              16 KiB

Numerics: squares, mean and product are float32 whatever the dtype; the result is rounded once, at the end.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, check_shape

__all__ = ["add_rms_norm", "add_rms_norm_reference", "rms_norm", "rms_norm_fused", "rms_norm_reference"]


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula, in float32."""
    x32 = x.float()
    inverse_rms = torch.rsqrt(x32.square().mean(dim=-1, keepdim=True) + eps)
    return (x32 * inverse_rms * weight.float()).to(x.dtype)


def rms_norm_fused(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same in one call of torch's, which is worth it where calls cost more than sums."""
    return torch.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum is rounded to the model's dtype before it is normalised: the residual stream is what was stored."""
    new_residual = x + residual
    return rms_norm_reference(new_residual, weight, eps), new_residual


_RMS_NORM = Operation(reference=rms_norm_reference, by_device={"cpu": rms_norm_fused})
_ADD_RMS_NORM = Operation(reference=add_rms_norm_reference)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x: [..., features], weight: [features]; ValueError if they do not fit."""
    check_shape("weight of rms_norm", weight, x.shape[-1:])
    return _RMS_NORM.form_for(x.device)(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x and residual: [..., features], weight: [features]; returns (normed, x + residual), neither in place."""
    check_shape("weight of add_rms_norm", weight, x.shape[-1:])
    check_shape("residual of add_rms_norm", residual, x.shape)
    return _ADD_RMS_NORM.form_for(x.device)(x, residual, weight, eps)
