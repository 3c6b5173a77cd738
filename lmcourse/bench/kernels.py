"""Each operation of a decoder by itself, its inputs from memory, beside what its bytes and FLOPs allow.

    rows     norm_qkv, project (output, down, head), norm_gate_up      for some numbers of tokens: weights are the bytes
             decode attention                                          requests × context: keys and values are the bytes
             add_norm, swiglu, argmax                                  many rows: what goes in and out is the bytes
             prefill attention                                         FLOPs, half a square

Lesson: 3 (what a step is made of)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lmcourse.bench.cold import time_cold
from lmcourse.bench.device import Limits
from lmcourse.bench.kernel_inputs import Inputs
from lmcourse.kernels import (
    Matrix,
    Norm,
    Rotation,
    Stream,
    add_norm,
    norm_gate_up,
    norm_qkv,
    project,
    ragged_attention,
    swiglu,
)
from lmcourse.kernels.sampling import argmax
from lmcourse.spec import ModelSpec

__all__ = [
    "MATRICES",
    "KernelCase",
    "KernelSizes",
    "KernelSpeed",
    "decode_case",
    "kernel_cases",
    "matrix_case",
    "measure_kernel",
    "prefill_case",
]

MATRICES = ("qkv", "output", "gate_up", "down", "head")


@dataclass(frozen=True)
class KernelCase:
    """One operation at one size; `make` builds the inputs that must be cold, `run` takes them."""

    name: str
    make: Callable[[], tuple[Any, ...]]
    run: Callable[..., object]
    num_bytes: float
    num_flops: float = 0


@dataclass(frozen=True)
class KernelSpeed:
    """Its time, and the least that the device's limits allow."""

    name: str
    microseconds: float
    spread: float  # µs, of the middle half
    num_bytes: float
    num_flops: float
    least_microseconds: float

    @property
    def fraction(self) -> float:
        """How much of the limit is reached; above 1 where reading alone is faster than copying."""
        return self.least_microseconds / self.microseconds

    def __str__(self) -> str:
        rate = f"{self.num_bytes / self.microseconds / 1e3:8,.0f} GB/s    "
        if self.num_flops:
            rate = f"{self.num_flops / self.microseconds / 1e6:8.3g} TFLOP/s"
        return f"{self.name:36}{self.microseconds:10.2f} µs ± {self.spread:<7.2f}{rate}{self.fraction:8.2f}"

    def to_json(self) -> dict[str, Any]:
        """Four digits."""
        row = {"us": self.microseconds, "spread_us": self.spread, "fraction": self.fraction}
        work = {"bytes": self.num_bytes} | ({"flops": self.num_flops} if self.num_flops else {})
        return {"name": self.name, **{key: float(f"{value:.4g}") for key, value in (row | work).items()}}


@dataclass(frozen=True)
class KernelSizes:
    """What is timed."""

    num_tokens: Sequence[int] = (1, 2, 8, 16, 64)
    decodes: Sequence[tuple[int, int]] = ((1, 256), (1, 1024), (8, 256), (8, 1024), (64, 256), (64, 1024), (256, 256))
    prefills: Sequence[int] = (1024, 4096)
    num_rows: int = 4096  # of add_norm and swiglu


def measure_kernel(case: KernelCase, device: torch.device, limits: Limits) -> KernelSpeed:
    """Time one case."""
    repeats = 15 if device.type == "cuda" else 5
    microseconds, spread = time_cold(case.make, case.run, case.num_bytes, device, repeats=repeats)
    least = max(case.num_bytes / limits.copy, case.num_flops / limits.matmul) * 1e6
    return KernelSpeed(case.name, microseconds, spread, case.num_bytes, case.num_flops, least)


def kernel_cases(spec: ModelSpec, inputs: Inputs, sizes: KernelSizes = KernelSizes()) -> Iterator[KernelCase]:
    """All of them, one at a time: a case's inputs are freed before the next is made."""
    for num_tokens in sizes.num_tokens:
        for kind in MATRICES:
            yield matrix_case(kind, spec, num_tokens, inputs)
    for num_requests, context in sizes.decodes:
        yield decode_case(spec, num_requests, context, inputs)
    for num_tokens in sizes.prefills:
        yield prefill_case(spec, num_tokens, inputs)
    yield from _streaming_cases(spec, sizes.num_rows, inputs)


