"""Ctrl-C at random places in the engine's code leaves it consistent, and loses no token but those being handed out."""

from __future__ import annotations

import random

import pytest
from engine_interrupts import run_interrupted


@pytest.fixture(scope="module")
def num_lines() -> int:
    return run_interrupted(None)


@pytest.mark.parametrize("part", range(25))
def test_step_interrupted_at_a_random_line(num_lines: int, part: int) -> None:
    at_line = random.SystemRandom().randrange(part * num_lines // 25, (part + 1) * num_lines // 25) + 1
    print("line", at_line)
    run_interrupted(at_line)
