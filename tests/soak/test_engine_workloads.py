"""The workloads of tests/engine, many more of them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "engine"))

from engine_interrupts import run_interrupted
from engine_runs import run_engine_workloads
from engine_workloads import Job, Simulation, Workload, run_random_workloads
from hypothesis import given, settings
from hypothesis import strategies as st

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


hard_jobs = st.builds(
    Job,
    arrival=st.integers(0, 20),
    prompt_len=st.integers(1, 24),
    num_new=st.integers(1, 16),
    room=st.integers(16, 20),
    abort_at=st.none() | st.integers(0, 40),
)


@settings(max_examples=3000, deadline=None)
@given(
    jobs=st.lists(hard_jobs, min_size=4, max_size=24),
    tokens_per_block=st.integers(1, 6),
    spare=st.integers(0, 2),
    max_running=st.integers(1, 24),
    budget=st.integers(1, 40),
    num_beginnings=st.none() | st.integers(1, 3),
)
def test_pool_exhausted_ends_every_request_and_leaks_no_block(
    jobs, tokens_per_block, spare, max_running, budget, num_beginnings
) -> None:
    """Pools with room for the largest request and next to nothing more; the simulation checks every step."""
    jobs = tuple(sorted(jobs, key=lambda job: job.arrival))
    largest = max(-(-(job.prompt_len + job.room - 1) // tokens_per_block) for job in jobs)
    Simulation(Workload(largest + spare, tokens_per_block, max_running, budget, jobs, num_beginnings)).run()
