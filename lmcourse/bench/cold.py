"""How long one call takes when its inputs come from memory and not from a cache.

A model's weights pass by once a step, so whatever a cache keeps of them is gone when their turn comes again. A timing
that repeats one call on one matrix measures the cache instead. Here calls go round over copies:

    call 1 on copy 1 · call 2 on copy 2 · … · call n on copy n        together at least COLD_BYTES, > any L2 cache

On CUDA a round is captured in a graph, so that launches cost what they cost inside a decode step.

Lesson: 3 (what a step is made of)
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["COLD_BYTES", "time_call", "time_cold"]

COLD_BYTES = 220e6  # several times the largest L2 cache (H200: 60 MB)


def time_call(function: Callable[[], object], device: torch.device, *, repeats: int = 15) -> tuple[float, float]:
    """(median, spread of the middle half), µs of one call: of a graph's replay on CUDA."""
    run = _captured(function) if device.type == "cuda" else function
    for _ in range(3):
        run()
    times = [_microseconds(run, device) for _ in range(repeats)]
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, high - low


def time_cold(
    make: Callable[[], tuple[Any, ...]],
    run: Callable[..., object],
    num_bytes: float,
    device: torch.device,
    *,
    repeats: int = 15,
) -> tuple[float, float]:
    """(median, spread), µs of one `run(*inputs)`; `make` builds one set of inputs, of which a call reads num_bytes."""
    most = 64 if device.type == "cuda" else 8  # a CPU is slow, and its caches hold a model's small matrices anyway
    sets = [make() for _ in range(min(most, max(2, math.ceil(COLD_BYTES / max(1, num_bytes)))))]
    rounds = max(1, 12 // len(sets)) if device.type == "cuda" else 1
    total, spread = time_call(lambda: [run(*inputs) for _ in range(rounds) for inputs in sets], device, repeats=repeats)
    calls = rounds * len(sets)
    return total / calls, spread / calls


def _captured(function: Callable[[], object]) -> Callable[[], object]:
    """A replay of the function's launches; what it allocates stays where it was captured."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def _microseconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e6
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1000
