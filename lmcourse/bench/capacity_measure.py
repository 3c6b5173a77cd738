"""Measuring a StepTable: steps of an engine in their own rhythm, one interval after the other.

    decode    `batch` requests, their prompts computed, nothing else: the median time from one step's end to the next
    prompts   so many prompts at once, each with one token of answer: from asking to the last token
    mixed     as decode, and one prompt comes in: the step (or, where steps overlap, the two) that take it, less the
              plain ones among them

Every shape runs twice before it is timed: the first run compiles, the second records (engine/graphs.py).

Lesson: 5 (how many students)
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmcourse.bench.capacity_steps import DecodePoint, MixedPoint, PromptPoint, StepTable
from lmcourse.bench.measure import run_engine
from lmcourse.bench.stand import Stand
from lmcourse.bench.workloads import mixed_requests
from lmcourse.config import GenerationConfig
from lmcourse.errors import ConfigError

if TYPE_CHECKING:
    from lmcourse.engine import Engine

__all__ = ["Grid", "measure_steps"]

_SETTLING_STEPS = 4
_WARM_RUNS = 2


@dataclass(frozen=True)
class Grid:
    """Which steps are timed."""

    decodes: tuple[tuple[int, int], ...]  # batch, context
    prompts: tuple[tuple[int, int], ...]  # count, tokens each
    mixed: tuple[tuple[int, int, int], ...] = ()  # batch, context, tokens of the prompt
    num_steps: int = 24  # intervals per decode point
    repeats: int = 3  # of prompts and mixed steps

    @property
    def longest(self) -> int:
        """Tokens that a request may have, with what it says while others' prompts are computed."""
        decoding = max(context for _, context, *_ in (*self.decodes, *self.mixed))
        return 2 * max(decoding + self.num_steps, max(each for _, each in self.prompts))

    @property
    def most_requests(self) -> int:
        return max(*(batch + 1 for batch, *_ in (*self.decodes, *self.mixed)), *(count for count, _ in self.prompts))


def measure_steps(stand: Stand, grid: Grid) -> StepTable:
    """ConfigError if the stand's KV cache does not hold what the grid asks for."""
    engine, stats = stand.engine, stand.engine.stats()
    _check_room(grid, stats.num_blocks * stats.tokens_per_block)
    draw = random.Random(0)
    prompts = tuple(_time_prompts(stand, count, each, grid.repeats) for count, each in grid.prompts)
    decode = tuple(_time_decode(stand, draw, shape, grid.num_steps) for shape in grid.decodes)
    mixed = tuple(_time_mixed(stand, draw, shape, grid.repeats) for shape in grid.mixed)
    config = engine.config
    return StepTable(
        head=stand.head("steps"),
        decode=decode,
        prompts=prompts,
        mixed=mixed,
        num_blocks=stats.num_blocks,
        tokens_per_block=stats.tokens_per_block,
        max_running=config.max_batch_size,
        max_tokens_per_step=config.max_prefill_token_num,
        overlap=stand.device.type == "cuda" if config.overlap is None else config.overlap,
    )


def _check_room(grid: Grid, kv_tokens: int) -> None:
    for batch, context in [(batch, context) for batch, context, *_ in (*grid.decodes, *grid.mixed)]:
        if batch * (context + 2 * grid.num_steps) > kv_tokens:
            raise ConfigError(
                "the KV cache is too small for these steps",
                expected=f"at most {kv_tokens} tokens",
                got=f"{batch} requests of {context} tokens and their answers",
                next_step="time fewer or shorter ones, or raise cache_max_entry_count",
            )


def _time_prompts(stand: Stand, count: int, each: int, repeats: int) -> PromptPoint:
    times = []
    for seed in range(_WARM_RUNS + repeats):
        requests = mixed_requests(
            count, vocab=stand.spec.vocab, seed=seed, prompt_lens=(each, each), output_lens=(1, 1)
        )
        started = time.perf_counter()
        run_engine(stand.engine, requests)
        times.append(time.perf_counter() - started)
    return PromptPoint(count, each, _to_ms(times[_WARM_RUNS:]))


def _time_decode(stand: Stand, draw: random.Random, shape: tuple[int, int], num_steps: int) -> DecodePoint:
    """The context is what the timed steps had on average: the first to be ready decode while the last prompts run."""
    batch, _ = shape
    with _decoding(stand, draw, shape, _SETTLING_STEPS + num_steps) as computed_before:
        for _ in range(_SETTLING_STEPS):
            stand.engine.step()
        first = stand.engine.stats().num_computed_tokens - computed_before
        times = [_step(stand.engine) for _ in range(num_steps)]
        last = stand.engine.stats().num_computed_tokens - computed_before
    return DecodePoint(batch, round((first + last) / 2 / batch), _to_ms(times))


def _time_mixed(stand: Stand, draw: random.Random, shape: tuple[int, int, int], repeats: int) -> MixedPoint:
    """Three steps from the prompt's coming on hold its chunk whether steps overlap or not; two of them are plain."""
    batch, context, each = shape
    times = []
    for _ in range(_WARM_RUNS + repeats):
        with _decoding(stand, draw, (batch, context), 2 * _SETTLING_STEPS):
            plain = [_step(stand.engine) for _ in range(_SETTLING_STEPS)]
            _add(stand, draw, each, 1)
            three = [_step(stand.engine) for _ in range(3)]
            one = statistics.median(plain[1:])
            times.append(max(one, sum(three) - 2 * one))  # where a prompt is nothing, noise is not less than that
    return MixedPoint(batch, context, each, _to_ms(times[_WARM_RUNS:]))


@contextmanager
def _decoding(stand: Stand, draw: random.Random, shape: tuple[int, int], num_steps: int) -> Iterator[int]:
    """So many requests that all decode, for so many steps at least; gives the tokens computed before they came."""
    engine, (batch, context) = stand.engine, shape
    before = engine.stats().num_computed_tokens
    prompt_steps = -(-batch * context // engine.config.max_prefill_token_num)
    silent = {_add(stand, draw, context, prompt_steps + num_steps + 4) for _ in range(batch)}
    while silent:
        silent -= {output.request_id for output in engine.step()}
    try:
        yield before
    finally:
        for request_id in engine.unfinished():
            engine.abort(request_id)


def _add(stand: Stand, draw: random.Random, prompt_len: int, num_outputs: int) -> int:
    prompt = draw.choices(range(stand.spec.vocab), k=prompt_len)
    return stand.engine.add(prompt, GenerationConfig(max_new_tokens=num_outputs, ignore_eos=True))


def _step(engine: Engine) -> float:
    started = time.perf_counter()
    engine.step()
    return time.perf_counter() - started


def _to_ms(seconds: Sequence[float]) -> float:
    return float(f"{1000 * statistics.median(seconds):.5g}")
