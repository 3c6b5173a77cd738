"""Scheduler: policy on small hand-made cases, then random workloads with an oracle."""

from __future__ import annotations

import contextlib
import random

import pytest
from engine_workloads import Job, Simulation, Workload, run_random_workloads
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.request import Request, RequestState
from lmcourse.engine.scheduler import Plan, Scheduler
from lmcourse.errors import MemoryBudgetError


def make_scheduler(num_blocks: int = 8, tokens_per_block: int = 4, max_running: int = 4, budget: int = 16) -> Scheduler:
    return Scheduler(BlockManager(num_blocks, tokens_per_block), max_running=max_running, max_tokens_per_step=budget)


def add(scheduler: Scheduler, request_id: int, prompt_len: int, num_new: int = 4) -> Request:
    request = Request(request_id, range(prompt_len), prompt_len + num_new)
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


def shares(plan: Plan) -> dict[int, tuple[int, int, bool]]:
    return {chunk.request.request_id: (chunk.start, chunk.stop, chunk.samples) for chunk in plan.chunks}


def test_schedule_several_short_prompts_in_one_step() -> None:
    scheduler = make_scheduler()
    for request_id, length in enumerate((3, 5, 1)):
        add(scheduler, request_id, length)
    assert shares(advance(scheduler)) == {0: (0, 3, True), 1: (0, 5, True), 2: (0, 1, True)}
    assert shares(advance(scheduler)) == {0: (3, 4, True), 1: (5, 6, True), 2: (1, 2, True)}


def test_schedule_long_prompt_in_chunks_beside_a_decode() -> None:
    scheduler = make_scheduler(num_blocks=16, budget=6)
    add(scheduler, 0, 2)
    advance(scheduler)
    add(scheduler, 1, 11)
    assert shares(advance(scheduler)) == {0: (2, 3, True), 1: (0, 5, False)}
    assert shares(advance(scheduler)) == {0: (3, 4, True), 1: (5, 10, False)}
    assert shares(advance(scheduler)) == {0: (4, 5, True), 1: (10, 11, True)}


def test_schedule_younger_decode_before_older_prompt() -> None:
    scheduler = make_scheduler(num_blocks=32, budget=4)
    add(scheduler, 0, 9)
    advance(scheduler)
    assert shares(advance(scheduler)) == {0: (4, 8, False)}
    add(scheduler, 1, 1)
    assert shares(advance(scheduler)) == {0: (8, 9, True), 1: (0, 1, True)}
    assert shares(advance(scheduler)) == {0: (9, 10, True), 1: (1, 2, True)}


def test_schedule_keeps_order_of_arrival_when_the_first_waiting_does_not_fit() -> None:
    scheduler = make_scheduler(num_blocks=4)
    add(scheduler, 0, 9, num_new=2)
    advance(scheduler)
    add(scheduler, 1, 8, num_new=2)
    add(scheduler, 2, 1, num_new=2)
    plan = advance(scheduler)
    assert shares(plan) == {0: (9, 10, True)}, "a request that would fit must not overtake one that does not"


def test_schedule_preempts_the_youngest_and_computes_it_again() -> None:
    scheduler = make_scheduler(num_blocks=3, tokens_per_block=2)
    old, young = add(scheduler, 0, 2, num_new=4), add(scheduler, 1, 2, num_new=3)
    advance(scheduler)
    plan = advance(scheduler)
    assert plan.preempted == (young,)
    assert young.state is RequestState.WAITING
    assert (young.num_computed, young.blocks, young.output_ids) == (0, [], [7])
    advance(scheduler)
    scheduler.remove(old)
    assert shares(advance(scheduler)) == {1: (0, 3, True)}


def test_schedule_never_preempts_an_older_request_for_a_waiting_one() -> None:
    scheduler = make_scheduler(num_blocks=2, tokens_per_block=4)
    add(scheduler, 0, 4, num_new=4)
    advance(scheduler)
    add(scheduler, 1, 4, num_new=1)
    plan = advance(scheduler)
    assert (plan.preempted, plan.admitted) == ((), ())


