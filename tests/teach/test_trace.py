"""Tables say what the engine did: held against the scheduler's own block tables, step by step."""

from __future__ import annotations

from collections import Counter

import pytest

from lmcourse.engine.events import BlocksAllocated, RequestAdded, StepInterrupted, TokensScheduled
from lmcourse.errors import ConfigError
from lmcourse.teach import pool_states, timeline
from lmcourse.teach.trace import letter

NUM_BLOCKS, TOKENS_PER_BLOCK = 10, 8  # of the recorded run


@pytest.fixture
def states(recorded):
    return pool_states(recorded.log, num_blocks=NUM_BLOCKS, tokens_per_block=TOKENS_PER_BLOCK)


def test_pool_states_equal_the_schedulers_tables(recorded, states) -> None:
    assert recorded.num_preemptions > 0, "the pool was to be too small"
    seen = {state.step: state for state in states}
    for step, requests in recorded.truth.items():
        for request_id, (table, computed) in requests.items():
            for place, block in enumerate(table):
                (use,) = [use for use in seen[step].uses[block] if use.request_id == request_id]
                assert use.num_tokens == min(max(computed - place * TOKENS_PER_BLOCK, 0), TOKENS_PER_BLOCK)


def test_pool_states_hold_no_block_that_is_not_owned(recorded, states) -> None:
    """What a state shows beyond the tables after its step belonged to requests that ended with it."""
    seen = {state.step: state for state in states}
    for step, requests in recorded.truth.items():
        owned = {(request_id, block) for request_id, (table, _) in requests.items() for block in table}
        shown = {(use.request_id, block) for block, uses in seen[step].uses.items() for use in uses}
        ended = {request_id for request_id, _ in shown} - set(requests)
        assert {pair for pair in shown if pair[0] not in ended} == owned
        assert all(request_id not in later for request_id in ended for s, later in recorded.truth.items() if s > step)


def test_pool_states_with_prefix_caching_share_and_keep_blocks(recorded_sharing) -> None:
    run = recorded_sharing
    states = pool_states(run.log, num_blocks=NUM_BLOCKS, tokens_per_block=TOKENS_PER_BLOCK, prefix_caching=True)
    seen = {state.step: state for state in states}
    for step, requests in run.truth.items():
        owned = {(request_id, block) for request_id, (table, _) in requests.items() for block in table}
        shown = {(use.request_id, block) for block, uses in seen[step].uses.items() for use in uses}
        assert owned == {pair for pair in shown if pair[0] in requests}
    assert any(len(uses) > 1 for state in states for uses in state.uses.values())
    assert states[-1].kept == run.kept != frozenset()
    assert not any(state.kept & set(state.uses) for state in states)


def test_pool_states_end_with_an_empty_pool(recorded, states) -> None:
    assert [state.step for state in states] == list(range(1, recorded.num_steps + 2))
    assert not states[-1].uses
    assert states[-1].waste == 0.0


def test_pool_state_counts_a_shared_block_once() -> None:
    events = [RequestAdded(0, 0.0, 0, 4, 9), RequestAdded(0, 0.0, 1, 6, 9)]
    events += [BlocksAllocated(1, 0.0, 0, (3,)), BlocksAllocated(1, 0.0, 1, (3, 1))]
    events += [TokensScheduled(1, 0.0, 0, 0, 4, samples=True, kind="prefill")]
    events += [TokensScheduled(1, 0.0, 1, 4, 6, samples=True, kind="prefill")]
    first, _ = pool_states(events, num_blocks=5, tokens_per_block=4)
    assert {block: [(use.request_id, use.num_tokens) for use in uses] for block, uses in first.uses.items()} == {
        1: [(1, 2)],
        3: [(0, 4), (1, 4)],
    }
    assert first.num_slots_owned == 8
    assert first.waste == 0.25
    assert dict(first.doing) == {0: "prefill 4 tokens", 1: "prefill 2 tokens"}


def test_pool_states_after_an_interruption_are_empty() -> None:
    events = [RequestAdded(0, 0.0, 0, 4, 9), BlocksAllocated(1, 0.0, 0, (3,))]
    events += [TokensScheduled(1, 0.0, 0, 0, 4, samples=True, kind="prefill"), StepInterrupted(1, 0.0, "boom")]
    *_, last = pool_states(events, num_blocks=5, tokens_per_block=4)
    assert not last.uses
    assert dict(last.doing) == {0: "wait"}


def test_pool_states_refuse_another_pool() -> None:
    events = [BlocksAllocated(1, 0.0, 0, (7,)), TokensScheduled(1, 0.0, 0, 0, 4, samples=True, kind="prefill")]
    with pytest.raises(ConfigError, match="0 to 4"):
        pool_states(events, num_blocks=5, tokens_per_block=4)


def test_timeline_holds_every_computed_token(recorded) -> None:
    table = timeline(recorded.log)
    scheduled = Counter()
    for event in recorded.log:
        if isinstance(event, TokensScheduled):
            scheduled[event.step] += event.stop - event.start
    computed = Counter()
    for work in table.work:
        computed[work.step] += work.num_tokens
    assert computed == scheduled
    assert table.num_steps == recorded.num_steps
    assert table.request_ids == (0, 1, 2, 3, 4)
    marks = Counter(mark.what for mark in table.marks)
    assert marks == {"came": 5, "ended": 5, "preempted": recorded.num_preemptions}


def test_letter_counts_like_a_spreadsheet() -> None:
    assert [letter(n) for n in (0, 1, 25, 26, 51, 52, 701, 702)] == ["A", "B", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
