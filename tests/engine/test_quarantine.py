"""Quarantine: finds the request that breaks the step, by itself and around a real engine."""

from __future__ import annotations

from collections import deque

import pytest

from lmcourse.config import GenerationConfig
from lmcourse.engine.dispatcher import Dispatcher
from lmcourse.engine.quarantine import Quarantine


def test_failed_finds_each_of_several_culprits(rng) -> None:
    for _ in range(200):
        alive = sorted(rng.sample(range(1000), rng.randrange(1, 60)))
        culprits = set(rng.sample(alive, rng.randrange(1, min(4, len(alive)) + 1)))
        wanted, found, quarantine, steps = set(culprits), set(), Quarantine(), 0
        while culprits or quarantine.window:
            steps += 1
            first, last = quarantine.window or (0, 1000)
            let_in = [i for i in alive if first <= i <= last]
            if not culprits & set(let_in):
                quarantine.passed(let_in, alive)
            elif (blamed := quarantine.failed(alive)) is not None:
                found.add(blamed)
                alive.remove(blamed)
                culprits.discard(blamed)
            assert steps < 100
        assert found == wanted


def test_passed_goes_on_when_suspects_leave() -> None:
    quarantine = Quarantine()
    assert quarantine.failed([1, 2, 3, 4]) is None
    assert quarantine.window == (1, 2)
    quarantine.passed([], [3, 4])
    assert quarantine.window == (3, 4)
    quarantine.passed([3], [3, 4])
    assert quarantine.window == (3, 4)
    quarantine.passed([4], [3, 4])
    assert quarantine.window is None


def run(dispatcher, box, engine):
    """Turns until nothing is left: tokens and errors by request id."""
    told, failed = {}, {}
    while engine.has_work:
        for output in dispatcher.turn(box):
            told.setdefault(output.request_id, []).extend(output.token_ids)
            if output.error is not None:
                failed[output.request_id] = output.error
        engine.check()
    return told, failed


@pytest.mark.parametrize("overlap", [False, True])
def test_step_error_ends_one_request_and_no_token_of_others(rng, overlap) -> None:
    from engine_fakes import MirrorDecoder, make_engine, mirror_greedy, random_prompt

    vocab, num_new = 50, 6
    prompts = [random_prompt(rng, vocab - 1, 3, 14) for _ in range(9)]
    prompts[rng.randrange(9)][1] = vocab - 1

    class Explosive(MirrorDecoder):
        """Fails whenever the last token of the vocabulary is in the batch, and does not say whose it is."""

        def forward(self, token_ids, batch, kv, pictured=None, rows=None):
            if (token_ids == vocab - 1).any():
                raise RuntimeError("boom")
            return super().forward(token_ids, batch, kv, pictured, rows)

    engine = make_engine(Explosive(), cache_max_entry_count=60, session_len=60, overlap=overlap)
    dispatcher, box = Dispatcher(engine), deque()
    gen = GenerationConfig(max_new_tokens=num_new)
    ids = [dispatcher.add(prompt, gen, frozenset(), box) for prompt in prompts]
    told, failed = run(dispatcher, box, engine)
    for request_id, prompt in zip(ids, prompts, strict=True):
        expected = mirror_greedy(prompt, num_new, vocab)
        breaks = vocab - 1 in [*prompt, *expected[:-1]]  # an answer may come to hold the token by itself
        assert (request_id in failed) == breaks
        assert breaks or told[request_id] == expected
    assert engine.stats().num_free_blocks == engine.stats().num_blocks
    assert failed
    assert all(isinstance(error, RuntimeError) for error in failed.values())


def test_turn_alone_with_a_failing_request_gives_its_own_error() -> None:
    from engine_fakes import MirrorDecoder, make_engine

    decoder = MirrorDecoder()
    engine = make_engine(decoder)
    dispatcher, box = Dispatcher(engine), deque()
    dispatcher.add([1, 2], GenerationConfig(max_new_tokens=3), frozenset(), box)

    def fail() -> None:
        raise ValueError("of this request")

    decoder.before_forward = fail
    (output,) = dispatcher.turn(box)
    assert output.finish_reason == "abort"
    with pytest.raises(ValueError, match="of this request"):
        raise output.error
