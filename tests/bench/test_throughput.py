"""The comparison of both sides, small, and how it tells its result. No assertions on time."""

from __future__ import annotations

import dataclasses
import json

from lmcourse.bench import ThroughputResult, Timing, compare_throughput, mixed_requests
from lmcourse.bundled import model_path


def test_compare_throughput_gets_the_same_tokens_from_both_sides():
    requests = mixed_requests(3, vocab=4096, seed=5, prompt_lens=(2, 20), output_lens=(2, 10))
    result = compare_throughput(model_path("tiny-chat"), requests, dtype="float32", warmups=0, repeats=2)
    assert result.num_same == 3
    assert result.engine.num_tokens == result.transformers.num_tokens == sum(r.num_output_tokens for r in requests)
    assert len(result.engine.seconds) == 2
    assert json.loads(json.dumps(result.to_json()))["machine"]["threads"] >= 1


def test_throughput_result_prints_both_sides_and_the_quotient():
    machine = {"gpu": None, "cpu": "a CPU", "threads": 2}
    fast, slow = Timing(1000, (1.0, 1.1, 0.9)), Timing(1000, (4.0, 4.1, 3.9))
    text = str(ThroughputResult("tiny-chat", "float32", "cpu", 32, 500, 32, fast, slow, machine))
    assert "4.0 times sooner; the same tokens for 32 of 32" in text
    assert "a CPU, 2 threads" in text
    assert "1000.0" in text


def test_throughput_result_of_a_busy_machine_says_so():
    machine = {"gpu": None, "cpu": "a CPU", "threads": 2, "cores": 4, "load_average_1_minute": 3.5}
    timing = Timing(1000, (1.0,))
    result = ThroughputResult("tiny-chat", "float32", "cpu", 32, 500, 32, timing, timing, machine)
    assert "measure again" in str(result)
    assert "measure again" not in str(dataclasses.replace(result, machine=machine | {"load_average_1_minute": 0.5}))
