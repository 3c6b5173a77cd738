"""bench memory: rows that add up, predictions that hold, and the line through a ladder."""

from __future__ import annotations

import pytest
import torch

from lmcourse.bench import memory
from lmcourse.bench.ladder import (
    LESSON_LADDER_MIB,
    LESSON_PACKED_MIB,
    explain_lesson,
    fit_line,
    format_ladder,
    format_packed_rung,
    measure_ladder,
)
from lmcourse.bench.memory import MemoryPart, measure_memory
from lmcourse.bundled import dummy_path, model_path
from lmcourse.config import TurbomindEngineConfig

FOLDER = model_path("tiny-chat")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "0.25")


@pytest.mark.parametrize("policy", [0, 8, 4])
def test_measure_memory_predicts_weights_and_cache(policy):
    use = measure_memory(FOLDER, TurbomindEngineConfig(quant_policy=policy, cache_max_entry_count=0.3))
    weights, kv, left = use.parts
    for part in (weights, kv):
        assert abs(part.error) < 0.03
    assert use.total_bytes == 2**28 == sum(part.measured_bytes for part in use.parts)
    assert use.unexplained_bytes == 0
    assert abs(kv.measured_bytes / (2**28 - weights.measured_bytes) - 0.3) < 0.01
    assert left.measured_bytes > 0
    assert use.taken_bytes == weights.measured_bytes + kv.measured_bytes
    text = str(use)
    assert text.count("MiB") == 1
    for row in ("weights", "KV cache", "left for work", "sum of the rows", "total, measured"):
        assert row in text


def test_measure_ladder_lies_on_a_line():
    rungs = measure_ladder(FOLDER, TurbomindEngineConfig(), model="tiny-chat")
    assert [rung.cache_max_entry_count for rung in rungs] == [0.8, 0.5, 0.01]
    kv = {rung.cache_max_entry_count: rung.parts[1].measured_bytes for rung in rungs}
    rest, free = fit_line(kv)
    block = kv[0.8] / rungs[0].num_blocks
    assert abs(rest) <= 4 * block
    assert abs(kv[0.01] - (rest + 0.01 * free)) <= 4 * block
    text = format_ladder(rungs)
    assert text.count("tiny-chat") == 3
    assert explain_lesson() in text


def test_fit_line_of_the_lessons_figures_misses_the_third():
    rest, free = fit_line(LESSON_LADDER_MIB)
    assert (round(free), int(rest + 0.01 * free)) == (4187, 4548)
    assert "4187 MB free" in explain_lesson()
    assert "4548.5 MB at 0.01" in explain_lesson()


@pytest.mark.parametrize(("part", "error"), [(MemoryPart("a", None, 5), None), (MemoryPart("a", 100, 97), -0.03)])
def test_part_error(part, error):
    assert part.error == pytest.approx(error)


def test_measure_memory_of_a_cache_of_four_tokens():
    use = measure_memory(FOLDER, TurbomindEngineConfig(cache_max_entry_count=4, cache_block_seq_len=1))
    assert (use.num_blocks, use.tokens_per_block, use.unexplained_bytes) == (4, 1, 0)


def test_cuda_meter_rows_add_up_to_what_the_driver_tells(monkeypatch):
    """A driver and an allocator made up for the test: 300 MiB of context, then weights and all the rest."""
    mib, zeros = 2**20, torch.zeros
    readings, reserved = iter([(700, 1000), (210, 1000)]), iter([0, 350 * mib])
    monkeypatch.setattr("torch.zeros", lambda *shape, device=None: zeros(*shape))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: tuple(mib * number for number in next(readings)))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: next(reserved))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: 340 * mib)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_: None)
    known = memory._Known(MemoryPart("weights", 99, 100 * mib), MemoryPart("KV cache", 1, 200 * mib), 7)
    parts, total = memory._CudaMeter(torch.device("cuda")).read(known)
    assert total == 790 * mib == sum(part.measured_bytes for part in parts)
    assert [part.measured_bytes // mib for part in parts] == [300, 100, 200, 40, 10, 140]


def test_packed_rung_adds_up_and_is_predicted():
    """The CPU's budget: rows sum to the total on both sides, and the difference is the weights' and what they free."""
    shares = {"cache_max_entry_count": 0.01, "dtype": "float16"}
    names = ("dummy:tiny", "dummy:tiny:awq", "dummy:tiny:awq-int8")
    plain, packed, int8 = (measure_memory(dummy_path(name), TurbomindEngineConfig(**shares)) for name in names)
    for use in (plain, packed, int8):
        weights, kv, _ = use.parts
        assert abs(weights.error) < 0.03
        assert abs(kv.error) < 0.03
        assert abs(use.unexplained_bytes) < 16 * 2**20
    assert plain.taken_bytes > packed.taken_bytes > int8.taken_bytes
    told = format_packed_rung(plain, packed).splitlines()
    numbers = [[float(cell) for cell in line[32:].split()] for line in told[1:]]
    *rows, sums, total, taken, lesson = numbers
    for column in range(3):
        assert sum(row[column] for row in rows) == pytest.approx(sums[column], abs=0.3)
        assert abs(sums[column] - total[column]) < 16
    assert taken[0] == pytest.approx(plain.taken_bytes / 2**20, abs=0.1)
    assert taken[2] == pytest.approx((packed.taken_bytes - plain.taken_bytes) / 2**20, abs=0.1)
    assert lesson == [LESSON_LADDER_MIB[0.01], LESSON_PACKED_MIB, LESSON_PACKED_MIB - LESSON_LADDER_MIB[0.01]]
