"""Hugging Face config.json → ModelSpec, for configs written by transformers 4 and by transformers 5.

    transformers 4   rope_theta, rope_scaling {type or rope_type, factor}, torch_dtype
    transformers 5   rope_parameters {rope_theta, rope_type, factor}, dtype

What the decoder cannot compute exactly (another activation, another rotary rule) is refused here, by name, before any
weight is read; quantisation.py does the same for weights that are not plain numbers.

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmcourse.errors import CheckpointError, UnsupportedModelError
from lmcourse.spec import ModelSpec, RotarySpec

__all__ = ["internlm2_spec", "llama_spec", "token_ids"]

Config = Mapping[str, Any]
_ROTARY_RULES = {None: None, "default": None, "linear": "linear", "dynamic": "dynamic"}
_DTYPES = ("float16", "bfloat16", "float32")


def llama_spec(config: Config) -> ModelSpec:
    """LlamaForCausalLM: Llama, Llama2, Code Llama, Yi, Vicuna and their relatives."""
    attention_bias = _flag(config, "attention_bias", default=False)
    return _spec(config, "llama", attention_bias=attention_bias, mlp_bias=_flag(config, "mlp_bias", default=False))


def internlm2_spec(config: Config) -> ModelSpec:
    """InternLM2ForCausalLM; a config without `bias` means biases, as in the class that was published with it."""
    return _spec(config, "internlm2", attention_bias=_flag(config, "bias", default=True), mlp_bias=False)


def token_ids(value: object, key: str) -> tuple[int, ...]:
    """Ids from one id, a list of ids, or None."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    for item in values:
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise _wrong(key, "a token id, a list of them, or null", value)
    return tuple(values)


def _spec(config: Config, family: str, *, attention_bias: bool, mlp_bias: bool) -> ModelSpec:
    _refuse_unknown_arithmetic(config)
    hidden, num_heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    num_kv_heads = _count(config, "num_key_value_heads", default=num_heads)
    max_context = _count(config, "max_position_embeddings", default=2048)
    bos = token_ids(config.get("bos_token_id", 1), "bos_token_id")
    pad = token_ids(config.get("pad_token_id"), "pad_token_id") if config.get("pad_token_id") != -1 else ()
    return ModelSpec(
        family=family,
        hidden=hidden,
        num_layers=_count(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(config, hidden, num_heads),
        intermediate=_count(config, "intermediate_size"),
        vocab=_count(config, "vocab_size"),
        max_context=max_context,
        norm_eps=_number(config, "rms_norm_eps", default=1e-6),
        rotary=_rotary(config, max_context),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=mlp_bias,
        tie_embeddings=_flag(config, "tie_word_embeddings", default=False),
        bos_id=bos[0] if bos else None,
        eos_ids=token_ids(config.get("eos_token_id", 2), "eos_token_id"),
        pad_id=pad[0] if pad else None,
        dtype=_dtype(config),
    )


def _rotary(config: Config, max_context: int) -> RotarySpec:
    rules = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rules, Mapping):
        raise _wrong("rope_scaling", "null or an object", rules)
    rule = rules.get("rope_type", rules.get("type"))
    if not isinstance(rule, str | None) or rule not in _ROTARY_RULES:
        raise UnsupportedModelError(
            f"the rotary rule {rule!r} is not covered",
            expected=" | ".join(str(name) for name in _ROTARY_RULES if name),
            got=dict(rules),
            where="config.json, rope_scaling or rope_parameters",
            next_step="use a model of the same family without this rule",
        )
    bases = config if "rope_theta" in config and "rope_theta" not in rules else rules
    factor = _number(rules, "factor", default=1.0)
    return RotarySpec(_number(bases, "rope_theta", default=10000.0), _ROTARY_RULES[rule], factor, max_context)


def _refuse_unknown_arithmetic(config: Config) -> None:
    rules = config.get("rope_parameters")
    partial = rules if isinstance(rules, Mapping) else {}
    checks = (
        ("hidden_act", ("silu", "swish"), config.get("hidden_act", "silu")),
        (
            "partial_rotary_factor",
            (1.0,),
            config.get("partial_rotary_factor", partial.get("partial_rotary_factor", 1.0)),
        ),
    )
    for key, known, value in checks:
        if value not in known:
            raise UnsupportedModelError(
                f"the engine does not compute {key} = {value!r}",
                expected=" | ".join(map(repr, known)),
                got=repr(value),
                where=f"config.json, {key}",
                next_step="use a model of the same family without it",
            )


def _head_dim(config: Config, hidden: int, num_heads: int) -> int:
    if config.get("head_dim") is None and hidden % num_heads:
        raise _wrong("num_attention_heads", f"a divisor of hidden_size ({hidden})", num_heads)
    return _count(config, "head_dim", default=hidden // num_heads)


def _dtype(config: Config) -> str:
    stated = config.get("dtype") or config.get("torch_dtype") or "float16"
    name = str(stated).removeprefix("torch.")
    if name not in _DTYPES:
        raise _wrong("torch_dtype", " | ".join(_DTYPES), stated)
    return name


def _count(config: Config, key: str, *, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(key, "a whole number, 1 or more", value)
    return value


def _number(config: Config, key: str, *, default: float) -> float:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise _wrong(key, "a finite number above 0", value)
    return float(value)


def _flag(config: Config, key: str, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _wrong(key: str, expected: str, value: object) -> CheckpointError:
    got = "nothing" if value is None else repr(value)
    next_step = "get config.json again from where the model came from"
    return CheckpointError(
        f"the config's {key} is wrong", expected=expected, got=got, where=f"config.json, {key}", next_step=next_step
    )
