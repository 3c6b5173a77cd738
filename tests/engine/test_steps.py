"""Steps: with the next step always on its way, every token, end and block is what it is one step at a time."""

from __future__ import annotations

import random

import pytest
import torch
from engine_fakes import (
    MirrorDecoder,
    ScriptedDecoder,
    generate,
    make_engine,
    mirror_greedy,
    mirror_spec,
    random_prompt,
    run_all,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcourse.config import GenerationConfig
from lmcourse.engine import EventLog, StepOutput
from lmcourse.engine.events import RequestPreempted, StepFinished, TokensScheduled
from lmcourse.errors import LmcourseError
from lmcourse.spec import RotarySpec

VOCAB = 50

rules = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 12)},
    optional={
        "random_seed": st.integers(0, 2**64 - 1),
        "temperature": st.sampled_from([0.0, 0.5, 3.0]),
        "top_k": st.integers(0, 60),
        "repetition_penalty": st.sampled_from([0.7, 1.5]),
        "frequency_penalty": st.sampled_from([-1.0, 2.0]),
        "logit_bias": st.sampled_from([{0: 5.0}, {1: -100, 2: 1.5}]),
        "min_new_tokens": st.integers(1, 6),
        "stop_token_ids": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20),
        "logprobs": st.integers(0, 4),
    },
)
jobs = st.tuples(st.integers(0, 10), st.integers(1, 20), rules, st.none() | st.integers(0, 15))


