"""Exercise 9.4: a device, weights and cache_max_entry_count → how many KV blocks, and what the engine takes in all.

Lesson: 9 (deploying with a cache ratio of 0.4)
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import partial

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["ENGINE_SHARE", "take_share"]


def take_share(device_bytes: int, weight_bytes: int, block_bytes: int, entry_count: float) -> tuple[int, int]:
    """(blocks, bytes of weights and blocks together); below 1 a share of what is free, from 1 on a number of blocks."""
    free_bytes = device_bytes - weight_bytes
    num_blocks = math.floor(free_bytes * entry_count / block_bytes if entry_count < 1 else entry_count)
    return num_blocks, weight_bytes + num_blocks * block_bytes


def _wrong(
    *,
    free: Callable[[int, int], int] = lambda device, weights: device - weights,
    whole: Callable[[float], int] = math.floor,
    total: Callable[[int, int], int] = lambda weights, cache: weights + cache,
    always_a_share: bool = False,
) -> Callable[..., tuple[int, int]]:
    def answer(device_bytes: int, weight_bytes: int, block_bytes: int, entry_count: float) -> tuple[int, int]:
        share = always_a_share or entry_count < 1
        num_blocks = whole(free(device_bytes, weight_bytes) * entry_count / block_bytes if share else entry_count)
        return num_blocks, total(weight_bytes, num_blocks * block_bytes)

    return answer


def _share_of_all(device_bytes: int, weight_bytes: int, block_bytes: int, entry_count: float) -> tuple[int, int]:
    """Weights and cache together take the share."""
    if entry_count >= 1:
        return take_share(device_bytes, weight_bytes, block_bytes, entry_count)
    num_blocks = math.floor(max(0.0, device_bytes * entry_count - weight_bytes) / block_bytes)
    return num_blocks, weight_bytes + num_blocks * block_bytes


def _make_cases(rng: random.Random) -> Iterator[Case]:
    slice_bytes, fp16, four_bit, block = 8 * 10**9, 3_778_220_032, 1_570_000_000, 64 * 98_304
    inputs: list[tuple[int, int, int, float]] = [
        (slice_bytes, fp16, block, 0.8),  # the lesson's slice of an A100, and its settings
        (slice_bytes, four_bit, block, 0.4),
        (slice_bytes, fp16, block, 64),
    ]
    for _ in range(6):
        device = rng.randint(6, 80) * 10**9 + rng.randrange(10**6)
        weights = rng.randint(10**9, device // 2)
        entry_count = rng.choice([0.01, 0.2, 0.4, 0.5, 0.8, rng.randint(2, 400)])
        inputs.append((device, weights, 64 * 1024 * rng.randint(8, 512), entry_count))
    inputs.append((*inputs[-1][:3], 1))  # one block, and not all that is free
    for given in inputs:
        names = ("device_bytes", "weight_bytes", "block_bytes", "entry_count")
        shown = ", ".join(f"{name}={value:,}" for name, value in zip(names, given, strict=True))
        yield Case(shown, partial(tuple, given), take_share(*given))


ENGINE_SHARE = Exercise(
    id="9.4",
    title="What the engine will take",
    signature="engine_share(device_bytes, weight_bytes, block_bytes, entry_count) → (blocks, bytes)",
    difficulty=1,
    minutes=12,
    hints=(
        "Draw the device as a strip. First come the weights. Which part of the strip does cache_max_entry_count speak "
        "of, and what does a number like 64 mean in its place?",
        "Free is what the weights leave. Below 1 the cache gets that share of the free bytes, in whole blocks; from 1 "
        "on the number is the number of blocks. The engine takes the weights and the blocks that it made.",
        "num_blocks = math.floor(free * entry_count / block_bytes) if entry_count < 1, else int(entry_count). Bytes: "
        "weight_bytes + num_blocks * block_bytes, so a part of a block is not counted.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            _wrong(free=lambda device, weights: device),
            "the share is of what the weights leave free, not of the whole device (0.2 was never «20 % of the memory»)",
        ),
        Mistake(_share_of_all, "the share is the cache's alone; weights are taken before, and come on top"),
        Mistake(_wrong(whole=math.ceil), "a block that does not fit whole is not made: round down"),
        Mistake(_wrong(whole=round), "a block that does not fit whole is not made: round down"),
        Mistake(_wrong(total=lambda weights, cache: cache), "the weights are part of what the engine takes"),
        Mistake(_wrong(always_a_share=True), "from 1 on, cache_max_entry_count is a number of blocks"),
        Mistake(
            lambda device, weights, block, entry_count: take_share(device, weights, block, entry_count)[::-1],
            "the right numbers in the wrong order: blocks come first",
        ),
    ),
)