def test_schedule_runs_no_more_requests_than_the_budget_has_tokens() -> None:
    scheduler = make_scheduler(num_blocks=32, max_running=10, budget=3)
    for request_id in range(6):
        add(scheduler, request_id, 1, num_new=3)
    for _ in range(3):
        assert advance(scheduler).num_tokens <= 3
        assert len(scheduler.running) == 3


def test_schedule_with_nothing_to_do_is_empty() -> None:
    assert make_scheduler().schedule() == Plan(())


def test_add_request_larger_than_the_cache_raises() -> None:
    scheduler = make_scheduler(num_blocks=4, tokens_per_block=4)
    with pytest.raises(MemoryBudgetError, match="18 tokens, 5 blocks"):
        add(scheduler, 0, 10, num_new=8)
    add(scheduler, 1, 10, num_new=7)  # the 17th token is sampled but never cached
    assert not scheduler.running


def test_remove_waiting_and_running_requests_frees_blocks_at_once() -> None:
    scheduler = make_scheduler()
    running, waiting = add(scheduler, 0, 9), add(scheduler, 1, 9)
    scheduler.max_running = 1
    advance(scheduler)
    scheduler.remove(waiting)
    scheduler.check()
    scheduler.remove(running)
    scheduler.check()
    assert scheduler.blocks.num_free == 8
    assert {running.state, waiting.state} == {RequestState.FINISHED}


@pytest.mark.parametrize("broken_after", range(12))
def test_restart_mends_an_apply_interrupted_anywhere(broken_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = make_scheduler(num_blocks=3, tokens_per_block=2)
    requests = [add(scheduler, request_id, 2, num_new=3) for request_id in range(4)]
    advance(scheduler)
    plan = scheduler.schedule()
    assert plan.preempted
    countdown = iter(range(broken_after))

    def tick(self: Request, name: str, value: object) -> None:
        if next(countdown, None) is None:
            raise KeyboardInterrupt
        object.__setattr__(self, name, value)

    monkeypatch.setattr(Request, "__setattr__", tick)
    with contextlib.suppress(KeyboardInterrupt):
        scheduler.apply(plan)
    monkeypatch.undo()
    scheduler.restart(requests)
    scheduler.check()
    assert list(scheduler.waiting) == requests
    advance(scheduler)


def test_check_says_what_is_wrong() -> None:
    scheduler = make_scheduler()
    request = add(scheduler, 0, 5)
    advance(scheduler)
    request.blocks.pop()
    with pytest.raises(AssertionError, match="computed tokens in room for"):
        scheduler.check()


def test_500_random_workloads_match_the_sequential_oracle() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("first seed", seed)
    run_random_workloads(500, seed).check(at_least=500)


jobs = st.builds(
    Job,
    arrival=st.integers(0, 12),
    prompt_len=st.integers(1, 20),
    num_new=st.integers(1, 12),
    room=st.integers(12, 14),
    abort_at=st.none() | st.integers(0, 30),
    account=st.sampled_from((None, "Ada", "Ben")),
)


@settings(max_examples=150, deadline=None)
@given(
    jobs=st.lists(jobs, min_size=8, max_size=12),
    tokens_per_block=st.integers(1, 6),
    spare=st.integers(0, 12),
    max_running=st.integers(1, 12),
    budget=st.integers(1, 24),
    num_beginnings=st.none() | st.integers(1, 3),
    num_easy=st.none() | st.integers(1, 8),
)
def test_any_workload_conserves_blocks_and_starves_nobody(
    jobs, tokens_per_block, spare, max_running, budget, num_beginnings, num_easy
) -> None:
    jobs = tuple(sorted(jobs, key=lambda job: job.arrival))
    largest = max(-(-(job.prompt_len + job.room - 1) // tokens_per_block) for job in jobs)
    Simulation(Workload(largest + spare, tokens_per_block, max_running, budget, jobs, num_beginnings, num_easy)).run()
