"""Events: they add up to what the engine did, and nobody pays for them who does not listen."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import pytest
from engine_fakes import MirrorDecoder, make_engine, random_prompt, run_all

from lmcourse.config import GenerationConfig
from lmcourse.engine import events as ev
from lmcourse.engine.events import EventLog, Reporter


def test_events_replay_the_block_map(rng) -> None:
    log = EventLog()
    engine = make_engine(MirrorDecoder(), cache_max_entry_count=12, max_prefill_token_num=9, on_event=log)
    prompts = [random_prompt(rng, 50, 1, 20) for _ in range(10)]
    ids = [engine.add(prompt, GenerationConfig(max_new_tokens=12)) for prompt in prompts]
    run_all(engine)
    owned: dict[int, list[int]] = defaultdict(list)
    for event in log:
        match event:
            case ev.BlocksAllocated(request_id=key, blocks=blocks):
                assert not set(blocks) & {block for table in owned.values() for block in table}
                owned[key] += blocks
            case ev.BlocksReleased(request_id=key, blocks=blocks):
                assert owned.pop(key) == list(blocks)
            case ev.StepFinished():
                assert event.num_free_blocks == 12 - sum(map(len, owned.values()))
    assert not owned
    assert any(isinstance(event, ev.RequestPreempted) for event in log)
    ends = [event for event in log if isinstance(event, ev.RequestFinished)]
    assert sorted(event.request_id for event in ends) == ids
    assert {event.reason for event in ends} == {"length"}


def test_events_of_one_request_in_order() -> None:
    log = EventLog()
    engine = make_engine(MirrorDecoder(), max_prefill_token_num=4, on_event=log)
    engine.add([1, 2, 3, 4, 5], GenerationConfig(max_new_tokens=2))
    run_all(engine)
    kinds = [type(event).__name__ for event in log if not isinstance(event, ev.StepFinished)]
    assert kinds == [
        "RequestAdded", "TokensScheduled", "BlocksAllocated", "TokensScheduled", "TokensScheduled",
        "RequestFinished", "BlocksReleased",
    ]  # fmt: skip
    ranges = [(e.step, e.start, e.stop, e.samples, e.kind) for e in log if isinstance(e, ev.TokensScheduled)]
    assert ranges == [(1, 0, 4, False, "prefill"), (2, 4, 5, True, "prefill"), (3, 5, 6, True, "decode")]
    times = [event.time_seconds for event in log]
    assert times == sorted(times)


def test_step_finished_sums_and_times() -> None:
    log = EventLog()
    engine = make_engine(MirrorDecoder(), on_event=log)
    for length in (3, 4):
        engine.add([1] * length, GenerationConfig(max_new_tokens=2))
    run_all(engine)
    steps = [event for event in log if isinstance(event, ev.StepFinished)]
    assert [(step.num_tokens, step.num_decodes, step.num_running) for step in steps] == [(7, 0, 2), (2, 2, 0)]
    for step in steps:
        assert min(step.schedule_seconds, step.model_seconds, step.sample_seconds) > 0


def test_events_are_frozen_rows() -> None:
    event = ev.RequestAdded(0, 0.5, 3, 4, 5)
    assert dataclasses.asdict(event) == {
        "step": 0, "time_seconds": 0.5, "request_id": 3, "prompt_len": 4, "max_tokens": 5,
    }  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.step = 1


def test_abort_and_interruption_are_told() -> None:
    log, decoder = EventLog(), MirrorDecoder()
    engine = make_engine(decoder, on_event=log)
    request_id = engine.add([1, 2], GenerationConfig(max_new_tokens=5))
    engine.step()

    def fail() -> None:
        raise RuntimeError("the model broke")

    decoder.before_forward = fail
    with pytest.raises(RuntimeError, match="the model broke"):
        engine.step()
    engine.abort(request_id)
    told = [event for event in log if isinstance(event, ev.StepInterrupted | ev.RequestFinished)]
    assert (told[0].error, told[1].reason) == ("RuntimeError: the model broke", "abort")


def test_reporter_without_a_listener_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an event was built for nobody")

    for kind in ev.Event.__subclasses__():
        monkeypatch.setattr(ev, kind.__name__, refuse)
    engine = make_engine(MirrorDecoder(), cache_max_entry_count=6)
    for _ in range(4):
        engine.add([1, 2, 3], GenerationConfig(max_new_tokens=9))
    run_all(engine)
    assert not Reporter(None)._marks
