"""Angles: cos and sin of position · frequency, for each token and feature pair; once a step, for all layers.

Feature pair i of head_dim / 2 turns by position · base^(-2i / head_dim). Three rules, by RotarySpec.scaling:

    None       as trained
    linear     position / factor: more positions squeezed into the trained range
    dynamic    NTK-aware: beyond trained_context the base grows with the length L that the token is rotated for,
               base · (factor · L / trained_context - (factor - 1)) ^ (head_dim / (head_dim - 2))

L comes with each token (`rotary_lens`: the whole prompt's length, or the context if longer), so that a prompt computed
in chunks turns as if computed at once, and requests of one batch do not disturb each other.

Traffic, one token, head_dim 128: read 16 bytes, write 512: nothing but a launch, or nine of them in plain torch.

    program t   token t, all pairs: log2 of its base → frequencies → angles → cos, sin

Numerics: the frequency is rounded to float32 and so is the angle, as in every checkpoint's own code: at position 5000
float32 angles lie 5e-4 apart. The kernel takes the power in float64, since a fast float32 exp2 would cost a digit more.

Measured: `python benchmarks/kernels_gpu steps`, as part of a step.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, wait_for_inputs
from lmcourse.kernels.operands import Rotation
from lmcourse.spec import RotarySpec

__all__ = ["angles", "angles_reference", "angles_triton"]


def angles_reference(positions: Tensor, rotary_lens: Tensor, spec: RotarySpec, head_dim: int) -> Rotation:
    """The formula, in float32."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    if spec.scaling == "dynamic":
        length = rotary_lens.clamp(min=spec.trained_context).float()
        growth = spec.factor * length / spec.trained_context - (spec.factor - 1)
        base = spec.base * growth ** (head_dim / (head_dim - 2))
        frequencies = 1.0 / base[:, None] ** exponents
    else:
        frequencies = 1.0 / spec.base**exponents
    if spec.scaling == "linear":
        frequencies = frequencies / spec.factor
    turns = positions.float()[:, None] * frequencies
    return Rotation(turns.cos(), turns.sin())


@jit
def _angles_kernel(
    positions_ptr,
    lens_ptr,
    cos_ptr,
    sin_ptr,
    LOG2_BASE: tl.constexpr,
    FACTOR: tl.constexpr,
    TRAINED: tl.constexpr,
    DYNAMIC: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: all pairs of one token
    token = tl.program_id(0).to(tl.int64)
    pairs = tl.arange(0, TILE)
    m_pairs = pairs < HEAD_DIM // 2
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load
    position = tl.load(positions_ptr + token).to(tl.float32)
    log2_base = tl.full((TILE,), LOG2_BASE, dtype=tl.float64)
    factor = tl.full((TILE,), FACTOR, dtype=tl.float64)
    # compute
    if DYNAMIC:
        length = tl.maximum(tl.load(lens_ptr + token), TRAINED).to(tl.float64)
        growth = factor * length / TRAINED - (factor - 1)
        log2_base += tl.math.log2(growth) * HEAD_DIM / (HEAD_DIM - 2)
    frequencies = tl.math.exp2(log2_base * (pairs * -2).to(tl.float64) / HEAD_DIM)
    if not DYNAMIC:
        frequencies = frequencies / factor
    turns = position * frequencies.to(tl.float32)
    tl.static_assert(turns.shape == (TILE,))
    # store
    at = token * (HEAD_DIM // 2) + pairs
    tl.store(cos_ptr + at, tl.cos(turns), mask=m_pairs)
    tl.store(sin_ptr + at, tl.sin(turns), mask=m_pairs)


def angles_triton(positions: Tensor, rotary_lens: Tensor, spec: RotarySpec, head_dim: int) -> Rotation:
    """One launch."""
    num_tokens, half = positions.shape[0], head_dim // 2
    cos, sin = (torch.empty((num_tokens, half), dtype=torch.float32, device=positions.device) for _ in "cs")
    if num_tokens:
        _angles_kernel[(num_tokens,)](
            positions, rotary_lens, cos, sin,
            LOG2_BASE=math.log2(spec.base), FACTOR=spec.factor if spec.scaling else 1.0, TRAINED=spec.trained_context,
            DYNAMIC=spec.scaling == "dynamic", HEAD_DIM=head_dim, TILE=next_power(half),
            num_warps=1, **launch_options(positions.device),
        )  # fmt: skip
    return Rotation(cos, sin)


_ANGLES = Operation(reference=angles_reference, triton=(UpTo(math.inf, angles_triton),))


def angles(positions: Tensor, rotary_lens: Tensor, spec: RotarySpec, head_dim: int) -> Rotation:
    """positions and rotary_lens: int64 [num_tokens]; both results float32 [num_tokens, head_dim / 2]."""
    return _ANGLES.form_for(positions.device)(positions, rotary_lens, spec, head_dim)
