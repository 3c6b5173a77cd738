"""Configs refuse what they cannot mean, and say so in a form that can be acted on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from lmcourse.config import ChatTemplateConfig, GenerationConfig, Response, TurbomindEngineConfig
from lmcourse.errors import ConfigError


def test_engine_config_unknown_keyword_suggests_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        TurbomindEngineConfig(cache_max_entry_cuont=0.2)  # type: ignore[call-arg]
    assert "cache_max_entry_count" in str(caught.value.next_step)
    assert caught.value.got == "cache_max_entry_cuont"


def test_engine_config_is_frozen() -> None:
    config = TurbomindEngineConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.tp = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_max_entry_count", 0.0),
        ("cache_max_entry_count", -0.5),
        ("cache_max_entry_count", math.nan),
        ("cache_max_entry_count", math.inf),
        ("cache_max_entry_count", "0.5"),
        ("tp", 0),
        ("tp", 1.5),
        ("tp", True),
        ("session_len", 1),
        ("max_batch_size", -1),
        ("quant_policy", 5),
        ("quant_policy", False),
        ("model_format", "gguf"),
        ("dtype", "int8"),
        ("rope_scaling_factor", 0.5),
        ("rope_scaling_factor", math.nan),
        ("enable_prefix_caching", "no"),
        ("use_logn_attn", 1),
    ],
)
def test_engine_config_out_of_range_value_names_field_and_value(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        TurbomindEngineConfig(**{name: value})  # type: ignore[arg-type]
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert caught.value.expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("top_k", 2.5),
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("max_new_tokens", 0),
        ("n", 0),
        ("random_seed", -1),
        ("logprobs", -1),
        ("stop_words", "stop"),
        ("stop_words", [""]),
        ("bad_words", [3]),
        ("presence_penalty", 2.1),
        ("frequency_penalty", None),
        ("logit_bias", {"5": 1}),
        ("logit_bias", {5: 101}),
        ("logit_bias", {5: "1"}),
        ("logit_bias", [5]),
        ("stop_token_ids", 5),
        ("stop_token_ids", ["5"]),
        ("stop_token_ids", [-1]),
        ("ignore_eos", "no"),
        ("do_sample", "yes"),
        ("skip_special_tokens", None),
    ],
)
def test_generation_config_out_of_range_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        GenerationConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keywords", "samples"),
    [
        ({}, False),
        ({"temperature": 0.8}, True),
        ({"top_k": 40}, True),
        ({"random_seed": 7}, True),
        ({"temperature": 0.8, "do_sample": False}, False),
        ({"do_sample": True}, True),
        ({"temperature": 0.0, "do_sample": True}, False),
        ({"repetition_penalty": 1.2}, False),
    ],
)
def test_generation_config_samples_follows_what_was_given(keywords: dict[str, object], samples: bool) -> None:
    assert GenerationConfig(**keywords).samples is samples  # type: ignore[arg-type]


def test_scalars_of_numpy_and_torch_become_plain_numbers() -> None:
    gen = GenerationConfig(max_new_tokens=np.int64(7), temperature=np.float32(0.5), top_k=torch.tensor(3))
    assert [type(value) for value in (gen.max_new_tokens, gen.temperature, gen.top_k)] == [int, float, int]
    assert GenerationConfig(np.int32(2)).n == 2
    assert TurbomindEngineConfig(max_batch_size=np.arange(5)[4]).max_batch_size == 4
    with pytest.raises(ConfigError, match="max_new_tokens"):
        GenerationConfig(max_new_tokens=np.arange(1, 2))


def test_chat_template_config_unknown_capability_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="infilling"):
        ChatTemplateConfig(capability="dance")


def test_response_repr_shows_text_and_reason() -> None:
    shown = repr(Response(text="hi", generate_token_len=1, input_token_len=2, session_id=0, finish_reason="stop"))
    assert shown.startswith("Response(text='hi', finish_reason='stop'")
