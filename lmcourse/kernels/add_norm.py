"""Sum and norm: residual' = residual + Σ parts;  y = residual' / sqrt(mean(residual'²) + eps) · weight.

The residual stream is wanted twice: normalised now, and as it is after the next matrix. Taking the sum here, where its
result is read anyway, saves a pass over it; taking the splits of a split matrix here saves a launch.

Traffic, one token of InternLM2-1.8B (2048 features, 2 bytes):

    add, then norm                read part, residual, sum; write sum, y         20 KiB
    add_norm                      read part, residual; write sum, y              16 KiB
    add_norm, four float32 parts  the same with four times twice the part        44 KiB

16 KiB a token at 4.2 TB/s: 16 µs for 4096 tokens. A CentredNorm first takes the mean of a row away, and may add a bias
(layer norm, arXiv 1607.06450 §3.1): Falcon and Dbrx.

    program t   residual [t, :]  +  parts [0, t, :] + parts [1, t, :] + …   →   residual' [t, :], y [t, :]

Numerics: the sum is rounded to the model's dtype before it is normalised: the residual stream is what was stored.
Squares, mean and product are float32; y is rounded once.

Measured (benchmarks/kernels_gpu, H100): 4096 tokens 23.8 µs, 2.82 TB/s.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.lang import (
    jit,
    jit_varying,
    launch_options,
    let_next_start,
    load_row,
    next_power,
    store_row,
    tl,
    wait_for_inputs,
)
from lmcourse.kernels.operands import AnyNorm, CentredNorm, Stream, sum_stream
from lmcourse.kernels.rms_norm import rms_norm

__all__ = ["add_norm", "add_norm_reference", "add_norm_triton", "norm_row", "normalise_row", "sum_row"]

_WIDEST = 65536


def add_norm_reference(stream: Stream, norm: AnyNorm) -> tuple[Tensor, Tensor]:
    """(normed, residual)."""
    residual = sum_stream(stream)
    if isinstance(norm, CentredNorm):
        bias = None if norm.bias is None else norm.bias.float()
        normed = layer_norm(residual.float(), residual.shape[-1:], norm.weight.float(), bias, norm.eps)
        return normed.to(residual.dtype), residual
    return rms_norm(residual, norm.weight, norm.eps), residual


@jit
def sum_row(
    residual_ptr, parts_ptr, token, at, num_tokens, NUM_PARTS: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr
):
    """One token of the stream's sum, as float32 values that the residual's dtype holds."""
    row = tl.cast(token, tl.int64)
    b_sum = load_row(residual_ptr + row * WIDTH, at, WIDTH, TILE).to(tl.float32)
    for part in tl.static_range(NUM_PARTS):
        b_sum += load_row(parts_ptr + (part * num_tokens + row) * WIDTH, at, WIDTH, TILE).to(tl.float32)
    return b_sum.to(residual_ptr.dtype.element_ty).to(tl.float32)


@jit
def normalise_row(b_row, b_weight, eps, WIDTH: tl.constexpr):
    """float32 in, float32 out."""
    return b_row * tl.math.rsqrt(tl.sum(b_row * b_row, axis=0) / WIDTH + eps) * b_weight


@jit
def _centre_row(b_row, at, WIDTH: tl.constexpr):
    """The row less its mean; 0 beyond WIDTH, as before."""
    return tl.where(at < WIDTH, b_row - tl.sum(b_row, axis=0) / WIDTH, 0.0)


@jit
def norm_row(b_row, b_weight, bias_ptr, at, eps, CENTRED: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """`normalise_row` of either norm; bias_ptr None: without a bias."""
    if CENTRED:
        b_row = _centre_row(b_row, at, WIDTH)
    b_normed = normalise_row(b_row, b_weight, eps, WIDTH)
    if bias_ptr is not None:
        b_normed += load_row(bias_ptr, at, WIDTH, TILE).to(tl.float32)
    return b_normed


@jit_varying("num_tokens")
def _add_norm_kernel(
    residual_ptr,
    parts_ptr,
    weight_ptr,
    bias_ptr,
    normed_ptr,
    sum_ptr,
    num_tokens,
    eps,
    NUM_PARTS: tl.constexpr,
    CENTRED: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: one token
    token = tl.program_id(0)
    at = tl.arange(0, TILE)
    # load
    b_weight = load_row(weight_ptr, at, WIDTH, TILE).to(tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    b_sum = sum_row(residual_ptr, parts_ptr, token, at, num_tokens, NUM_PARTS, WIDTH, TILE)
    tl.static_assert(b_sum.shape == (TILE,))
    # compute
    b_normed = norm_row(b_sum, b_weight, bias_ptr, at, eps, CENTRED, WIDTH, TILE)
    # store
    store_row(sum_ptr + token.to(tl.int64) * WIDTH, at, b_sum, WIDTH, TILE)
    store_row(normed_ptr + token.to(tl.int64) * WIDTH, at, b_normed, WIDTH, TILE)


def add_norm_triton(stream: Stream, norm: AnyNorm) -> tuple[Tensor, Tensor]:
    """One program per token."""
    residual, parts = stream
    num_tokens, width = residual.shape
    normed, total = torch.empty_like(residual), torch.empty_like(residual)
    tile, centred = next_power(width), isinstance(norm, CentredNorm)
    _add_norm_kernel[(num_tokens,)](
        residual, parts, norm.weight, norm.bias, normed, total, num_tokens, norm.eps,
        NUM_PARTS=parts.shape[0], CENTRED=centred, WIDTH=width, TILE=tile,
        num_warps=min(16, max(1, tile // 512)), **launch_options(residual.device),
    )  # fmt: skip
    return normed, total


_ADD_NORM = Operation(reference=add_norm_reference, triton=(UpTo(float("inf"), add_norm_triton),))


def add_norm(stream: Stream, norm: AnyNorm) -> tuple[Tensor, Tensor]:
    """(normed, residual), both [num_tokens, hidden] and new."""
    num_tokens, width = stream.residual.shape
    check_shape("weight of add_norm", norm.weight, (width,))
    check_shape("parts of add_norm", stream.parts, (stream.parts.shape[0], num_tokens, width))
    if num_tokens == 0 or width > _WIDEST:
        return add_norm_reference(stream, norm)
    return _ADD_NORM.form_for(stream.residual.device, dtype=stream.residual.dtype)(stream, norm)
