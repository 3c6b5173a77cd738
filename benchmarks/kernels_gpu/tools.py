"""Inputs, timing and the record of results that the other files share."""

from __future__ import annotations

import functools
import math
import os
import statistics
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.spec import ModelSpec

MODULES = ("add_norm", "attention", "decode_attention", "dispatch", "norm_gate_up", "norm_qkv", "prefill_attention")
MODULES += ("project", "rms_norm", "rotate_write", "sampling", "swiglu")
KERNELS = {name: import_module(f"lmcourse.kernels.{name}") for name in MODULES}
SPECS = {
    "1.8B": ModelSpec("internlm2", 2048, 24, 16, 8, 128, 8192, 92544, 32768),
    "7B": ModelSpec("llama", 4096, 32, 32, 32, 128, 11008, 32000, 4096),
}
STARTED, LIMIT_SECONDS = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
WARM = bool(os.environ.get("WARM"))  # compile everything and time nothing
RESULTS: dict = {}
LINES: list[str] = []


def say(line: str) -> None:
    LINES.append(line)
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def random_tensor(*shape, dtype=torch.float16, scale=1.0):
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def graph_us(function, repeats=15):
    """(median, spread of the middle half), µs of one replay."""
    if WARM:
        function()
        return 1.0, 0.0
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    times = []
    for index in range(repeats + 3):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        if index >= 3:
            times.append(start.elapsed_time(stop) * 1000)
    low, _, high = statistics.quantiles(times, n=4)
    return statistics.median(times), high - low


def rotating_us(make, run, num_bytes):
    """µs of one call, weights cold; `make` builds one set of inputs."""
    count = 1 if WARM else min(64, max(2, math.ceil(220e6 / max(1, num_bytes))))
    sets = [make() for _ in range(count)]
    rounds = 1 if WARM else max(1, 12 // len(sets))
    total, spread = graph_us(lambda: [run(*inputs) for _ in range(rounds) for inputs in sets])
    calls = rounds * len(sets)
    return total / calls, spread / calls


def make_batch(contexts, tokens_per_block=64, new=1):
    """Requests with so many tokens cached once this step's `new` are written, in shuffled blocks."""
    counts = [-(-context // tokens_per_block) for context in contexts]
    free = torch.randperm(sum(counts)).tolist()
    tables = torch.zeros(len(contexts), max(counts), dtype=torch.int32)
    positions, slots = [], []
    for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        blocks = [free.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(blocks, dtype=torch.int32)
        places = range(context - new, context)
        positions += places
        slots += [blocks[p // tokens_per_block] * tokens_per_block + p % tokens_per_block for p in places]
    starts = tuple(range(0, new * len(contexts) + 1, new))
    cuda = functools.partial(torch.tensor, device="cuda")
    lens = [c for c in contexts for _ in range(new)]
    return RaggedBatch(
        cuda(positions), cuda(slots), tables.cuda(), starts, tuple(contexts), cuda(lens),
        len(contexts) if new == 1 else 0,
    ), sum(counts)  # fmt: skip


def make_kv(num_blocks, spec, layers=1, dtype=torch.float16):
    pool = torch.empty(layers, 2, num_blocks, spec.num_kv_heads, 64, spec.head_dim, device="cuda", dtype=dtype)
    for layer in pool:
        layer.normal_()
    return tuple(LayerKV(layer[0], layer[1]) for layer in pool)


def relative(got, want):
    """‖got - want‖ / ‖want‖."""
    got, want = got.double(), want.double()
    return ((got - want).norm() / want.norm().clamp(min=1e-300)).item()


def measure_copy():
    """TB/s of a device-to-device copy, bytes read plus written; outside of a graph, whose copy node is slower."""
    RESULTS["copy_tb_s"] = 1.0
    if WARM:
        return
    source, target = (torch.empty(2**31, dtype=torch.uint8, device="cuda") for _ in "st")
    times = []
    for _ in range(10):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1000)
    RESULTS["copy_tb_s"] = 2**32 / statistics.median(times[2:]) / 1e6
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    RESULTS["machine"] = {
        "gpu": name, "capability": capability, "torch": torch.__version__,
        "triton": import_module("triton").__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    say(f"{name} {capability}, torch {torch.__version__}, copy {RESULTS['copy_tb_s']:.2f} TB/s")


def report(name, us, spread, num_bytes):
    fraction = num_bytes / us / 1e6 / RESULTS["copy_tb_s"]
    RESULTS.setdefault("kernels", {})[name] = {"us": us, "spread_us": spread, "bytes": num_bytes, "of_copy": fraction}
    say(f"{name:34} {us:8.2f} µs ± {spread:.2f}  {num_bytes / us / 1e6:5.2f} TB/s  {fraction:5.2f} of copy")


def guarded(function, *arguments):
    """The other sections still have something to say when one fails, until the time is up."""
    if time.perf_counter() - STARTED > LIMIT_SECONDS:
        return
    named = [str(item) for item in arguments if isinstance(item, (int, str, tuple, torch.dtype))]
    what = f"{function.__name__}({', '.join(named)})"
    try:
        function(*arguments)
    except Exception as error:
        say(f"FAILED {what}: {type(error).__name__}: {error}"[:300])
        RESULTS.setdefault("failures", {})[what] = traceback.format_exc()
        sys.stderr.write(traceback.format_exc()[-2500:])
