"""Exercise 7.2: bytes, FLOPs and a machine → the most tokens per second that decoding can reach.

Lesson: 7 (the limit above each bar)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["DECODE_LIMIT", "reach_limit"]

Model = dict[str, float]
Machine = dict[str, float]


def reach_limit(model: Model, machine: Machine, batch: int, context: int) -> float:
    """Written apart from accounting.py, so that the two can be compared."""
    num_bytes = model["weight_bytes"] + batch * context * model["kv_bytes_per_token"]
    flops = batch * 2 * model["weights"]
    return batch / max(num_bytes / machine["bytes_per_second"], flops / machine["flops_per_second"])


def _variant(change: Callable[[Model, Machine, int, int], tuple[float, float, float]]) -> Callable[..., float]:
    """A wrong way: `change` gives tokens, seconds of bytes and seconds of FLOPs."""

    def wrong(model: Model, machine: Machine, batch: int, context: int) -> float:
        tokens, reading, computing = change(model, machine, batch, context)
        return tokens / max(reading, computing)

    return wrong


def _seconds(model: Model, machine: Machine, batch: int, context: int) -> tuple[float, float]:
    num_bytes = model["weight_bytes"] + batch * context * model["kv_bytes_per_token"]
    return num_bytes / machine["bytes_per_second"], batch * 2 * model["weights"] / machine["flops_per_second"]


def _without_cache(model: Model, machine: Machine, batch: int, context: int) -> tuple[float, float, float]:
    return batch, *_seconds(model, machine, batch, 0)


def _weights_each(model: Model, machine: Machine, batch: int, context: int) -> tuple[float, float, float]:
    reading, computing = _seconds(model, machine, 1, context)
    return batch, batch * reading, batch * computing


def _cache_once(model: Model, machine: Machine, batch: int, context: int) -> tuple[float, float, float]:
    reading, _ = _seconds(model, machine, 1, context)
    return batch, reading, _seconds(model, machine, batch, context)[1]


def _one_flop(model: Model, machine: Machine, batch: int, context: int) -> tuple[float, float, float]:
    reading, computing = _seconds(model, machine, batch, context)
    return batch, reading, computing / 2


def _steps(model: Model, machine: Machine, batch: int, context: int) -> tuple[float, float, float]:
    return 1, *_seconds(model, machine, batch, context)


def _added(model: Model, machine: Machine, batch: int, context: int) -> float:
    return batch / sum(_seconds(model, machine, batch, context))


def _make_cases(rng: random.Random) -> Iterator[Case]:
    h200: Machine = {"bytes_per_second": 4.2e12, "flops_per_second": 752e12}
    real: Model = {"weights": 1.70e9, "weight_bytes": 3.40e9, "kv_bytes_per_token": 98_304}
    inputs: list[tuple[Model, Machine, int, int]] = [(real, h200, 1, 256), (real, h200, 64, 1024)]
    slow: Machine = {"bytes_per_second": 2.0e10, "flops_per_second": 2.5e10}
    inputs.append(({"weights": 5e6, "weight_bytes": 2e7, "kv_bytes_per_token": 8192}, slow, 32, 100))
    for _ in range(6):
        weights = rng.randint(1, 700) * 10**7
        model: Model = {
            "weights": weights,
            "weight_bytes": weights * rng.choice([0.53, 2, 4]),
            "kv_bytes_per_token": 1024 * rng.randint(8, 512),
        }
        bandwidth = rng.choice([5e10, 3e11, 2e12])
        machine: Machine = {"bytes_per_second": bandwidth, "flops_per_second": bandwidth * rng.choice([5, 40, 200])}
        inputs.append((model, machine, rng.choice([2, 8, 64, 256]), rng.randint(64, 4096)))
    for model, machine, batch, context in inputs:
        shown = f"model={model}, machine={machine}, batch={batch}, context={context}"
        yield Case(shown, partial(_copied, model, machine, batch, context), reach_limit(model, machine, batch, context))


def _copied(model: Model, machine: Machine, batch: int, context: int) -> tuple[Model, Machine, int, int]:
    return dict(model), dict(machine), batch, context


DECODE_LIMIT = Exercise(
    id="7.2",
    title="The limit above the bar",
    signature="decode_limit(model, machine, batch, context) → tokens per second",
    difficulty=2,
    minutes=18,
    hints=(
        "One decode step gives every request of the batch one token. What must be read in a step, and what of it is "
        "shared by all requests? What must be computed? Whichever takes longer decides.",
        "Bytes of a step: all weights once, and for each request its own cache of `context` tokens. FLOPs of a step: "
        "two for each weight and request. Turn both into seconds with the machine's two speeds.",
        "seconds = max(num_bytes / machine['bytes_per_second'], flops / machine['flops_per_second']), with num_bytes = "
        "weight_bytes + batch * context * kv_bytes_per_token and flops = batch * 2 * weights. A step makes `batch` "
        "tokens.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_variant(_without_cache), "the KV cache is missing: each request's cache is read in every step"),
        Mistake(
            _variant(_weights_each), "weights are read once per step for the whole batch; that is what batching is"
        ),
        Mistake(_variant(_cache_once), "each request has a cache of its own: the batch reads `batch` of them"),
        Mistake(_variant(_one_flop), "a multiplication and an addition are two FLOPs per weight"),
        Mistake(_variant(_steps), "that is steps per second; a step makes one token for each request"),
        Mistake(_added, "reading and computing happen at the same time: the longer decides, they do not add up"),
        Mistake(
            lambda model, machine, batch, context: batch / _seconds(model, machine, batch, context)[0],
            "only bytes count here; with a large batch arithmetic may take longer",
        ),
    ),
)
