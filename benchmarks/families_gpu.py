"""Every dense family on one GPU: right in bfloat16 through the Triton kernels, and how fast one token after another.

    python benchmarks/families_gpu.py parity compile     right? and compile what the timings need, side by side
    python benchmarks/families_gpu.py speed              timings, one after the other, alone on the card
    ONLY=falcon-7b:2 …                                   one shape, two layers of it
    SECONDS_LEFT=25 …                                    what is not done by then is left out
    DEVICE=cpu TRITON_INTERPRET=1 … parity               a rehearsal without a GPU

Results go to $OUT/NAME.json, after each figure; NAME is families_ and what ran. Each model has a process of its own.
Parity: tiny checkpoints of tests/models/family_cases, a prompt, decodes and a batch, against the same in float32 on the
CPU. Speed: one request, 128 tokens of prompt; the limit is accounting's with the copy bandwidth measured here; weights
are drawn, and a model has as many of its layers as the table says.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmcourse.engine import Engine

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "models"), str(ROOT)]
STARTED, LIMIT = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
DEVICE = os.environ.get("DEVICE", "cuda")
SHAPES = {  # layers that are timed: together they must fit one GPU, and be drawn within seconds
    "falcon-7b": 12,
    "gemma-2b": 18,
    "chatglm2-6b": 14,
    "baichuan2-13b": 10,
    "qwen-7b": 12,
    "falcon-rw-1b": 24,
    "mistral-7b": 12,
    "internlm-7b": 12,
    "qwen1_5-1_8b": 24,
    "baichuan2-7b": 12,
    "falcon-40b": 6,
    "yi-6b": 12,
    "codellama-7b": 12,
}
if "ONLY" in os.environ:  # ONLY=falcon-7b:2 … takes these layers of this one
    SHAPES = {name: int(count) for name, count in [os.environ["ONLY"].split(":")]}
CASES = (
    "InternLM", "QWen beyond its training", "QWen1.5", "Baichuan 13B", "Baichuan2 7B", "ChatGLM2", "Falcon 7B",
    "Falcon 40B", "Falcon RW", "Mistral in its window", "Gemma 2B",
)  # fmt: skip


def say(line: str) -> None:
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


# --- in a process of its own: one model


def shape_folder(name: str, num_layers: int) -> Path:
    """The dummy model with so many layers."""
    from lmcourse.bundled import dummy_path

    source = dummy_path(f"dummy:{name}")
    assert source is not None
    folder = Path(tempfile.mkdtemp()) / name
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    key = "num_layers" if "num_layers" in config else "num_hidden_layers"
    config[key] = num_layers
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def compile_shape(name: str) -> None:
    """Run one layer of the model once, so that the kernels of all of them are in Triton's cache."""
    with open_engine(name, 1) as engine:
        seconds_of(engine, 9, 0)
    say("row {}")


def open_engine(name: str, num_layers: int) -> Engine:
    from lmcourse.config import TurbomindEngineConfig
    from lmcourse.engine import Engine

    config = TurbomindEngineConfig(cache_max_entry_count=24, dtype="bfloat16", max_batch_size=4, session_len=1024)
    return Engine.from_folder(shape_folder(name, num_layers), config, device=DEVICE)


def seconds_of(engine: Engine, num_outputs: int, seed: int) -> float:
    from lmcourse.bench.measure import run_engine
    from lmcourse.bench.workloads import mixed_requests

    lens = {"prompt_lens": (128, 128), "output_lens": (num_outputs, num_outputs)}
    requests = mixed_requests(1, vocab=engine.spec.vocab, seed=seed, **lens)
    started = time.perf_counter()
    run_engine(engine, requests)
    return time.perf_counter() - started


def time_shape(name: str) -> None:
    """Load and run once, say ready, wait for the copy bandwidth on stdin, then measure and print the row."""
    from lmcourse.accounting import Device, decode_seconds
    from lmcourse.bench.speed import engine_storage

    with open_engine(name, SHAPES[name]) as engine:
        seconds_of(engine, 20, 0)
        say("ready")
        bandwidth = Device(float(sys.stdin.readline()), 1e15)
        rates = [96 / (seconds_of(engine, 97, seed) - seconds_of(engine, 1, seed)) for seed in (1, 2, 3)]
        storage = engine_storage(engine, 2)
        limit = 1 / decode_seconds(engine.spec, bandwidth, context=128 + 48, storage=storage)
        rate = statistics.median(rates)
        row = {"tokens_per_second": round(rate, 1), "limit": round(limit, 1), "fraction": round(rate / limit, 3)}
        row |= {
            "layers": SHAPES[name],
            "of": all_layers(name),
            "weight_gb": round(engine.stats().weight_bytes / 1e9, 2),
        }
        say("row " + json.dumps(row))


def all_layers(name: str) -> int:
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
    """Read the worker's row, and keep it at once."""
    line = worker.next()
    if line.startswith("row "):
        results[worker.kind][worker.name] = json.loads(line[4:])
    else:
        results["failures"][f"{worker.kind} {worker.name}"] = line = worker.why()[-300:]
    say(f"{worker.kind} {worker.name}: {line}")
    write(results)


def run_all(kinds: list[str], results: dict[str, Any]) -> None:
    names = {"parity": CASES, "compile": SHAPES, "speed": SHAPES}
    workers = [Worker(kind, name) for kind in kinds for name in names[kind]]
    end_in_time(results, workers)
    try:
        for worker in workers:
            if worker.kind != "speed":
                finish(worker, results)
        time_them([worker for worker in workers if worker.kind == "speed"], results)
    finally:
        for worker in workers:
            worker.process.kill()


def time_them(workers: list[Worker], results: dict[str, Any]) -> None:
    """One after the other, once all are ready."""
    if not workers:
        return
    import torch

    from lmcourse.bench.device import measure_limits
    from lmcourse.bench.report import current_commit, describe_machine

    ready = [worker for worker in workers if worker.next() == "ready"]
    limits = measure_limits(torch.device(DEVICE), torch.bfloat16, repeats=5)
    results.update({"machine": describe_machine(), "commit": current_commit(), "copy_tb_s": limits.copy / 1e12})
    say(f"{len(ready)} of {len(workers)} ready; copy {limits.copy / 1e12:.3f} TB/s")
    for worker in workers:
        if worker in ready:
            assert worker.process.stdin is not None
            worker.process.stdin.write(f"{limits.copy}\n")
            worker.process.stdin.flush()
        finish(worker, results)


def write(results: dict[str, Any]) -> None:
    out = Path(os.environ.get("OUT", ".")) / f"families_{results['ran']}.json"
    out.write_text(json.dumps(results, indent=1) + "\n")


def end_in_time(results: dict[str, Any], workers: list[Worker]) -> None:
    """Write what there is, and end all."""

    def stop() -> None:
        say("out of time")
        write(results)
        for worker in workers:
            worker.process.kill()
        os._exit(3)

    if LIMIT < 1e9:
        timer = threading.Timer(LIMIT, stop)
        timer.daemon = True
        timer.start()


def main(arguments: list[str]) -> None:
    if len(arguments) == 2 and arguments[1] not in ("parity", "compile", "speed"):
        {"speed": time_shape, "compile": compile_shape, "parity": check_case}[arguments[0]](arguments[1])
        return
    kinds = arguments or ["parity", "compile"]
    results: dict[str, Any] = {"ran": "_".join(kinds), "parity": {}, "compile": {}, "speed": {}, "failures": {}}
    run_all(kinds, results)
    write(results)


if __name__ == "__main__":
    main(sys.argv[1:])
