"""Every dense family on one GPU: right in bfloat16 through the Triton kernels, and how fast one token after another.

    python benchmarks/families_gpu.py            everything; results in $OUT/families_h200.json, or ./families_h200.json
    SECONDS_LEFT=85 …                            what is not done by then is left out
    DEVICE=cpu TRITON_INTERPRET=1 … parity       a rehearsal without a GPU

Each model has a process of its own, since compiling is what takes time: all compile side by side and say when they are
ready; then one after the other is timed while the rest is still. Parity: tiny checkpoints of tests/models/family_cases,
a prompt, decodes and a batch, against the same in float32 on the CPU. Speed: bench's decode of one request; the limit
is accounting's, with the copy bandwidth measured here; weights are drawn, with fewer layers where it says so.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "models"), str(ROOT)]
STARTED, LIMIT = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
DEVICE = os.environ.get("DEVICE", "cuda")
SHAPES: dict[str, int | None] = {  # layers that are timed, None for all: together they must fit one GPU
    "falcon-40b": 8,
    "baichuan2-13b": 10,
    "mistral-7b": None,
    "falcon-7b": None,
    "chatglm2-6b": None,
    "yi-6b": None,
    "internlm-7b": 16,
    "baichuan2-7b": 16,
    "codellama-7b": 16,
    "gemma-2b": None,
    "qwen-1_8b": None,
    "qwen1_5-1_8b": None,
    "falcon-rw-1b": None,
}
CASES = (
    "InternLM", "QWen beyond its training", "QWen1.5", "Baichuan 13B", "Baichuan2 7B", "ChatGLM2", "Falcon 7B",
    "Falcon 40B", "Falcon RW", "Mistral in its window", "Gemma 2B",
)  # fmt: skip


def say(line: str) -> None:
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


# --- in a process of its own: one model


def shape_folder(name: str, num_layers: int | None) -> Path:
    """The dummy model with so many layers."""
    from lmcourse.bundled import dummy_path

    source = dummy_path(f"dummy:{name}")
    assert source is not None
    folder = Path(tempfile.mkdtemp()) / name
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    key = "num_layers" if "num_layers" in config else "num_hidden_layers"
    config[key] = num_layers or config[key]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def time_shape(name: str) -> None:
    """Load and run once, say ready, wait for the copy bandwidth on stdin, then measure and print the row."""
    from lmcourse.accounting import Device, decode_seconds
    from lmcourse.bench.measure import run_engine
    from lmcourse.bench.speed import engine_storage
    from lmcourse.bench.workloads import mixed_requests
    from lmcourse.config import TurbomindEngineConfig
    from lmcourse.engine import Engine

    folder, num_outputs = shape_folder(name, SHAPES[name]), 129
    config = TurbomindEngineConfig(cache_max_entry_count=24, dtype="bfloat16", max_batch_size=4, session_len=1024)
    with Engine.from_folder(folder, config, device=DEVICE) as engine:

        def seconds(count: int, seed: int) -> float:
            lens = {"prompt_lens": (128, 128), "output_lens": (count, count)}
            started = time.perf_counter()
            run_engine(engine, mixed_requests(1, vocab=engine.spec.vocab, seed=seed, **lens))
            return time.perf_counter() - started

        seconds(9, 0)
        seconds(num_outputs, 0)
        say("ready")
        bandwidth = float(sys.stdin.readline())
        rates = [(num_outputs - 1) / (seconds(num_outputs, seed) - seconds(1, seed)) for seed in (1, 2, 3)]
        storage = engine_storage(engine, 2)
        limit = 1 / decode_seconds(
            engine.spec, Device(bandwidth, 1e15), context=128 + num_outputs // 2, storage=storage
        )
        rate = statistics.median(rates)
        row = {"tokens_per_second": round(rate, 1), "limit": round(limit, 1), "fraction": round(rate / limit, 3)}
        row |= {
            "layers": engine.spec.num_layers,
            "of": load_layers(name),
            "weight_gb": engine.stats().weight_bytes / 1e9,
        }
        say("row " + json.dumps(row))


def load_layers(name: str) -> int:
    from lmcourse.bundled import dummy_path
    from lmcourse.models import load_spec

    folder = dummy_path(f"dummy:{name}")
    assert folder is not None
    return load_spec(folder).num_layers


def check_case(name: str) -> None:
    """The largest error of logits, as a share of the largest logit, in bfloat16 and in float32."""
    import torch
    from family_cases import CASES as DRAWN

    from conftest import Session, write_folder
    from lmcourse.models import load_decoder

    torch.manual_seed(int(os.environ.get("SEED", "1")))
    folder = write_folder(Path(tempfile.mkdtemp()) / "model", *DRAWN[name]().draw())
    ids = {other: torch.randint(67, (count,)).tolist() for other, count in (("a", 37), ("b", 1), ("c", 21), ("d", 1))}

    def run(dtype: torch.dtype, device: str) -> torch.Tensor:
        session = Session(load_decoder(folder, dtype=dtype, device=torch.device(device)), tokens_per_block=16)
        batch, alone = session.step(ids), [session.step({"a": [token], "d": [token]}) for token in (3, 5, 9)]
        lone = session.step({"a": [7]})
        logits = [*batch.values(), *(one for step in alone for one in step.values()), *lone.values()]
        return torch.cat(logits).cpu()

    right = run(torch.float32, "cpu")
    errors = {
        str(dtype).removeprefix("torch."): float((run(dtype, where) - right).abs().max() / right.abs().max())
        for dtype, where in ((torch.bfloat16, DEVICE), (torch.float32, DEVICE))
    }
    errors["bfloat16 on the CPU"] = float((run(torch.bfloat16, "cpu") - right).abs().max() / right.abs().max())
    say("row " + json.dumps({key: float(f"{value:.3g}") for key, value in errors.items()}))


# --- the process that starts them


class Worker:
    """A process, and the lines it prints."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        command = [sys.executable, __file__, kind, name]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the worker)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def next(self) -> str:
        """What comes after the time; "" when the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return line.split("s  ", 1)[1].strip() if "s  " in line else ""

    def why(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-400:]


def finish(worker: Worker, results: dict[str, Any]) -> None:
    """Read rows until the worker ends."""
    line = worker.next()
    if line.startswith("row "):
        results[worker.kind][worker.name] = json.loads(line[4:])
        say(f"{worker.kind} {worker.name}: {line[4:]}")
    else:
        results["failures"][f"{worker.kind} {worker.name}"] = worker.why()
        say(f"{worker.kind} {worker.name} FAILED: {worker.why()[-300:]}")


def run_all(kinds: list[str], results: dict[str, Any]) -> None:
    checks = [Worker("parity", name) for name in CASES if "parity" in kinds]
    shapes = [Worker("speed", name) for name in SHAPES if "speed" in kinds]
    workers = [*checks, *shapes]
    try:
        for worker in checks:
            finish(worker, results)
        ready = [worker for worker in shapes if worker.next() == "ready"]
        for worker in set(shapes) - set(ready):
            results["failures"][f"speed {worker.name}"] = worker.why()
            say(f"speed {worker.name} FAILED: {worker.why()[-300:]}")
        if ready:
            import torch

            from lmcourse.bench.device import measure_limits
            from lmcourse.bench.report import current_commit, describe_machine

            limits = measure_limits(torch.device(DEVICE), torch.bfloat16)
            results.update({"machine": describe_machine(), "commit": current_commit(), "copy_tb_s": limits.copy / 1e12})
            say(f"{len(ready)} ready; copy {limits.copy / 1e12:.3f} TB/s")
            for worker in ready:
                assert worker.process.stdin is not None
                worker.process.stdin.write(f"{limits.copy}\n")
                worker.process.stdin.flush()
                finish(worker, results)
    finally:
        for worker in workers:
            worker.process.kill()


def write(results: dict[str, Any]) -> None:
    out = Path(os.environ.get("OUT", ".")) / "families_h200.json"
    out.write_text(json.dumps(results, indent=1) + "\n")


def end_in_time(results: dict[str, Any]) -> None:
    """Write what there is and end; the workers end with their pipes."""

    def stop() -> None:
        say("out of time")
        write(results)
        os._exit(3)

    if LIMIT < 1e9:
        timer = threading.Timer(LIMIT, stop)
        timer.daemon = True
        timer.start()


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("speed", "parity") and len(arguments) == 2:
        {"speed": time_shape, "parity": check_case}[arguments[0]](arguments[1])
        return
    results: dict[str, Any] = {"speed": {}, "parity": {}, "failures": {}}
    end_in_time(results)
    run_all(arguments or ["parity", "speed"], results)
    write(results)


if __name__ == "__main__":
    main(sys.argv[1:])