def matrix_case(kind: str, spec: ModelSpec, num_tokens: int, inputs: Inputs) -> KernelCase:
    """One operation with a matrix: qkv | output | gate_up | down | head."""
    hidden, heads = spec.hidden, spec.num_heads + 2 * spec.num_kv_heads
    rows, width = {
        "qkv": (heads * spec.head_dim, hidden), "output": (hidden, spec.num_heads * spec.head_dim),
        "gate_up": (2 * spec.intermediate, hidden), "down": (hidden, spec.intermediate), "head": (spec.vocab, hidden),
    }[kind]  # fmt: skip
    stream = Stream(inputs.tensor(num_tokens, hidden), inputs.tensor(1, num_tokens, hidden))
    norm = Norm(inputs.tensor(hidden), 1e-5)
    x = inputs.tensor(num_tokens, width)
    batch, num_blocks = inputs.batch([300] * num_tokens)
    (kv,) = inputs.kv(num_blocks, spec)
    angles = (num_tokens, spec.head_dim // 2)
    rotation = Rotation(*(inputs.tensor(*angles, dtype=torch.float32) for _ in range(2)))
    runs: dict[str, Callable[[Any], object]] = {
        "qkv": lambda weight: norm_qkv(stream, norm, Matrix(weight), rotation, kv, batch.slots),
        "gate_up": lambda weight: norm_gate_up(stream, norm, Matrix(weight)),
        "head": lambda weight: project(x, Matrix(weight), torch.float32),
    }
    run = runs.get(kind, lambda weight: project(x, Matrix(weight)))
    num_bytes = rows * width * inputs.dtype.itemsize
    return KernelCase(f"{kind}, {num_tokens} tokens", lambda: (inputs.tensor(rows, width),), run, num_bytes)


def decode_case(spec: ModelSpec, num_requests: int, context: int, inputs: Inputs) -> KernelCase:
    """Attention of one new token each, over `context` cached ones."""
    batch, num_blocks = inputs.batch([context] * num_requests)
    q = inputs.tensor(num_requests, spec.num_heads, spec.head_dim)
    num_bytes = 2 * inputs.dtype.itemsize * num_requests * context * spec.num_kv_heads * spec.head_dim
    scale = spec.head_dim**-0.5
    return KernelCase(
        f"decode attention, {num_requests} × {context}",
        lambda: inputs.kv(num_blocks, spec),
        lambda layer: ragged_attention(q, layer, batch, scale),
        num_bytes,
    )


def prefill_case(spec: ModelSpec, num_tokens: int, inputs: Inputs) -> KernelCase:
    """Causal attention of a whole prompt."""
    batch, num_blocks = inputs.batch([num_tokens], new=num_tokens)
    q = inputs.tensor(num_tokens, spec.num_heads, spec.head_dim)
    num_bytes = inputs.dtype.itemsize * 2 * num_tokens * (spec.num_heads + spec.num_kv_heads) * spec.head_dim
    scale = spec.head_dim**-0.5
    return KernelCase(
        f"prefill attention, {num_tokens}",
        lambda: inputs.kv(num_blocks, spec),
        lambda layer: ragged_attention(q, layer, batch, scale),
        num_bytes,
        2.0 * spec.num_heads * spec.head_dim * num_tokens**2,
    )


def _streaming_cases(spec: ModelSpec, num_rows: int, inputs: Inputs) -> Iterator[KernelCase]:
    """What only passes data through."""
    norm, itemsize = Norm(inputs.tensor(spec.hidden), 1e-5), inputs.dtype.itemsize
    yield KernelCase(
        f"add_norm, {num_rows} tokens",
        lambda: (Stream(inputs.tensor(num_rows, spec.hidden), inputs.tensor(1, num_rows, spec.hidden)),),
        lambda stream: add_norm(stream, norm),
        4 * itemsize * num_rows * spec.hidden,
    )
    yield KernelCase(
        f"swiglu, {num_rows} tokens",
        lambda: (inputs.tensor(num_rows, 2 * spec.intermediate),),
        swiglu,
        3 * itemsize * num_rows * spec.intermediate,
    )
    yield KernelCase(
        "argmax, 256 tokens",
        lambda: (inputs.tensor(256, spec.vocab, dtype=torch.float32),),
        argmax,
        4 * 256 * spec.vocab,
    )
