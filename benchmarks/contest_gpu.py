"""Lesson 7's contest on a GPU: transformers and the engine's forms on equal work, as contest_h200.json for the lesson.

    python benchmarks/contest_gpu.py                     1.8B: engine fp16, KV8, AWQ, transformers eager, then compiled
    python benchmarks/contest_gpu.py --check             short answers: compiles what the contest needs, times nothing
    python benchmarks/contest_gpu.py --rehearse          the same on a CPU with a tiny model
    OUT=/somewhere SECONDS_LEFT=80 python benchmarks/contest_gpu.py

The engine's forms come first, compiling transformers last; the file is written after each step, until the time is up.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch

from lmcourse.baseline import AutoModelForCausalLM
from lmcourse.bench import (
    current_commit,
    describe_machine,
    engine_contestant,
    equal_requests,
    format_standings,
    hold_contest,
    measure_limits,
    transformers_contestant,
    write_json,
)
from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine import Engine
from lmcourse.text.hub import find_model

STARTED, LIMIT_SECONDS = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
REHEARSE, CHECK = "--rehearse" in sys.argv, "--check" in sys.argv
FILE = Path(os.environ.get("OUT", "build")) / ("contest_check.json" if CHECK else "contest_h200.json")
NAME = "dummy:tiny" if REHEARSE else "dummy:internlm2-1_8b"
BATCHES = (1, 4) if REHEARSE else (1, 16, 64)
PROMPT_LEN, OUTPUT_LEN, EAGER_LEN = 128, 9 if REHEARSE or CHECK else 129, 9 if CHECK else 17


def seconds_left() -> float:
    return LIMIT_SECONDS - (time.perf_counter() - STARTED)


def show_the_queue() -> dict[str, float]:
    """Milliseconds of ten products, the clock stopped before and after waiting."""
    matrix, told = torch.randn(8192, 8192, device="cuda", dtype=torch.float16), {}
    for wait in (False, True):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            _ = matrix @ matrix
        if wait:
            torch.cuda.synchronize()
        told["waited" if wait else "ordered"] = 1e3 * (time.perf_counter() - started)
    return told


def main() -> None:
    device = torch.device("cpu" if REHEARSE else "cuda")
    machine = describe_machine()
    limits = measure_limits(device, torch.float32 if REHEARSE else torch.float16)
    result = {
        "benchmark": "contest",
        "model": NAME,
        "commit": current_commit(),
        "machine": machine,
        "prompt_len": PROMPT_LEN,
        "output_lens": {"engine": OUTPUT_LEN, "transformers": EAGER_LEN},
        "limits": str(limits),
        "standings": [],
    }
    if not REHEARSE:
        show_the_queue()
        result["queue_ms"] = show_the_queue()
    settings = {"dtype": "float32" if REHEARSE else "float16", "cache_max_entry_count": 64 * 6}
    size = 4 if REHEARSE else 2
    forms = {"engine": (NAME, {}), "engine, KV8": (NAME, {"quant_policy": 8}), "engine, W4A16": (f"{NAME}:awq", {})}
    engines = {
        name: Engine.from_folder(find_model(model), TurbomindEngineConfig(**settings, **more))
        for name, (model, more) in forms.items()
    }
    contestants = [engine_contestant(name, engine, element_bytes=size) for name, engine in engines.items()]
    spec = engines["engine"].spec
    model = AutoModelForCausalLM.from_pretrained(find_model(NAME), dtype=settings["dtype"]).to(device)
    eager = transformers_contestant("transformers", model, spec)
    static = transformers_contestant("transformers, static and compiled", model, spec, kind="compiled")
    steps = [(contestants, batch, OUTPUT_LEN, 3) for batch in BATCHES]
    steps += [([eager], 1, EAGER_LEN, 3), ([static], 1, EAGER_LEN, 45), ([eager], 16, EAGER_LEN, 3)]
    for chosen, batch, output_len, seconds_needed in steps:
        if seconds_left() < seconds_needed:
            sys.stdout.write("the time is up\n")
            continue
        requests = equal_requests(batch, vocab=512, prompt_len=PROMPT_LEN, output_len=output_len)
        rows = hold_contest(chosen, requests, device=limits.device, repeats=3)
        sys.stdout.write(f"{format_standings(rows)}\n")
        sys.stdout.flush()
        result["standings"] += [dataclasses.asdict(row) for row in rows]
        write_json(FILE, result)


if __name__ == "__main__":
    main()
