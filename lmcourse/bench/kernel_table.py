"""Which kernels a decode step consists of: torch's profiler, one row per kernel, per step.

Where the kernels' time is less than the step's, the device waited: for the host, or for itself between kernels.

Lesson: 3 (what a step is made of)
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from lmcourse.bench.stand import Stand
from lmcourse.bench.workloads import mixed_requests
from lmcourse.config import GenerationConfig

if TYPE_CHECKING:
    from lmcourse.engine import Engine

__all__ = ["KernelRow", "StepProfile", "profile_decode"]


@dataclass(frozen=True)
class KernelRow:
    """One kernel (on a CPU: one operator), averaged over the steps."""

    name: str
    calls: float  # a step
    microseconds: float  # a step, all calls


@dataclass(frozen=True)
class StepProfile:
    """Kernels by time, longest first; `step_microseconds` is the wall clock's, without the profiler."""

    batch: int
    step_microseconds: float
    rows: tuple[KernelRow, ...]

    @property
    def kernel_microseconds(self) -> float:
        return sum(row.microseconds for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{'kernel':58}{'calls':>8}{'µs a step':>12}{'µs a call':>12}{'share':>8}"]
        for row in self.rows[:24]:
            share = row.microseconds / max(self.kernel_microseconds, 1e-9)
            a_call = row.microseconds / max(row.calls, 1e-9)
            lines.append(f"{row.name[:56]:58}{row.calls:8.1f}{row.microseconds:12.1f}{a_call:12.2f}{share:8.1%}")
        if len(self.rows) > 24:
            rest = sum(row.microseconds for row in self.rows[24:])
            lines.append(f"{f'{len(self.rows) - 24} others':58}{'':8}{rest:12.1f}")
        lines.append(
            f"kernels {self.kernel_microseconds:,.0f} µs of a step of {self.step_microseconds:,.0f} µs "
            f"({self.batch} at once; the step timed without the profiler)"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "step_us": round(self.step_microseconds, 1),
            "kernels": [
                {"name": row.name, "calls": round(row.calls, 2), "us": round(row.microseconds, 2)} for row in self.rows
            ],
        }


def profile_decode(stand: Stand, *, batch: int, prompt_len: int = 128, num_steps: int = 16) -> StepProfile:
    """Time `num_steps` decode steps of `batch` requests, then profile as many more."""
    engine, lens = stand.engine, (prompt_len, prompt_len)
    prefilled = engine.stats().num_sampled_tokens + batch
    for request in mixed_requests(batch, vocab=stand.spec.vocab, prompt_lens=lens, output_lens=(1, 1)):
        engine.add(request.prompt_ids, GenerationConfig(max_new_tokens=4 * num_steps + 16, ignore_eos=True))
    try:
        while engine.stats().num_waiting or engine.stats().num_sampled_tokens < prefilled:
            engine.step()
        _run_steps(engine, 8)
        microseconds = _run_steps(engine, num_steps)
        on_cuda = stand.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as profiler:
            _run_steps(engine, num_steps)
            if on_cuda:
                torch.cuda.synchronize()
        return StepProfile(batch, microseconds, _rows(profiler, num_steps, on_cuda=on_cuda))
    finally:
        while engine.has_work:
            engine.step()


def _run_steps(engine: Engine, count: int) -> float:
    """Microseconds a step."""
    started = time.perf_counter()
    for _ in range(count):
        engine.step()
    return (time.perf_counter() - started) / count * 1e6


def _rows(profiler: Any, num_steps: int, *, on_cuda: bool) -> tuple[KernelRow, ...]:
    which = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    averages = ((row.key, row.count, float(getattr(row, which))) for row in profiler.key_averages())
    rows = [KernelRow(name, count / num_steps, total / num_steps) for name, count, total in averages if total > 0]
    return tuple(sorted(rows, key=lambda row: -row.microseconds))
