"""A contest gives everyone the same work, takes turns, and refuses to compare unequal work."""

from __future__ import annotations

import dataclasses

import pytest

from lmcourse import TurbomindEngineConfig, model_path
from lmcourse.accounting import Device, Storage, decode_seconds
from lmcourse.baseline import AutoModelForCausalLM
from lmcourse.bench import (
    Contestant,
    Standing,
    engine_contestant,
    equal_requests,
    format_standings,
    hold_contest,
    transformers_contestant,
)
from lmcourse.bench.latency import ServedRequest
from lmcourse.bench.measure import run_engine
from lmcourse.engine import Engine, StepOutput
from lmcourse.errors import ConfigError
from lmcourse.models import load_spec

FLOAT32 = Storage(4, 4, 4, 4, 4)
SPEC = load_spec(model_path("tiny-chat"))


def fake(name: str, calls: list[str], *, gap: float = 0.5, missing: int = 0) -> Contestant:
    """First tokens after one second, the others `gap` apart; `missing` tokens fewer than asked for."""

    def run(requests):
        calls.append(name)
        times = tuple(1 + gap * n for n in range(requests[0].num_output_tokens - missing))
        return [ServedRequest(0.0, times, len(request.prompt_ids), len(times)) for request in requests]

    return Contestant(name, run, SPEC, FLOAT32)


def test_contestants_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    requests = equal_requests(3, vocab=SPEC.vocab, prompt_len=5, output_len=4)
    standings = hold_contest([fake("a", calls), fake("b", calls, gap=0.25)], requests, warmups=2, repeats=3)
    assert calls == ["a", "b"] * 5
    assert [row.name for row in standings] == ["a", "b"]
    assert [(row.batch, row.num_tokens, len(row.ttfts)) for row in standings] == [(3, 12, 3)] * 2
    assert [row.ttft for row in standings] == [1.0, 1.0]
    assert [row.tpot for row in standings] == pytest.approx([0.5, 0.25])  # gaps after the first token
    assert [row.tokens_per_second for row in standings] == pytest.approx([6, 12])
    assert [row.fraction for row in standings] == [None, None]


def test_limit_is_that_of_accounting_half_way_through_the_answer() -> None:
    device, requests = Device(1e9, 1e12), equal_requests(2, vocab=SPEC.vocab, prompt_len=10, output_len=8)
    (row,) = hold_contest([fake("a", [])], requests, device=device, repeats=1)
    assert row.limit == pytest.approx(2 / decode_seconds(SPEC, device, batch=2, context=14, storage=FLOAT32))
    assert row.fraction == pytest.approx(row.tokens_per_second / row.limit)


def test_unequal_work_is_refused() -> None:
    requests = equal_requests(1, vocab=SPEC.vocab, prompt_len=4, output_len=6)
    with pytest.raises(ConfigError, match="b did other work"):
        hold_contest([fake("a", []), fake("b", [], missing=1)], requests)


def test_a_single_token_has_no_speed() -> None:
    with pytest.raises(ConfigError, match="second token"):
        equal_requests(1, vocab=10, prompt_len=4, output_len=1)


def test_standing_is_told_by_median_and_spread() -> None:
    row = Standing("a", 2, 10, (0.2, 0.1, 0.9), (10.0, 40.0, 20.0), 80.0)
    assert (row.ttft, row.tokens_per_second, row.tpot, row.spread, row.fraction) == (0.2, 20.0, 0.1, 1.5, 0.25)
    head, line = format_standings([row]).splitlines()
    assert head.split() == ["batch", "TTFT,", "ms", "TPOT,", "ms", "tokens/s", "spread", "of", "the", "limit"]
    assert line.split() == ["a", "2", "200.0", "100.00", "20", "150%", "25%"]
    assert format_standings([dataclasses.replace(row, limit=None)]).endswith(" -")


def test_engine_and_transformers_do_equal_work() -> None:
    folder = model_path("tiny-chat")
    model = AutoModelForCausalLM.from_pretrained(folder)
    requests = equal_requests(2, vocab=SPEC.vocab, prompt_len=9, output_len=5)
    with Engine.from_folder(folder, TurbomindEngineConfig(dtype="float32", cache_max_entry_count=64)) as engine:
        contestants = [
            engine_contestant("engine", engine, element_bytes=4),
            transformers_contestant("eager", model, SPEC),
            transformers_contestant("static", model, SPEC, kind="compiled"),
        ]
        assert contestants[0].storage == contestants[1].storage == FLOAT32
        for contestant in contestants:
            for served in contestant.run(requests):
                assert len(served.arrivals) == served.num_output_tokens == 5
                assert list(served.arrivals) == sorted(served.arrivals)
                assert served.arrivals[0] > 0


def test_an_interrupted_contestant_can_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = equal_requests(3, vocab=SPEC.vocab, prompt_len=9, output_len=5)
    config = TurbomindEngineConfig(dtype="float32", cache_max_entry_count=64)
    with Engine.from_folder(model_path("tiny-chat"), config) as engine:
        contestant = engine_contestant("engine", engine, element_bytes=4)
        step, steps = engine.step, iter(range(3))

        def stopped() -> list[StepOutput]:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return step()

        with monkeypatch.context() as patched:
            patched.setattr(engine, "step", stopped)
            with pytest.raises(KeyboardInterrupt):
                contestant.run(requests)
        assert not engine.has_work
        assert [len(served.arrivals) for served in contestant.run(requests)] == [5, 5, 5]
        assert len(run_engine(engine, requests)) == 3
