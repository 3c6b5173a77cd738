"""What a config means on this machine, and the settings that are refused rather than ignored."""

from __future__ import annotations

import warnings

import pytest
import torch
from engine_fakes import make_engine, mirror_spec, random_decoder

from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine.settings import choose_device, choose_dtype, choose_session_len, scale_queries, scale_rotary
from lmcourse.errors import MachineError
from lmcourse.spec import RotarySpec

CPU = torch.device("cpu")


def test_choose_dtype_auto_on_cpu_is_float32() -> None:
    for stored in ("float16", "bfloat16", "float32"):
        assert choose_dtype(TurbomindEngineConfig(), stored, CPU) == torch.float32


def test_choose_dtype_named_wins() -> None:
    assert choose_dtype(TurbomindEngineConfig(dtype="bfloat16"), "float16", CPU) == torch.bfloat16
    assert choose_dtype(TurbomindEngineConfig(dtype="float16"), "bfloat16", torch.device("cuda")) == torch.float16


@pytest.mark.parametrize(("computes", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_choose_dtype_auto_on_cuda(monkeypatch: pytest.MonkeyPatch, computes: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: computes)
    cuda = torch.device("cuda")
    assert choose_dtype(TurbomindEngineConfig(), "bfloat16", cuda) == dtype
    assert choose_dtype(TurbomindEngineConfig(), "float16", cuda) == torch.float16


def test_choose_device_missing_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == CPU
    with pytest.raises(MachineError, match="doctor"):
        choose_device("cuda")


def test_choose_session_len_default_is_the_trained_context() -> None:
    assert choose_session_len(None, mirror_spec(max_context=100), cache_tokens=400) == 100
    assert choose_session_len(50, mirror_spec(max_context=100), cache_tokens=400) == 50


def test_choose_session_len_beyond_the_trained_context_warns() -> None:
    plain = mirror_spec(max_context=100, rotary=RotarySpec())
    with pytest.warns(UserWarning, match="100 tokens the model was trained for"):
        assert choose_session_len(200, plain, cache_tokens=400) == 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = scale_rotary(mirror_spec(max_context=100), 2.0)
        assert choose_session_len(200, scaled, cache_tokens=400) == 200


def test_choose_session_len_beyond_the_cache_warns_and_shrinks() -> None:
    with pytest.warns(UserWarning, match="reduced from 100 to 64"):
        assert choose_session_len(None, mirror_spec(max_context=100), cache_tokens=64) == 64


def test_scale_rotary_sets_dynamic_ntk() -> None:
    spec = mirror_spec(max_context=100)
    assert scale_rotary(spec, 0.0) is spec
    rotary = scale_rotary(spec, 2.5).rotary
    assert (rotary.scaling, rotary.factor, rotary.trained_context) == ("dynamic", 2.5, 100)


def test_scale_queries_where_asked_and_not_stated() -> None:
    spec = mirror_spec(max_context=100)
    assert scale_queries(spec, asked=False) is spec
    scaled = scale_queries(spec, asked=True)
    assert scaled.logn_context == 100
    assert scale_queries(scaled, asked=True) is scaled


def test_engine_gives_the_decoder_logn_attention() -> None:
    decoder = random_decoder(0)
    make_engine(decoder, use_logn_attn=True)
    assert decoder.rotary.logn_context == decoder.spec.max_context


def test_engine_gives_the_decoder_its_scaled_rotary() -> None:
    decoder = random_decoder(0)
    make_engine(decoder, rope_scaling_factor=2.0)
    assert decoder.rotary.spec == decoder.spec.rotary == scale_rotary(random_decoder(0).spec, 2.0).rotary