def run_workload(workload, config: dict, **modes: bool) -> tuple[dict[int, list[StepOutput]], int]:
    """Outputs by request of a workload whose requests arrive and are aborted while the engine steps."""
    # keys depend on the prompt's length beyond 12 tokens: prefixes are shared below, and only there
    spec = mirror_spec(VOCAB, rotary=RotarySpec(scaling="dynamic", trained_context=12))
    engine = make_engine(MirrorDecoder(spec), **modes, **config)
    told: dict[int, list[StepOutput]] = {}
    ids: dict[int, int] = {}
    for clock in range(1000):
        for place, (arrival, prompt_len, rule, _) in enumerate(workload):
            if arrival == clock:
                prompt = random_prompt(random.Random(place // 2), VOCAB, prompt_len, prompt_len)
                seed = place if {"temperature", "top_k"} & set(rule) else None
                ids[place] = engine.add(prompt, GenerationConfig(**{"random_seed": seed, **rule}))
        for place, (_, _, _, abort_at) in enumerate(workload):
            if abort_at == clock and place in ids:
                engine.abort(ids[place])
        for output in engine.step():
            told.setdefault(output.request_id, []).append(output)
        engine.check()
        if clock > 15 and not engine.has_work:
            break
    stats = engine.stats()
    assert stats.num_free_blocks + stats.num_cached_blocks == stats.num_blocks
    return told, stats.num_preemptions


def joined(outputs: list[StepOutput]) -> tuple:
    return (
        [token for output in outputs for token in output.token_ids],
        [report for output in outputs for report in output.logprobs or ()],
        outputs[-1].finish_reason,
    )


@settings(max_examples=80, deadline=None)
@given(
    workload=st.lists(jobs, min_size=1, max_size=8),
    blocks=st.integers(8, 24),
    budget=st.integers(1, 24),
    max_running=st.integers(1, 8),
    modes=st.fixed_dictionaries({"enable_prefix_caching": st.booleans(), "graphs": st.booleans()}),
)
def test_any_workload_says_the_same_with_and_without_overlap(workload, blocks, budget, max_running, modes) -> None:
    workload = sorted(workload, key=lambda job: job[0])
    config = {"cache_max_entry_count": blocks, "max_prefill_token_num": budget, "max_batch_size": max_running}
    plain, _ = run_workload(workload, config, overlap=False)
    overlapped, _ = run_workload(workload, config, overlap=True, **modes)
    for request_id in {*plain, *overlapped}:
        told = [joined(outputs[request_id]) for outputs in (plain, overlapped) if request_id in outputs]
        if len(told) == 2 and all(reason is not None for _, _, reason in told):
            assert told[0] == told[1]
        elif len(told) == 2:  # aborted: how far it had come by then may differ
            shorter = min(len(tokens) for tokens, _, _ in told)
            assert told[0][0][:shorter] == told[1][0][:shorter]


def test_first_step_hands_out_the_first_token_with_the_second_on_its_way() -> None:
    decoder = MirrorDecoder()
    engine = make_engine(decoder, overlap=True)
    engine.add([1, 2, 3], GenerationConfig(max_new_tokens=4))
    assert [output.token_ids for output in engine.step()] == [mirror_greedy([1, 2, 3], 1, VOCAB)]
    assert decoder.num_calls == 2
    run_all(engine)
    assert decoder.num_calls == 4, "a length that is known in advance costs no step"


def test_step_too_many_is_dropped_and_its_blocks_serve_the_next_request() -> None:
    decoder = ScriptedDecoder([5, 6, 2, 7], vocab=50, prompt_len=3, eos_ids=(2,))
    engine = make_engine(decoder, overlap=True, cache_max_entry_count=4)
    for _ in range(3):
        output = generate(engine, [1, 1, 1])
        assert (output.token_ids, output.finish_reason) == ([5, 6], "stop")
        assert engine.stats().num_free_blocks == 4
        assert engine.step() == []


def test_preempted_while_its_token_is_pending() -> None:
    log = EventLog()
    engine = make_engine(MirrorDecoder(), overlap=True, cache_max_entry_count=9, session_len=36, on_event=log)
    rng = random.Random(5)
    prompts = [random_prompt(rng, VOCAB, 3, 14) for _ in range(6)]
    ids = [engine.add(prompt, GenerationConfig(max_new_tokens=9)) for prompt in prompts]
    outputs = run_all(engine)
    assert [outputs[key].token_ids for key in ids] == [mirror_greedy(prompt, 9, VOCAB) for prompt in prompts]
    assert any(isinstance(event, RequestPreempted) for event in log)


def test_request_that_needs_the_host_sits_out_every_other_step_and_the_others_do_not() -> None:
    log = EventLog()
    engine = make_engine(MirrorDecoder(), overlap=True, on_event=log)
    penalised = engine.add([1, 2], GenerationConfig(max_new_tokens=4, repetition_penalty=1.3))
    free = engine.add([3, 4], GenerationConfig(max_new_tokens=8))
    run_all(engine)
    steps = {key: [e.step for e in log if isinstance(e, TokensScheduled) and e.request_id == key] for key in range(2)}
    assert steps == {penalised: [1, 3, 5, 7], free: [1, 2, 3, 4, 5, 6, 7, 8]}
    assert [event.step for event in log if isinstance(event, StepFinished)] == list(range(1, 9))


def test_abort_in_flight_drops_the_pending_token() -> None:
    engine = make_engine(MirrorDecoder(), overlap=True)
    gone, other = (engine.add([key, 2, 3], GenerationConfig(max_new_tokens=6)) for key in (1, 2))
    engine.step()
    engine.abort(gone)
    engine.check()
    outputs = run_all(engine)
    assert set(outputs) == {other}
    assert outputs[other].token_ids == mirror_greedy([2, 2, 3], 6, VOCAB)[1:]


@pytest.mark.parametrize("bad_call", range(1, 5))
def test_not_finite_logits_of_a_step_in_flight(bad_call: int) -> None:
    decoder = MirrorDecoder()
    engine = make_engine(decoder, overlap=True)
    ids = [engine.add([key, 2, 3], GenerationConfig(max_new_tokens=6)) for key in range(3)]
    clean = decoder.logits

    def poisoned(hidden: torch.Tensor) -> torch.Tensor:
        logits = clean(hidden)
        if decoder.num_calls == bad_call:
            logits[1] = torch.nan
        return logits

    decoder.logits = poisoned
    told: dict[int, list[int]] = {key: [] for key in ids}
    num_errors = 0
    while engine.has_work:
        try:
            for output in engine.step():
                told[output.request_id] += output.token_ids
        except LmcourseError as error:
            num_errors += "request 1" in str(error)
        engine.check()
    assert num_errors == 1
    assert told == {key: mirror_greedy([key, 2, 3], 6, VOCAB) for key in ids}
