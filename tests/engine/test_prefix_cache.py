"""Prefix caching: what is found, what is waited for, and that no token changes."""

from __future__ import annotations

import pytest
from engine_fakes import (
    MirrorDecoder,
    assert_same_greedy,
    make_engine,
    mirror_spec,
    random_decoder,
    random_prompt,
    run_all,
)

from lmcourse.config import GenerationConfig
from lmcourse.engine import events as ev
from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.events import EventLog
from lmcourse.engine.prefix_cache import PrefixCache
from lmcourse.engine.request import Request
from lmcourse.engine.scheduler import Plan, Scheduler
from lmcourse.spec import RotarySpec

SIZE = 4


def make_scheduler(num_blocks: int = 16, max_running: int = 8, budget: int = 64) -> Scheduler:
    blocks = BlockManager(num_blocks, SIZE)
    return Scheduler(blocks, max_running=max_running, max_tokens_per_step=budget, prefixes=PrefixCache(blocks))


def add(scheduler: Scheduler, request_id: int, ids, num_new: int = 8, **keywords) -> Request:
    request = Request(request_id, ids, len(ids) + num_new, **keywords)
    scheduler.add(request)
    return request


def advance(scheduler: Scheduler) -> Plan:
    plan = scheduler.schedule()
    scheduler.apply(plan)
    scheduler.record_launched(plan)
    for chunk in plan.chunks:
        if chunk.samples:
            chunk.request.append(7)
    scheduler.check()
    return plan


def starts(plan: Plan) -> dict[int, tuple[int, int]]:
    return {chunk.request.request_id: (chunk.start, chunk.stop) for chunk in plan.chunks}


@pytest.mark.parametrize(("length", "found"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (11, 8), (12, 8)])
def test_find_full_blocks_and_never_the_last_token(length: int, found: int) -> None:
    scheduler = make_scheduler()
    first = add(scheduler, 0, range(11))
    advance(scheduler)
    scheduler.remove(first)
    add(scheduler, 1, [*range(11), 99][:length])
    assert starts(advance(scheduler)) == {1: (found, length)}


