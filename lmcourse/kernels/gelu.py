"""GELU: y = x · Φ(x), with Φ the share of a normal distribution below x (arXiv 1606.08415 §2); alone or as a gate.

    exact     Φ(x) = (1 + erf(x / √2)) / 2                             Falcon
    tanh      Φ(x) ≈ (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2        Gemma, whose MLP gates: y = gelu(gate) · up

Traffic, one token of Gemma-2B (intermediate 16384, 2 bytes): read gate and up, 64 KiB, write 32 KiB.

    program (t, p)   token t, TILE of its features: x[i], and where it gates x[i + width] too

Numerics: float32 inside, rounded once.

Lesson: 8 (what differs between families)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, triton, wait_for_inputs

__all__ = ["bend", "geglu", "geglu_tanh", "gelu", "gelu_reference", "gelu_tanh", "gelu_triton"]


def gelu_reference(x: Tensor, *, tanh: bool, gates: bool) -> Tensor:
    """The formula, in float32; gates: the second half of the features is multiplied by the first, activated."""
    first, *second = x.float().chunk(2, dim=-1) if gates else (x.float(),)
    activated = functional.gelu(first, approximate="tanh" if tanh else "none")
    return (activated * second[0] if gates else activated).to(x.dtype)


@jit
def bend(b_x, TANH: tl.constexpr):
    """gelu of a float32 tile."""
    if TANH:  # (1 + tanh(z)) / 2 is 1 / (1 + exp(-2z))
        b_y = b_x / (1.0 + tl.exp(-1.5957691216057308 * (b_x + 0.044715 * b_x * b_x * b_x)))
    else:
        b_y = b_x * 0.5 * (1.0 + tl.erf(b_x * 0.7071067811865476))
    return b_y


@jit
def _gelu_kernel(
    x_ptr, out_ptr, WIDTH: tl.constexpr, TANH: tl.constexpr, GATES: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr
):
    # which tile am I: TILE features of one token
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    m_at = at < WIDTH
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load
    source = x_ptr + token * (2 * WIDTH if GATES else WIDTH) + at
    b_x = tl.load(source, mask=m_at, other=0.0).to(tl.float32)
    tl.static_assert(b_x.shape == (TILE,))
    # compute
    b_y = bend(b_x, TANH)
    if GATES:
        b_y *= tl.load(source + WIDTH, mask=m_at, other=0.0).to(tl.float32)
    # store
    tl.store(out_ptr + token * WIDTH + at, b_y.to(out_ptr.dtype.element_ty), mask=m_at)


def gelu_triton(x: Tensor, *, tanh: bool, gates: bool) -> Tensor:
    """One program per token and 2048 features."""
    num_tokens, features = x.shape
    width = features // 2 if gates else features
    out = torch.empty((num_tokens, width), dtype=x.dtype, device=x.device)
    tile = min(2048, next_power(width))
    if out.numel():
        _gelu_kernel[(num_tokens, triton.cdiv(width, tile))](
            x.contiguous(), out, WIDTH=width, TANH=tanh, GATES=gates, TILE=tile,
            num_warps=4, **launch_options(x.device),
        )  # fmt: skip
    return out


_GELU = Operation(reference=gelu_reference, triton=(UpTo(float("inf"), gelu_triton),))


def _gelu(x: Tensor, *, tanh: bool, gates: bool) -> Tensor:
    """x: [num_tokens, features]; half as many features where it gates."""
    return _GELU.form_for(x.device, dtype=x.dtype)(x, tanh=tanh, gates=gates)


gelu: Callable[[Tensor], Tensor] = partial(_gelu, tanh=False, gates=False)
gelu_tanh: Callable[[Tensor], Tensor] = partial(_gelu, tanh=True, gates=False)
geglu: Callable[[Tensor], Tensor] = partial(_gelu, tanh=False, gates=True)
geglu_tanh: Callable[[Tensor], Tensor] = partial(_gelu, tanh=True, gates=True)
