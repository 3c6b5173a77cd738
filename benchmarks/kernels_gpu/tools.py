"""Inputs, timing and the record of results that the other files share."""

from __future__ import annotations

import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from lmcourse.bench import current_commit, describe_machine, measure_limits
from lmcourse.bench.cold import time_call, time_cold
from lmcourse.bench.kernel_inputs import Inputs
from lmcourse.spec import ModelSpec

MODULES = ("add_norm", "attention", "decode_attention", "dispatch", "norm_gate_up", "norm_qkv", "prefill_attention")
MODULES += ("project", "rms_norm", "rotate_write", "sampling", "swiglu")
KERNELS = {name: import_module(f"lmcourse.kernels.{name}") for name in MODULES}
SPECS = {
    "1.8B": ModelSpec("internlm2", 2048, 24, 16, 8, 128, 8192, 92544, 32768),
    "7B": ModelSpec("llama", 4096, 32, 32, 32, 128, 11008, 32000, 4096),
}
CUDA = torch.device("cuda")
INPUTS = Inputs(CUDA, torch.float16)
STARTED, LIMIT_SECONDS = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
WARM = bool(os.environ.get("WARM"))  # compile everything and time nothing
RESULTS: dict = {}
LINES: list[str] = []


def say(line: str) -> None:
    LINES.append(line)
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def random_tensor(*shape, dtype=torch.float16, scale=1.0):
    return INPUTS.tensor(*shape, dtype=dtype, scale=scale)


def graph_us(function, repeats=15):
    """(median, spread of the middle half), µs of one replay."""
    if WARM:
        function()
        return 1.0, 0.0
    return time_call(function, CUDA, repeats=repeats)


def cold_us(case):
    """(median, spread), µs of one call of a lmcourse.bench KernelCase, its inputs from memory."""
    if WARM:
        case.run(*case.make())
        return 1.0, 0.0
    return time_cold(case.make, case.run, case.num_bytes, CUDA)


def make_batch(contexts, new=1):
    return INPUTS.batch(contexts, new)


def make_kv(num_blocks, spec, layers=1, dtype=torch.float16):
    return Inputs(CUDA, dtype).kv(num_blocks, spec, layers)


def relative(got, want):
    """‖got - want‖ / ‖want‖."""
    got, want = got.double(), want.double()
    return ((got - want).norm() / want.norm().clamp(min=1e-300)).item()


def measure_copy():
    """The device's limits, and what it is."""
    RESULTS["copy_tb_s"] = 1.0
    if WARM:
        return
    limits = measure_limits(CUDA, torch.float16)
    RESULTS["copy_tb_s"], RESULTS["matmul_tflop_s"] = limits.copy / 1e12, limits.matmul / 1e12
    RESULTS["machine"], RESULTS["commit"] = describe_machine(), current_commit()
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {limits}")


def report(name, us, spread, case):
    fraction = case.num_bytes / us / 1e6 / RESULTS["copy_tb_s"]
    row = {"us": us, "spread_us": spread, "bytes": case.num_bytes, "of_copy": fraction}
    rate = f"{case.num_bytes / us / 1e6:5.2f} TB/s  {fraction:5.2f} of copy"
    if case.num_flops:
        row["tflop_s"] = case.num_flops / us / 1e6
        rate = f"{row['tflop_s']:5.0f} TFLOP/s"
    RESULTS.setdefault("kernels", {})[name] = row
    say(f"{name:38} {us:8.2f} µs ± {spread:.2f}  {rate}")


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
