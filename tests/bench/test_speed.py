"""Speeds and limits: what a stand measures, and that its limits are accounting's for what is stored."""

from __future__ import annotations

import pytest
import torch

from lmcourse.accounting import Device, Storage, decode_seconds
from lmcourse.bench import Speed, measure_decode, measure_limits, open_stand, profile_decode, seconds_of
from lmcourse.bench.speed import storage_of
from lmcourse.config import TurbomindEngineConfig
from lmcourse.errors import ConfigError


@pytest.fixture(scope="module")
def stand():
    config = TurbomindEngineConfig(dtype="float32", session_len=100, cache_max_entry_count=40)
    with open_stand("dummy:tiny", config) as stand:
        yield stand


def test_storage_of_plain_float32_is_four_bytes_everywhere(stand):
    assert storage_of(stand) == Storage(4, 4, 4, 4, 4)


def test_measure_decode_has_accountings_limit(stand):
    speed = measure_decode(stand, batch=3, prompt_len=10, output_len=5, repeats=2)
    device = Device(stand.limits.copy, stand.limits.matmul)
    seconds = decode_seconds(stand.spec, device, batch=3, context=12, storage=Storage(4, 4, 4, 4, 4))
    assert speed.limit == pytest.approx(3 / seconds)
    assert speed.num_repeats == 2
    assert speed.value > 0


def test_measure_decode_of_one_token_is_refused(stand):
    with pytest.raises(ConfigError, match="outputs"):
        measure_decode(stand, batch=1, output_len=1)


def test_profile_decode_leaves_the_engine_empty(stand):
    profile = profile_decode(stand, batch=2, prompt_len=5, num_steps=3)
    assert not stand.engine.has_work
    stand.engine.check()
    assert profile.rows == tuple(sorted(profile.rows, key=lambda row: -row.microseconds))
    names = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")
    products = next(row for row in profile.rows if row.name in names)
    assert products.calls >= 4 * stand.spec.num_layers


def test_head_names_model_settings_and_limits(stand):
    head = stand.head("decode")
    assert head["settings"] == {"dtype": "float32", "session_len": 100, "cache_max_entry_count": 40}
    assert head["kv_tokens"] == 40 * 64
    assert head["weight_gb"] == pytest.approx(4 * 1.3e6 / 1e9, rel=0.3)


def test_fraction_of_rates_and_of_times():
    assert Speed("decode", 1, 50.0, "tok/s", 0.0, 200.0, 3).fraction == 0.25
    assert Speed("prefill", 1024, 8.0, "ms", 0.0, 6.0, 3).fraction == 0.75
    assert Speed("serving", 4, 8.0, "tok/s", 0.0, None, 3).fraction is None


def test_measure_limits_of_this_machine():
    limits = measure_limits(torch.device("cpu"), torch.float32, repeats=1)
    assert limits.copy > 1e8
    assert limits.matmul > 1e8
    assert limits.clocks == {}
    assert "TB/s" in str(limits)


def test_seconds_of_calls_twice_before_it_counts():
    calls = []
    seconds_of(lambda: calls.append(1), torch.device("cpu"), repeats=3)
    assert len(calls) == 5
