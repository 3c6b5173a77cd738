"""The workloads of tests/engine, many more of them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "engine"))

from engine_interrupts import run_interrupted
from engine_runs import run_engine_workloads
from engine_workloads import run_random_workloads

pytestmark = pytest.mark.soak


def fresh_seed() -> int:
    seed = random.SystemRandom().randrange(2**32)
    print("first seed", seed)
    return seed


def test_scheduler_10000_random_workloads() -> None:
    run_random_workloads(10000, fresh_seed()).check(at_least=10000)


def test_engine_2000_random_workloads() -> None:
    run_engine_workloads(2000, fresh_seed()).check(at_least=2000)


@pytest.mark.parametrize("overlap", [False, True])
def test_engine_interrupted_at_1000_random_lines(overlap: bool) -> None:
    num_lines = run_interrupted(None, overlap=overlap)
    for at_line in random.SystemRandom().sample(range(1, num_lines + 1), 1000):
        try:
            run_interrupted(at_line, overlap=overlap)
        except AssertionError as error:
            raise AssertionError(f"interrupted at line {at_line}: {error}") from error
