"""Triton where there is Triton, and the launches that do not wait for each other.

There are Triton wheels for Linux only, so its names come from here: without it a kernel is a plain function that
nothing calls, and dispatch.py finds the reference. TRITON_INTERPRET=1, set before the first import of triton, runs
every kernel on CPU tensors, one program after another, in numpy.

Programmatic dependent launch (sm_90) starts a kernel before the one ahead of it in the stream has ended:

    kernel A   launch │ load weights │ wait │ compute, store │
    kernel B              launch │ load weights │ … wait … │ compute, store │

Before `wait_for_inputs` a kernel may read what no kernel of the step writes (weights, block tables, positions, cached
keys and values of earlier steps); after it, everything. Every program waits, so what a kernel has waited for has
itself waited for all that came before.

Lesson: 3 (one step, five launches a layer)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheels for this platform
    triton = tl = None

__all__ = [
    "capability",
    "has_triton",
    "is_interpreting",
    "jit",
    "jit_varying",
    "launch_options",
    "let_next_start",
    "load_row",
    "load_tile",
    "next_power",
    "shared_kib",
    "store_row",
    "tl",
    "triton",
    "wait_for_inputs",
]


def jit(function: Callable[..., Any]) -> Any:
    """triton.jit, or the function itself where there is no Triton."""
    return function if triton is None else triton.jit(function)


def jit_varying(*names: str) -> Callable[[Callable[..., Any]], Any]:
    """`jit` for a kernel whose arguments of these names change from launch to launch.

    Of other numbers, Triton compiles a variant for 1 and one for multiples of 16.
    """
    return jit if triton is None else triton.jit(do_not_specialize=list(names))


def has_triton() -> bool:
    """Whether kernels can be compiled here."""
    return triton is not None


def is_interpreting() -> bool:
    """Whether kernels run on the CPU, in Triton's interpreter."""
    return triton is not None and bool(triton.knobs.runtime.interpret)


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """(major, minor) of a CUDA device; (0, 0) of anything else."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def shared_kib(device: torch.device) -> int:
    """Shared memory that one program may have."""
    return {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227}.get(capability(device), 99)


def launch_options(device: torch.device) -> dict[str, bool]:
    """Keywords of a launch: dependent on sm_90 and later, plain elsewhere."""
    dependent = capability(device) >= (9, 0) and not is_interpreting()
    return {"PDL": dependent, "launch_pdl": True} if dependent else {"PDL": False}


def next_power(count: int) -> int:
    """The smallest power of two that is not below count."""
    return 1 << max(0, count - 1).bit_length()


@jit
def wait_for_inputs(PDL: tl.constexpr):
    """What the kernels ahead have stored is there."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@jit
def let_next_start(PDL: tl.constexpr):
    """The next kernel may take what this one leaves of the machine; it still waits for this one's results."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@jit
def load_row(row_ptr, at, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """row[at], 0 beyond WIDTH; without a mask where the tile is as wide as the row."""
    if WIDTH == TILE:  # noqa: SIM108 (decided when the kernel is compiled)
        b_row = tl.load(row_ptr + at)
    else:
        b_row = tl.load(row_ptr + at, mask=at < WIDTH, other=0.0)
    return b_row


@jit
def load_tile(pointers, m_first, m_second, MASK_FIRST: tl.constexpr, MASK_SECOND: tl.constexpr):
    """A 2-D tile, 0 where a mask says so; an axis that needs none costs no instructions."""
    if MASK_FIRST and MASK_SECOND:
        b_tile = tl.load(pointers, mask=m_first[:, None] & m_second[None, :], other=0.0)
    elif MASK_FIRST:
        b_tile = tl.load(pointers, mask=m_first[:, None], other=0.0)
    elif MASK_SECOND:
        b_tile = tl.load(pointers, mask=m_second[None, :], other=0.0)
    else:
        b_tile = tl.load(pointers)
    return b_tile


@jit
def store_row(row_ptr, at, b_row, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """row[at] = b_row in the row's dtype."""
    if WIDTH == TILE:
        tl.store(row_ptr + at, b_row.to(row_ptr.dtype.element_ty))
    else:
        tl.store(row_ptr + at, b_row.to(row_ptr.dtype.element_ty), mask=at < WIDTH)
