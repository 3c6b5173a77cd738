"""Stand: an engine on a test stand, with the device's limits and what its start took, measured in this process.

Limits are measured before the engine takes its memory. Ready to serve means: weights on the device, KV cache taken, and
a first answer given, which compiles or loads kernels and captures what the engine captures at once.

Lesson: 3 (predict, then measure)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmcourse.bench.device import Limits, measure_limits
from lmcourse.bench.measure import run_engine
from lmcourse.bench.report import current_commit, describe_machine
from lmcourse.bench.workloads import GenerationRequest
from lmcourse.config import TurbomindEngineConfig

if TYPE_CHECKING:
    from lmcourse.engine import Engine
    from lmcourse.spec import ModelSpec

__all__ = ["Stand", "open_stand"]


@dataclass(frozen=True)
class Stand:
    """What is measured, and where."""

    model: str  # as it was asked for
    weight_format: str  # hf, awq or turbomind
    engine: Engine
    device: torch.device
    dtype: torch.dtype
    limits: Limits
    start_seconds: dict[str, float]  # "engine": weights and KV cache; "first answer"
    machine: dict[str, Any]

    @property
    def spec(self) -> ModelSpec:
        return self.engine.spec

    def head(self, benchmark: str) -> dict[str, Any]:
        """What every result begins with: what ran, which code, on what, and how good that is."""
        stats, config = self.engine.stats(), self.engine.config
        default = TurbomindEngineConfig()
        changed = {name: value for name, value in vars(config).items() if value != getattr(default, name)}
        return {
            "benchmark": benchmark,
            "model": self.model,
            "weight_format": self.weight_format,
            "dtype": str(self.dtype).removeprefix("torch."),
            "commit": current_commit(),
            "settings": changed,
            "weight_gb": round(stats.weight_bytes / 1e9, 3),
            "kv_tokens": stats.num_blocks * stats.tokens_per_block,
            "start_seconds": self.start_seconds,
            "copy_tb_s": round(self.limits.copy / 1e12, 4),
            "matmul_tflop_s": round(self.limits.matmul / 1e12, 3),
            "clocks": self.limits.clocks,
            "machine": self.machine,
        }

    def __str__(self) -> str:
        machine = self.machine["gpu"] or f"{self.machine['cpu']}, {self.machine['threads']} threads"
        start = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.start_seconds.items())
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.model}, {dtype}, on {machine}\n{self.limits}; start: {start}"


@contextmanager
def open_stand(model: str, config: TurbomindEngineConfig) -> Iterator[Stand]:
    """Measure the device, load the model, and give a first answer."""
    from lmcourse.engine import Engine
    from lmcourse.engine.settings import choose_device, choose_dtype
    from lmcourse.models import load_spec
    from lmcourse.models.engine_format import detect_format
    from lmcourse.text.hub import find_model

    machine, folder = describe_machine(), Path(find_model(model))
    device = choose_device()
    dtype = choose_dtype(config, load_spec(folder).dtype, device)
    limits = measure_limits(device, dtype)
    started = time.perf_counter()
    with Engine.from_folder(folder, config) as engine:
        loaded = time.perf_counter()
        run_engine(engine, [GenerationRequest((1,), 2)])
        seconds = {"engine": loaded - started, "first answer": time.perf_counter() - loaded}
        rounded = {name: round(value, 2) for name, value in seconds.items()}
        yield Stand(model, detect_format(folder), engine, device, dtype, limits, rounded, machine)
