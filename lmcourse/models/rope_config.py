"""A config's rotary settings → RotarySpec, as transformers 4 and transformers 5 write them.

    transformers 4   rope_theta, rope_scaling {type or rope_type, factor, …}
    transformers 5   rope_parameters {rope_theta, rope_type, factor, …}

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from lmcourse.errors import UnsupportedModelError
from lmcourse.models.config_reader import ConfigReader, unsupported, wrong_value
from lmcourse.spec import RotarySpec

__all__ = ["read_rotary"]


def read_rotary(reader: ConfigReader, max_context: int) -> RotarySpec:
    """UnsupportedModelError for a rule that is not in the table below."""
    stated = reader.get("rope_parameters") or reader.get("rope_scaling") or {}
    if not isinstance(stated, Mapping):
        raise wrong_value("rope_scaling", "null or an object", stated)
    rule = stated.get("rope_type", stated.get("type"))
    if not isinstance(rule, str | None) or rule not in _RULES:
        raise UnsupportedModelError(
            f"the rotary rule {rule!r} is not covered",
            expected=" | ".join(str(name) for name in _RULES if name),
            got=dict(stated),
            where="config.json, rope_scaling or rope_parameters",
            next_step="use a model of the same family without this rule",
        )
    rules = ConfigReader(stated)
    partial = rules.get("partial_rotary_factor", 1.0)
    if partial != 1:
        raise unsupported("partial_rotary_factor", partial, (1.0,))
    bases = reader if reader.get("rope_theta") is not None and rules.get("rope_theta") is None else rules
    plain = RotarySpec(base=bases.number("rope_theta", default=10000.0), trained_context=max_context)
    return _RULES[rule](plain, rules)


def _as_trained(plain: RotarySpec, rules: ConfigReader) -> RotarySpec:
    return plain


def _linear(plain: RotarySpec, rules: ConfigReader) -> RotarySpec:
    return replace(plain, scaling="linear", factor=rules.number("factor", default=1.0))


def _dynamic(plain: RotarySpec, rules: ConfigReader) -> RotarySpec:
    return replace(plain, scaling="dynamic", factor=rules.number("factor", default=1.0))


def _llama3(plain: RotarySpec, rules: ConfigReader) -> RotarySpec:
    return replace(
        plain,
        scaling="llama3",
        factor=rules.number("factor", default=8.0),
        trained_context=rules.count("original_max_position_embeddings", default=8192),
        slow_turns=rules.number("low_freq_factor", default=1.0),
        fast_turns=rules.number("high_freq_factor", default=4.0),
    )


def _yarn(plain: RotarySpec, rules: ConfigReader) -> RotarySpec:
    rules.only({"truncate": (True,)})
    trained = rules.count("original_max_position_embeddings", default=plain.trained_context)
    factor = rules.number("factor", default=plain.trained_context / trained)
    return replace(
        plain,
        scaling="yarn",
        factor=factor,
        trained_context=trained,
        slow_turns=rules.number("beta_slow", default=1.0),
        fast_turns=rules.number("beta_fast", default=32.0),
        amplitude=rules.number("attention_factor", default=_yarn_amplitude(rules, factor)),
    )


def _yarn_amplitude(rules: ConfigReader, factor: float) -> float:
    """arXiv 2309.00071 §3.4: longer contexts have flatter softmaxes."""

    def amplitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rules.get("mscale") and rules.get("mscale_all_dim"):
        return amplitude(rules.number("mscale", default=1.0)) / amplitude(rules.number("mscale_all_dim", default=1.0))
    return amplitude(1.0)


_RULES: Mapping[str | None, Callable[[RotarySpec, ConfigReader], RotarySpec]] = {
    None: _as_trained,
    "default": _as_trained,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
