"""One run of the real engine in a pool so small that requests are preempted, with the truth beside its events."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from lmcourse import GenerationConfig, TurbomindEngineConfig, model_path
from lmcourse.engine import Engine, EventLog

NUM_BLOCKS, TOKENS_PER_BLOCK = 10, 8


@dataclass(frozen=True)
class Recorded:
    """events, and after each step the block table and the number of computed tokens of every running request."""

    log: EventLog
    truth: dict[int, dict[int, tuple[tuple[int, ...], int]]]
    num_preemptions: int
    num_steps: int
    kept: frozenset[int]  # after the last step, by the prefix cache


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    """Nothing shared; some requests lose their blocks."""
    return record(prefix_caching=False)


@pytest.fixture(scope="session")
def recorded_sharing() -> Recorded:
    """All prompts begin alike, and blocks are found again."""
    return record(prefix_caching=True)


def record(*, prefix_caching: bool) -> Recorded:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    log, truth = EventLog(), {}
    config = TurbomindEngineConfig(
        cache_max_entry_count=NUM_BLOCKS,
        cache_block_seq_len=TOKENS_PER_BLOCK,
        max_prefill_token_num=24,
        session_len=64,
        enable_prefix_caching=prefix_caching,
        dtype="float32",
    )
    with Engine.from_folder(model_path("tiny-chat"), config, device="cpu", on_event=log) as engine:
        shared = list(range(100, 117 if prefix_caching else 100))
        for _ in range(5):
            prompt = shared + [rng.randrange(100, 4000) for _ in range(rng.randint(8, 20))]
            engine.add(prompt, GenerationConfig(max_new_tokens=rng.randint(25, 30), ignore_eos=True))
        while engine.has_work:
            engine.step()
            stats = engine.stats()
            running = engine._scheduler.running
            truth[stats.num_steps] = {r.request_id: (tuple(r.blocks), r.num_computed) for r in running}
        kept = frozenset(engine._scheduler.blocks._cached)
        return Recorded(log, truth, stats.num_preemptions, stats.num_steps, kept)


@pytest.fixture
def rng() -> random.Random:
    """A generator whose fresh seed is shown when the test fails."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    return random.Random(seed)