def test_find_depends_on_everything_before() -> None:
    scheduler = make_scheduler()
    add(scheduler, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    advance(scheduler)
    add(scheduler, 1, [0, 2, 3, 4, 5, 6, 7, 8, 9])
    add(scheduler, 2, [1, 2, 3, 4, 5, 6, 7, 0, 9])
    assert {key: share for key, share in starts(advance(scheduler)).items() if key} == {1: (0, 9), 2: (4, 9)}


def test_find_depends_on_what_stands_behind_a_placeholder() -> None:
    scheduler = make_scheduler()
    image, other = {2: b"cat"}, {2: b"dog"}
    for request_id, (identity, found) in enumerate(((image, 0), (other, 0), (image, 8), ({}, 0), ({3: b"cat"}, 0))):
        add(scheduler, request_id, [9] * 9, identity=identity)
        assert starts(advance(scheduler))[request_id] == (found, 9)


def test_find_includes_answers_for_the_next_turn() -> None:
    scheduler = make_scheduler()
    first = add(scheduler, 0, range(6), num_new=20)
    for _ in range(8):
        advance(scheduler)
    assert first.token_ids == [*range(6), *[7] * 8]
    scheduler.remove(first)
    add(scheduler, 1, [*range(6), *[7] * 8, 50, 51])
    assert starts(advance(scheduler)) == {1: (12, 16)}


def test_awaits_the_first_of_many_with_a_new_prefix() -> None:
    scheduler = make_scheduler(num_blocks=64)
    for request_id in range(4):
        add(scheduler, request_id, [*range(8), 100 + request_id])
    assert starts(advance(scheduler)) == {0: (0, 9)}
    assert starts(advance(scheduler)) == {0: (9, 10), 1: (8, 9), 2: (8, 9), 3: (8, 9)}


def test_awaits_a_prefix_that_is_computed_in_chunks() -> None:
    scheduler = make_scheduler(budget=5)
    add(scheduler, 0, [*range(12), 100])
    add(scheduler, 1, [*range(12), 101])
    expected = [{0: (0, 5)}, {0: (5, 10)}, {0: (10, 13)}, {0: (13, 14), 1: (12, 13)}]
    assert [starts(advance(scheduler)) for _ in range(4)] == expected


def test_shared_blocks_have_a_user_each_and_outlive_their_first() -> None:
    scheduler = make_scheduler()
    first = add(scheduler, 0, range(9))
    advance(scheduler)
    second = add(scheduler, 1, [*range(8), 50, 51])
    advance(scheduler)
    assert first.blocks[:2] == second.blocks[:2]
    assert not set(first.blocks[2:]) & set(second.blocks[2:])
    scheduler.remove(first)
    scheduler.check()
    assert (scheduler.blocks.num_owned, scheduler.blocks.num_cached) == (3, 0)
    scheduler.remove(second)
    assert (scheduler.blocks.num_owned, scheduler.blocks.num_cached) == (0, 2)


def test_preempted_request_finds_its_blocks_again() -> None:
    scheduler = make_scheduler(num_blocks=6)
    old, young = add(scheduler, 0, range(8), num_new=9), add(scheduler, 1, range(50, 58), num_new=9)
    plans = [advance(scheduler) for _ in range(2)]
    while not plans[-1].preempted:
        plans.append(advance(scheduler))
    assert plans[-1].preempted == (young,)
    scheduler.remove(old)
    plan = advance(scheduler)
    assert [(hit.request, hit.num_tokens) for hit in plan.hits] == [(young, 8)]


def test_apply_shares_before_it_evicts() -> None:
    scheduler = make_scheduler(num_blocks=4)
    first = add(scheduler, 0, range(9), num_new=1)
    advance(scheduler)
    scheduler.remove(first)
    assert (scheduler.blocks.num_free, scheduler.blocks.num_cached) == (2, 2)
    again = add(scheduler, 1, [*range(8), *range(50, 57)], num_new=1)
    plan = advance(scheduler)
    assert (plan.hits[0].blocks, again.num_computed) == (tuple(again.blocks[:2]), 15)


@pytest.mark.parametrize("trained_context", [8, 64])
def test_dynamic_rotary_shares_only_what_is_turned_alike(trained_context: int) -> None:
    spec = mirror_spec(rotary=RotarySpec(scaling="dynamic", factor=2.0, trained_context=trained_context))
    engine = make_engine(MirrorDecoder(spec), enable_prefix_caching=True)
    for length in (17, 21, 17):
        engine.add([3] * length, GenerationConfig(max_new_tokens=1))
        run_all(engine)
    assert engine.stats().num_hit_tokens == (16 if trained_context == 8 else 32)


@pytest.mark.parametrize("budget", [7, 40, 8192])
@pytest.mark.parametrize("num_blocks", [14, 64])
def test_tokens_are_the_same_with_and_without(budget: int, num_blocks: int, rng) -> None:
    decoder = random_decoder(rng.randrange(2**31))
    beginnings = [random_prompt(rng, 97, 2 * SIZE, 20), *(random_prompt(rng, 97, 0, 20) for _ in range(2))]
    kinds = [0, 0, *rng.choices(range(3), k=10)]  # the first is still running when the second finds its blocks
    prompts = [beginnings[kind] + random_prompt(rng, 97, 1, 12) for kind in kinds]
    answers = []
    for caching in (False, True):
        config = {"cache_max_entry_count": num_blocks, "max_prefill_token_num": budget, "max_batch_size": 5}
        engine = make_engine(decoder, enable_prefix_caching=caching, **config)
        for prompt in prompts:
            engine.add(prompt, GenerationConfig(max_new_tokens=12))
        outputs = run_all(engine)
        answers.append([outputs[key].token_ids for key in range(len(prompts))])
    assert_same_greedy(decoder, prompts, answers[1], answers[0])
    assert engine.stats().num_hit_tokens > 0


def test_64_requests_with_one_system_prompt_compute_it_once(rng) -> None:
    system = random_prompt(rng, 97, 1024, 1024)
    prompts = [system + random_prompt(rng, 97, 1, 30) for _ in range(64)]
    decoder, answers, computed = random_decoder(rng.randrange(2**31), max_context=2048), [], []
    for caching in (False, True):
        log = EventLog()
        config = {"cache_block_seq_len": 64, "cache_max_entry_count": 64 * 18, "session_len": 1100}
        engine = make_engine(decoder, enable_prefix_caching=caching, on_event=log, **config)
        for prompt in prompts:
            engine.add(prompt, GenerationConfig(max_new_tokens=4))
        outputs = run_all(engine)
        answers.append([outputs[key].token_ids for key in range(len(prompts))])
        computed.append(sum(e.stop - e.start for e in log if isinstance(e, ev.TokensScheduled) and e.kind == "prefill"))
    assert_same_greedy(decoder, prompts, answers[1], answers[0])
    print(f"prefill tokens: {computed[0]} without, {computed[1]} with")
    assert computed[0] == sum(map(len, prompts))
    assert computed[1] <= 0.1 * computed[0]
    stats = engine.stats()
    assert stats.num_hit_tokens == computed[0] - computed[1] == 63 * 1024
    assert stats.hit_ratio == stats.num_hit_tokens / stats.num_admitted_tokens > 0.9
    assert stats.num_free_blocks + stats.num_cached_blocks == stats.num_blocks


def test_events_tell_of_shared_and_cached_blocks() -> None:
    log = EventLog()
    engine = make_engine(MirrorDecoder(mirror_spec(rotary=RotarySpec(scaling="dynamic"))),
                         enable_prefix_caching=True, on_event=log)  # fmt: skip
    for _ in range(2):
        engine.add([5] * 9, GenerationConfig(max_new_tokens=2))
        run_all(engine)
    (shared,) = [event for event in log if isinstance(event, ev.BlocksShared)]
    released = [event.blocks for event in log if isinstance(event, ev.BlocksReleased)]
    assert (shared.request_id, shared.blocks, shared.num_tokens) == (1, released[0][:2], 8)
    assert released[1][:2] == shared.blocks
    steps = [(e.num_cached_blocks, e.num_hit_tokens) for e in log if isinstance(e, ev.StepFinished)]
    assert steps == [(0, 0), (2, 0), (0, 8), (2, 0)]


def test_interrupted_step_forgets_what_was_cached(rng) -> None:
    decoder = MirrorDecoder(mirror_spec(rotary=RotarySpec(scaling="dynamic")))
    engine = make_engine(decoder, enable_prefix_caching=True)
    engine.add([5] * 9, GenerationConfig(max_new_tokens=2))
    run_all(engine)
    engine.add([5] * 9, GenerationConfig(max_new_tokens=2))

    def interrupt() -> None:
        raise KeyboardInterrupt

    decoder.before_forward = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine.check()
    assert engine.stats().num_cached_blocks == 0
    decoder.before_forward = lambda: None
    run_all(engine)
