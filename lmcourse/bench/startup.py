"""How long it takes from starting a process until a model is ready to serve: a process of its own, timed from outside.

    process starts ──▶ imported ──▶ weights and KV cache on the device ──▶ first answer given: ready

Compiled kernels stay in Triton's cache on disk; the first start on a machine fills it, later ones show what a restart
costs.

Lesson: 5 (restarting a server)
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from typing import Any

from lmcourse.config import TurbomindEngineConfig
from lmcourse.errors import MachineError

__all__ = ["measure_startup", "tell_times"]

_CHILD = "import sys; from lmcourse.bench.startup import tell_times; tell_times(sys.argv[1], sys.argv[2])"


def measure_startup(model: str, config: TurbomindEngineConfig, *, timeout_seconds: float = 600) -> dict[str, float]:
    """Seconds since the start of the process at which each stage was over."""
    settings = json.dumps(dataclasses.asdict(config))
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, model, settings],
        capture_output=True, text=True, timeout=timeout_seconds, check=False,
    )  # fmt: skip
    if done.returncode:
        raise MachineError(
            "the process that was to be timed failed",
            got=done.stderr.strip().splitlines()[-1:] or f"status {done.returncode}",
            next_step="start the model in this terminal to see why: lmcourse chat MODEL",
        )
    stamps: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: round(stamp - started, 2) for name, stamp in stamps.items()}


def tell_times(model: str, settings: str) -> None:
    """In the child: start as a server does, and print when each stage was over."""
    stamps: dict[str, Any] = {}
    import torch

    from lmcourse.bench.measure import run_engine
    from lmcourse.bench.workloads import GenerationRequest
    from lmcourse.engine import Engine
    from lmcourse.text.hub import find_model

    if torch.cuda.is_available():
        torch.cuda.init()  # type: ignore[no-untyped-call]
    stamps["imported"] = time.time()
    with Engine.from_folder(find_model(model), TurbomindEngineConfig(**json.loads(settings))) as engine:
        stamps["loaded"] = time.time()
        run_engine(engine, [GenerationRequest((1,) * 16, 4)])
        stamps["ready"] = time.time()
        sys.stdout.write(json.dumps(stamps) + "\n")
