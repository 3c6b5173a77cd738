"""Alike beginnings meet, loads stay within the cap, and a replica that goes moves nobody else's requests."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from lmcourse.replicas.routing import order_replicas, prefix_key


@pytest.fixture
def rng() -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


def test_prefix_key_is_that_of_the_first_full_blocks_alone(rng) -> None:
    first = [rng.randrange(92_544) for _ in range(128)]
    key = prefix_key(first, 64)
    assert key is not None
    assert all(prefix_key([*first, *range(n)], 64) == key for n in (1, 63, 64, 500))
    other = list(first)
    other[rng.randrange(128)] += 1
    assert prefix_key(other, 64) != key
    assert prefix_key(first[:63], 64) is None
    assert prefix_key(first[:64], 64) == prefix_key(first[:100], 64) != key


def test_order_replicas_with_a_key_is_stable_when_another_replica_goes(rng) -> None:
    names = [f"r{i}" for i in range(7)]
    keys = [rng.randbytes(16) for _ in range(300)]
    before = {key: order_replicas(key, dict.fromkeys(names, 0)) for key in keys}
    gone = rng.choice(names)
    for key, order in before.items():
        left = order_replicas(key, dict.fromkeys([name for name in names if name != gone], 0))
        assert left == [name for name in order if name != gone]
    firsts = Counter(order[0] for order in before.values())
    assert set(firsts) == set(names)  # 300 keys over 7: nobody is left out (chance below 1e-18)


def test_order_replicas_caps_the_load_of_a_popular_prefix(rng) -> None:
    names = [f"r{i}" for i in range(4)]
    key = rng.randbytes(16)
    loads = dict.fromkeys(names, 0)
    for _ in range(400):
        loads[order_replicas(key, loads)[0]] += 1
    assert max(loads.values()) <= math.floor(1.25 * 400 / 4) + 1
    assert loads[order_replicas(key, dict.fromkeys(names, 0))[0]] == max(loads.values())


def test_order_replicas_without_a_key_takes_the_least_loaded(rng) -> None:
    loads = {f"r{i}": load for i, load in enumerate(rng.sample(range(100), 9))}
    assert order_replicas(None, loads) == sorted(loads, key=loads.__getitem__)


@pytest.mark.parametrize("key", [None, b"a prefix"])
def test_order_replicas_puts_those_to_avoid_last(rng, key) -> None:
    loads = {f"r{i}": rng.randrange(5) for i in range(6)}
    avoid = set(rng.sample(sorted(loads), 2))
    order = order_replicas(key, loads, avoid)
    assert set(order[-2:]) == avoid
    assert order_replicas(key, {}, avoid) == []
