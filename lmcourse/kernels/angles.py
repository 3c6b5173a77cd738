"""Angles: cos and sin of position · frequency, for each token and feature pair; once a step, for all layers.

Feature pair i of the d features that turn has frequency base^(-2i / d); the other pairs of a head have angle 0. The
rules, by RotarySpec.scaling, with n the turns that a pair makes in the trained context:

    None       as trained
    linear     position / factor: more positions squeezed into the trained range
    dynamic    NTK-aware: beyond trained_context the base grows with the length L that the token is rotated for,
               base · growth^(d / (d - 2)), growth = factor · L / trained_context - (factor - 1)
    stepped    QWen's: growth = 2^ceil(log2(L / trained_context) + 1) - 1, at least 1
    llama3     pairs of n > fast_turns keep their frequency, those of n < slow_turns divide it by factor, others blend
    yarn       the same with a blend even in the number of the pair (arXiv 2309.00071 §3.2)

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

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, wait_for_inputs
from lmcourse.kernels.operands import Rotation
from lmcourse.spec import RotarySpec

__all__ = ["angles", "angles_reference", "angles_remembered", "angles_triton"]


def angles_reference(positions: Tensor, rotary_lens: Tensor, spec: RotarySpec, head_dim: int) -> Rotation:
    """The formula, in float32."""
    return _turn(positions, _frequencies(rotary_lens, spec, head_dim), spec, head_dim)


def _frequencies(rotary_lens: Tensor, spec: RotarySpec, head_dim: int) -> Tensor:
    """Of the pairs that turn: [pairs], or [num_tokens, pairs] where they follow the length."""
    turned = spec.turned(head_dim)
    exponents = torch.arange(0, turned, 2, device=rotary_lens.device).float() / max(1, turned)
    if spec.follows_length:
        growth = _GROWTHS[str(spec.scaling)](rotary_lens.clamp(min=spec.trained_context).float(), spec)
        base = spec.base * growth ** (turned / (turned - 2))
        frequencies = 1.0 / base[:, None] ** exponents
    else:
        frequencies = 1.0 / spec.base**exponents
    if spec.scaling in _KEPT:
        kept = _KEPT[spec.scaling](frequencies, spec, turned)
        frequencies = frequencies * (kept + (1 - kept) / spec.factor)
    elif spec.scaling == "linear":
        frequencies = frequencies / spec.factor
    return frequencies


def _turn(positions: Tensor, frequencies: Tensor, spec: RotarySpec, head_dim: int) -> Rotation:
    turns = positions.float()[:, None] * frequencies
    if still := head_dim // 2 - turns.shape[1]:
        turns = pad(turns, (0, still))
    cos, sin = turns.cos(), turns.sin()
    return Rotation(cos, sin) if spec.amplitude == 1 else Rotation(cos * spec.amplitude, sin * spec.amplitude)


def angles_remembered(positions: Tensor, rotary_lens: Tensor, spec: RotarySpec, head_dim: int) -> Rotation:
    """On a CPU, where a step of a small model is mostly small calls: frequencies that never change are kept."""
    frequencies = _frequencies(rotary_lens, spec, head_dim) if spec.follows_length else _fixed(spec, head_dim)
    return _turn(positions, frequencies, spec, head_dim)


@functools.lru_cache(maxsize=16)
def _fixed(spec: RotarySpec, head_dim: int) -> Tensor:
    return _frequencies(torch.empty(0, device="cpu"), spec, head_dim)


_GROWTHS: Mapping[str, Callable[[Tensor, RotarySpec], Tensor]] = {
    "dynamic": lambda length, spec: spec.factor * length / spec.trained_context - (spec.factor - 1),
    "stepped": lambda length, spec: 2 ** torch.ceil(torch.log2(length / spec.trained_context) + 1) - 1,
}


def _kept_by_turns(frequencies: Tensor, spec: RotarySpec, turned: int) -> Tensor:
    """How much of each pair's frequency llama3 keeps, 0 to 1."""
    turns = frequencies * (spec.trained_context / (2 * math.pi))
    return ((turns - spec.slow_turns) / (spec.fast_turns - spec.slow_turns)).clamp(0, 1)


def _kept_by_pair(frequencies: Tensor, spec: RotarySpec, turned: int) -> Tensor:
    """How much of each pair's frequency yarn keeps, 0 to 1; the ends of the blend are whole pairs."""

    def pair_of(turns: float) -> float:
        return turned * math.log(spec.trained_context / (turns * 2 * math.pi)) / (2 * math.log(spec.base))

    first, last = max(math.floor(pair_of(spec.fast_turns)), 0), min(math.ceil(pair_of(spec.slow_turns)), turned - 1)
    pairs = torch.arange(turned // 2, device=frequencies.device, dtype=torch.float32)
    return 1 - ((pairs - first) / max(last - first, 1e-3)).clamp(0, 1)


_KEPT: Mapping[str | None, Callable[[Tensor, RotarySpec, int], Tensor]] = {
    "llama3": _kept_by_turns,
    "yarn": _kept_by_pair,
}


@jit
def _angles_kernel(
    positions_ptr,
    lens_ptr,
    cos_ptr,
    sin_ptr,
    LOG2_BASE: tl.constexpr,
    FACTOR: tl.constexpr,
    TRAINED: tl.constexpr,
    SCALING: tl.constexpr,
    TURNED: tl.constexpr,
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
    if SCALING == "dynamic" or SCALING == "stepped":
        length = tl.maximum(tl.load(lens_ptr + token), TRAINED).to(tl.float64)
        if SCALING == "dynamic":
            growth = factor * length / TRAINED - (factor - 1)
        else:
            growth = tl.math.exp2(tl.math.ceil(tl.math.log2(length / TRAINED) + 1)) - 1
        log2_base += tl.math.log2(growth) * TURNED / (TURNED - 2)
    frequencies = tl.math.exp2(log2_base * (pairs * -2).to(tl.float64) / (TURNED if TURNED else 1))
    if SCALING == "linear":
        frequencies = frequencies / factor
    turns = tl.where(pairs < TURNED // 2, position * frequencies.to(tl.float32), 0.0)
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
            SCALING=spec.scaling, TURNED=spec.turned(head_dim), HEAD_DIM=head_dim, TILE=next_power(half),
            num_warps=1, **launch_options(positions.device),
        )  # fmt: skip
    return Rotation(cos, sin)


_ANGLES = Operation(
    reference=angles_reference, by_device={"cpu": angles_remembered}, triton=(UpTo(math.inf, angles_triton),)
)
# llama3, yarn: a dozen small launches a step
_BLENDED = Operation(reference=angles_reference, by_device={"cpu": angles_remembered})


def angles(positions: Tensor, rotary_lens: Tensor, spec: RotarySpec, head_dim: int) -> Rotation:
    """positions and rotary_lens: int64 [num_tokens]; both results float32 [num_tokens, head_dim / 2]."""
    operation = _BLENDED if spec.scaling in _KEPT else _ANGLES
    return operation.form_for(positions.device)(positions, rotary_lens, spec, head_dim)
