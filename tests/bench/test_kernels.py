"""Timing single operations: cold inputs, what is counted, and cases that run what a decoder runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lmcourse.bench import Limits
from lmcourse.bench.cold import COLD_BYTES, time_call, time_cold
from lmcourse.bench.kernel_inputs import Inputs
from lmcourse.bench.kernels import KernelSizes, kernel_cases, measure_kernel
from lmcourse.bundled import dummy_path
from lmcourse.models import load_spec

CPU = torch.device("cpu")
LIMITS = Limits(1e10, 1e11, "float32", {})


@pytest.fixture(scope="module")
def spec():
    return dataclasses.replace(load_spec(dummy_path("dummy:tiny")), vocab=300)


def test_time_cold_goes_round_over_copies():
    made, seen = [], []

    def make():
        made.append(len(made))
        return (made[-1],)

    time_cold(make, seen.append, COLD_BYTES / 3, CPU, repeats=4)
    assert made == [0, 1, 2]
    assert seen == [0, 1, 2] * 7  # three runs that do not count, four that do


def test_time_call_gives_median_and_spread_of_the_middle(monkeypatch):
    ticks = iter([0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0, 100.0])
    monkeypatch.setattr("lmcourse.bench.cold.time.perf_counter", lambda: next(ticks))
    middle, spread = time_call(lambda: None, CPU, repeats=5)
    assert middle == 3e6
    assert 0 < spread < 1e8


def test_batch_has_every_token_in_a_slot_of_its_own():
    batch, num_blocks = Inputs(CPU, torch.float32, 16).batch([40, 1, 33], new=1)
    assert (batch.num_decodes, batch.context_lens, num_blocks) == (3, (40, 1, 33), 3 + 1 + 3)
    assert batch.positions.tolist() == [39, 0, 32]
    used = [block for row, count in zip(batch.block_tables.tolist(), (3, 1, 3), strict=True) for block in row[:count]]
    assert sorted(used) == list(range(7))
    assert batch.slots.tolist() == [used[2] * 16 + 7, used[3] * 16, used[6] * 16]


def test_every_case_runs_and_counts_its_bytes(spec):
    sizes = KernelSizes(num_tokens=(1, 3), decodes=((2, 20),), prefills=(9,), num_rows=5)
    cases = {case.name: case for case in kernel_cases(spec, Inputs(CPU, torch.float32, 16), sizes)}
    assert len(cases) == 2 * 5 + 1 + 1 + 3
    with torch.inference_mode():
        for case in cases.values():
            case.run(*case.make())
    assert cases["head, 1 tokens"].num_bytes == 4 * 300 * 256
    assert cases["gate_up, 3 tokens"].num_bytes == 4 * 2 * 512 * 256
    assert cases["decode attention, 2 × 20"].num_bytes == 2 * 4 * 2 * 20 * 2 * 64
    assert cases["prefill attention, 9"].num_flops == 2 * 4 * 64 * 81
    assert cases["add_norm, 5 tokens"].num_bytes == 4 * 4 * 5 * 256


def test_measure_kernel_takes_the_larger_limit(spec):
    sizes = KernelSizes(num_tokens=(), decodes=(), prefills=(70,), num_rows=3)
    speeds = {}
    with torch.inference_mode():
        for case in kernel_cases(spec, Inputs(CPU, torch.float32, 16), sizes):
            speeds[case.name] = measure_kernel(case, CPU, LIMITS)
    prefill, norm = speeds["prefill attention, 70"], speeds["add_norm, 3 tokens"]
    assert prefill.least_microseconds == pytest.approx(prefill.num_flops / 1e11 * 1e6)
    assert norm.least_microseconds == pytest.approx(norm.num_bytes / 1e10 * 1e6)
    assert norm.fraction == pytest.approx(norm.least_microseconds / norm.microseconds)
    assert norm.to_json()["name"] == "add_norm, 3 tokens"
    assert "TFLOP/s" in str(prefill)
    assert "GB/s" in str(norm)
