"""Ctrl-C at random places in the engine's code leaves it consistent, and loses no token but those being handed out."""

from __future__ import annotations

import random

import pytest
from engine_interrupts import run_interrupted


@pytest.fixture(scope="module", params=[False, True], ids=["one by one", "overlapped"])
def overlap(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def num_lines(overlap: bool) -> int:
    return run_interrupted(None, overlap=overlap)


@pytest.mark.parametrize("part", range(15))
def test_step_interrupted_at_a_random_line(num_lines: int, overlap: bool, part: int) -> None:
    at_line = random.SystemRandom().randrange(part * num_lines // 15, (part + 1) * num_lines // 15) + 1
    print("line", at_line)
    run_interrupted(at_line, overlap=overlap)
