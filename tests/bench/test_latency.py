"""Latencies from known arrivals, against numbers worked out by hand."""

from __future__ import annotations

import random
import statistics

import pytest

from lmcourse.bench.latency import Promise, ServedRequest, ServingResult, percentile
from lmcourse.errors import ConfigError

QUICK = ServedRequest(sent_at=1.0, arrivals=(1.5, 1.75, 2.0), num_prompt_tokens=7, num_output_tokens=3)
SLOW = ServedRequest(sent_at=0.0, arrivals=(2.0, 4.0), num_prompt_tokens=5, num_output_tokens=2)
SINGLE = ServedRequest(sent_at=0.0, arrivals=(0.5,), num_prompt_tokens=5, num_output_tokens=1)
FAILED = ServedRequest(sent_at=0.0, arrivals=(), num_prompt_tokens=0, num_output_tokens=0, error="full")


def result(*requests: ServedRequest, promise: Promise | None = None) -> ServingResult:
    return ServingResult("http://x", "m", {}, requests, 4.0, promise, {})


def test_times_of_one_request() -> None:
    assert (QUICK.ttft, QUICK.tpot, QUICK.latency, QUICK.gaps) == (0.5, 0.25, 1.0, [0.25, 0.25])
    assert SINGLE.tpot is None
    assert SINGLE.gaps == []


def test_chunks_of_several_tokens_do_not_change_tpot() -> None:
    merged = ServedRequest(sent_at=0.0, arrivals=(1.0, 3.0), num_prompt_tokens=1, num_output_tokens=5)
    assert merged.tpot == 0.5
    assert merged.gaps == [2.0]


def test_goodput_counts_what_kept_the_promise() -> None:
    promised = Promise(ttft=1.0, tpot=0.3)
    assert result(QUICK, SLOW, SINGLE, FAILED, promise=promised).goodput == 2 / 4.0
    assert result(QUICK, promise=Promise(ttft=0.4, tpot=0.3)).goodput == 0
    assert result(QUICK, promise=Promise(ttft=0.5, tpot=0.2)).goodput == 0
    assert result(QUICK).goodput is None


def test_report_has_rates_percentiles_and_failures() -> None:
    told = result(QUICK, SLOW, FAILED, FAILED, promise=Promise(1.0, 1.0))
    shown = str(told)
    assert "2 of 4 requests answered in 4.00 s" in shown
    assert "failed 2 times: full" in shown
    assert "goodput" in shown
    as_json = told.to_json()
    assert as_json["requests_per_second"] == 0.5
    assert as_json["output_tokens_per_second"] == 5 / 4
    assert as_json["failures"] == {"full": 2}
    assert as_json["seconds_by_percentile"]["TTFT"]["p50"] == 0.5
    assert "no tokens" not in str(result(FAILED))
    assert result(FAILED).to_json()["seconds_by_percentile"] == {}


def test_percentile_is_the_nearest_rank() -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    draw = random.Random(seed)
    for _ in range(100):
        values = [draw.randrange(50) for _ in range(draw.randint(1, 40))]
        share = draw.randint(1, 100)
        found = percentile(values, share)
        assert found in values
        assert sum(value <= found for value in values) * 100 >= share * len(values)
        assert sum(value < found for value in values) * 100 < share * len(values)
    assert percentile([3, 1, 2], 50) == statistics.median([3, 1, 2])
    for wrong in (([], 50), ([1], 0), ([1], 101)):
        with pytest.raises(ConfigError):
            percentile(*wrong)
