"""What the device can do at best, measured in the process that measures everything else: memory bandwidth, arithmetic.

    copy      bytes read plus bytes written of a device-to-device copy, over its time
    matmul    2·n³ FLOPs of a square product of random matrices, over its time

A fraction of the limit says more than a time: it survives a change of card, and says how much is left to gain.

Lesson: 3 (predict, then measure)
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lmcourse.accounting import Device

__all__ = ["Limits", "measure_limits", "read_clocks", "seconds_of"]

_CLOCKS = {"sm_mhz": "clocks.sm", "memory_mhz": "clocks.mem", "watts": "power.draw", "celsius": "temperature.gpu"}


@dataclass(frozen=True)
class Limits:
    """The device's two ceilings, in bytes and FLOPs per second, and how they were measured."""

    copy: float
    matmul: float
    dtype: str  # of the product
    clocks: dict[str, float]  # just after the product; empty without nvidia-smi

    @property
    def device(self) -> Device:
        """As accounting.py takes it."""
        return Device(self.copy, self.matmul)

    def __str__(self) -> str:
        return f"copy {self.copy / 1e12:.3g} TB/s, {self.dtype} product {self.matmul / 1e12:.3g} TFLOP/s"


def measure_limits(device: torch.device, dtype: torch.dtype, *, repeats: int = 9) -> Limits:
    """Takes up to 4 GiB for a moment on CUDA (or half of what is free), half a GiB on a CPU."""
    copy, matmul = _measure_copy(device, repeats), _measure_matmul(device, dtype, repeats)
    clocks = read_clocks() if device.type == "cuda" else {}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Limits(copy, matmul, str(dtype).removeprefix("torch."), clocks)


def _measure_copy(device: torch.device, repeats: int) -> float:
    """Bytes per second, read plus written."""
    on_cuda = device.type == "cuda"
    num_bytes = min(2**31, torch.cuda.mem_get_info(device)[0] // 4) if on_cuda else 2**28
    source, target = (torch.ones(num_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * num_bytes / seconds_of(lambda: target.copy_(source), device, repeats=repeats)


def _measure_matmul(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """FLOPs per second."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: left @ right, device, repeats=repeats)


def seconds_of(function: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """The median time of one call, by the device's own clock where it has one."""
    function()
    function()
    times = [_timed(function, device) for _ in range(repeats)]
    return statistics.median(times)


def _timed(function: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    function()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1000


def read_clocks() -> dict[str, float]:
    """Clocks, power and temperature of the first GPU as nvidia-smi tells them; {} where it does not."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={','.join(_CLOCKS.values())}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        values = done.stdout.strip().split(",")
        return {name: float(value) for name, value in zip(_CLOCKS, values, strict=True)}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
