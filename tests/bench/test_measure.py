"""Timing: turns, medians, spreads; engine, pipeline and transformers count the same tokens."""

from __future__ import annotations

import pytest

from lmcourse.baseline import AutoModelForCausalLM
from lmcourse.bench import (
    Timing,
    mixed_requests,
    run_engine,
    run_pipeline,
    run_transformers,
    time_alternately,
    time_runs,
)
from lmcourse.bundled import model_path
from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine import Engine
from lmcourse.pipeline import pipeline


def test_timing_takes_the_median_and_shows_the_spread():
    timing = Timing(100, (1.0, 5.0, 2.0))
    assert timing.median_seconds == 2.0
    assert timing.tokens_per_second == 50.0
    assert timing.spread == 2.0
    assert "50.0 tokens/s" in repr(timing)


def test_time_alternately_takes_turns_and_drops_warm_ups():
    order = []

    def run(name, count):
        order.append(name)
        return count

    timings = time_alternately({"a": lambda: run("a", 3), "b": lambda: run("b", 4)}, warmups=2, repeats=3)
    assert order == ["a", "b"] * 5
    assert len(timings["a"].seconds) == 3
    assert (timings["a"].num_tokens, timings["b"].num_tokens) == (3, 4)


def test_time_runs_of_unequal_length_are_refused():
    counts = iter(range(10))
    with pytest.raises(ValueError, match="different length"):
        time_runs(lambda: next(counts), warmups=0, repeats=2)


def test_run_engine_transformers_and_pipeline_generate_the_same_ids():
    requests = mixed_requests(5, vocab=4096, seed=11, prompt_lens=(1, 40), output_lens=(1, 30))
    with Engine.from_folder(model_path("tiny-chat"), TurbomindEngineConfig(dtype="float32")) as engine:
        ours = run_engine(engine, requests)
    theirs = run_transformers(AutoModelForCausalLM.from_pretrained("tiny-chat").cuda(), requests)
    with pipeline("tiny-chat", backend_config=TurbomindEngineConfig(dtype="float32")) as pipe:
        piped = run_pipeline(pipe, requests)
    assert ours == theirs == piped
    assert [len(ids) for ids in ours] == [request.num_output_tokens for request in requests]
