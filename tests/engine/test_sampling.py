"""SamplingRule and the random numbers: neutral values, reproducibility, uniformity."""

from __future__ import annotations

import numpy as np
import pytest

from lmcourse.config import GenerationConfig
from lmcourse.engine.sampling import SamplingRule, draw_uniforms, make_sampling_rule


def rule_of(**settings: object) -> SamplingRule:
    return make_sampling_rule(GenerationConfig(**settings), banned_ids=(), stop_ids=frozenset({5, 2}))


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0}, 0.0),
        ({"temperature": 0, "do_sample": True}, 0.0),
        ({"temperature": 0.7, "do_sample": False}, 0.0),
        ({"top_p": 0.5}, 1.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.7}, 0.7),
        ({"random_seed": 1}, 1.0),
    ],
)
def test_make_sampling_rule_temperature(settings: dict, temperature: float) -> None:
    assert rule_of(**settings).temperature == temperature


def test_make_sampling_rule_neutral_values() -> None:
    rule = rule_of(random_seed=9)
    assert rule == SamplingRule(temperature=1.0, seed=9)


def test_make_sampling_rule_early_ids_only_with_min_new_tokens() -> None:
    assert rule_of().early_ids == ()
    assert rule_of(min_new_tokens=0).early_ids == ()
    assert (rule_of(min_new_tokens=3).early_ids, rule_of(min_new_tokens=3).min_new_tokens) == ((2, 5), 3)


def test_make_sampling_rule_without_seed_draws_fresh_ones() -> None:
    assert len({rule_of(do_sample=True).seed for _ in range(20)}) == 20


def test_draw_uniforms_is_a_function_of_seed_and_counter() -> None:
    seeds, counters = [0, 1, 2**64 - 1, 2**63], [0, 5, 77, 2**31]
    together = draw_uniforms(seeds, counters)
    alone = [draw_uniforms([seed], [counter])[0] for seed, counter in zip(seeds, counters, strict=True)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4


@pytest.mark.parametrize("along", ["seed", "counter"])
def test_draw_uniforms_are_uniform_and_independent(along: str) -> None:
    n = 40000
    numbers, fixed = list(range(n)), [12345] * n
    u = draw_uniforms(numbers, fixed) if along == "seed" else draw_uniforms(fixed, numbers)
    assert 0 <= u.min() < u.max() < 1
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    chi_square = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert chi_square < 160, "99 degrees of freedom, p < 1e-4"
    pairs = np.histogram2d(u[:-1], u[1:], bins=10, range=((0, 1), (0, 1)))[0]
    assert ((pairs - n / 100) ** 2 / (n / 100)).sum() < 160
