"""Load for a server that is not ours: everything is asked once, at its moment, and timed."""

from __future__ import annotations

import json
import random
import statistics

import pytest

from lmcourse.__main__ import main
from lmcourse.bench.serving import Load, measure_server
from lmcourse.errors import ConfigError, KeyRefusedError, ServerError


def test_every_request_is_asked_and_timed(stand_in) -> None:
    stand_in.seconds_per_word = 0.002
    load = Load(num_requests=12, max_concurrency=4, prompt_words=(2, 5), seed=random.randrange(1000))
    result = measure_server(stand_in.url, load)
    assert (len(result.answered), result.failures, result.model) == (12, {}, "stand-in")
    assert stand_in.most_in_flight <= 4
    assert sorted(map(json.dumps, stand_in.bodies[1:])) == sorted(map(json.dumps, load.bodies("stand-in")))
    for request in result.answered:
        assert (request.num_prompt_tokens, request.num_output_tokens) == (11, 22)
        assert 0 <= request.sent_at <= request.arrivals[0] <= request.arrivals[-1] <= result.seconds


def test_rate_spreads_requests_over_time(stand_in) -> None:
    result = measure_server(stand_in.url, Load(num_requests=10, request_rate=50, prompt_words=(1, 1)))
    moments = Load(num_requests=10, request_rate=50).moments()
    for request, moment in zip(result.requests, moments, strict=True):
        assert request.sent_at >= moment


def test_moments_have_the_rate_on_average() -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    load = Load(num_requests=4000, request_rate=20, seed=seed)
    assert load.moments()[-1] == pytest.approx(200, rel=0.15)
    gaps = [later - sooner for sooner, later in zip(load.moments(), load.moments()[1:], strict=False)]
    assert statistics.pstdev(gaps) == pytest.approx(1 / 20, rel=0.2)  # an exponential's spread is its mean
    assert load.moments() == load.moments()


def test_failures_are_counted_and_not_timed(stand_in) -> None:
    stand_in.failure, stand_in.num_spared = "busy", 3
    result = measure_server(stand_in.url, Load(num_requests=5, max_concurrency=1))
    assert len(result.answered) == 2
    assert result.failures == {"queue is full": 3}
    assert len(result.latencies()["TTFT"]) == 2


def test_a_server_that_refuses_all_is_an_error(stand_in) -> None:
    stand_in.failure = "breaks off"
    with pytest.raises(ServerError, match="does not answer such requests"):
        measure_server(stand_in.url, Load(num_requests=2))


def test_settings_out_of_range_are_errors() -> None:
    for wrong in ({"num_requests": 0}, {"request_rate": 0.0}, {"prompt_words": (5, 2)}, {"max_concurrency": 0}):
        with pytest.raises(ConfigError):
            Load(**wrong)


def test_command_prints_a_table_and_writes_json(stand_in, capsys, tmp_path) -> None:
    stand_in.key = "secret"
    file = tmp_path / "serve.json"
    flags = ["--num-requests", "5", "--goodput", "1000", "1000", "--let-stop", "--output", str(file)]
    assert main(["bench", "serve", stand_in.url, "--api-key", "secret", *flags]) == 0
    shown = capsys.readouterr().out
    for word in ("requests/s", "TTFT", "TPOT", "ITL", "goodput", "p99", "5 of 5 requests"):
        assert word in shown
    assert json.loads(file.read_text())["num_answered"] == 5
    assert all("ignore_eos" not in body for body in stand_in.bodies)
    with pytest.raises(KeyRefusedError):
        measure_server(stand_in.url, Load())
