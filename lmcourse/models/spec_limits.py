"""Sizes that a model's files may state: far above any model there is, and low enough that nothing hangs or overflows.

A config with a thousand million layers would otherwise keep the machine busy before the first weight is missed.

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

from lmcourse.errors import CheckpointError
from lmcourse.layers import ACTIVATIONS, MLPS, NORMS
from lmcourse.models.decoder import LAYERS
from lmcourse.spec import ModelSpec

__all__ = ["check_limits"]

_LIMITS = {
    "hidden": 2**18,
    "num_layers": 2**12,
    "num_heads": 2**12,
    "num_kv_heads": 2**12,
    "head_dim": 2**12,
    "intermediate": 2**20,
    "vocab": 2**24,
    "max_context": 2**32,
}
_DTYPES = ("float16", "bfloat16", "float32")
_CHOICES = {
    "layer": tuple(LAYERS),
    "norm": tuple(NORMS),
    "mlp": tuple(MLPS),
    "activation": tuple(ACTIVATIONS),
}
_SCALINGS = (None, "linear", "dynamic", "stepped", "llama3", "yarn")


def check_limits(spec: ModelSpec, where: object) -> ModelSpec:
    """The spec itself; CheckpointError for a size that no model has, or that does not go with the others."""
    for name, most in _LIMITS.items():
        value = getattr(spec, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise _wrong(name, f"a whole number from 1 to {most}", value, where)
    if spec.dtype not in _DTYPES:
        raise _wrong("dtype", " | ".join(_DTYPES), spec.dtype, where)
    if spec.rotary.scaling not in _SCALINGS:
        raise _wrong("rotary scaling", " | ".join(map(str, _SCALINGS)), spec.rotary.scaling, where)
    if spec.num_heads % spec.num_kv_heads:
        raise _wrong("num_kv_heads", f"a divisor of num_heads, {spec.num_heads}", spec.num_kv_heads, where)
    _check_choices(spec, where)
    _check_experts(spec, where)
    if not (spec.layer == "pictured") <= spec.picture_rank <= _LIMITS["hidden"]:
        raise _wrong("picture_rank", f"1 to {_LIMITS['hidden']} in pictured layers", spec.picture_rank, where)
    _check_distances(spec, where)
    return spec


def _check_choices(spec: ModelSpec, where: object) -> None:
    for name, known in _CHOICES.items():
        if getattr(spec, name) not in known:
            raise _wrong(name, " | ".join(known), getattr(spec, name), where)


_EXPERT_LIMITS = {"count": 2**12, "intermediate": 2**20}


def _check_experts(spec: ModelSpec, where: object) -> None:
    if spec.experts is None:
        return
    for name, most in _EXPERT_LIMITS.items():
        value = getattr(spec.experts, name)
        if not 1 <= value <= most:
            raise _wrong(f"experts.{name}", f"a whole number from 1 to {most}", value, where)
    if not 1 <= spec.experts.chosen <= spec.experts.count:
        raise _wrong("experts.chosen", f"1 to {spec.experts.count}", spec.experts.chosen, where)
    if not 0 <= spec.experts.shared_intermediate <= _LIMITS["intermediate"]:
        most = _LIMITS["intermediate"]
        raise _wrong("experts.shared_intermediate", f"0 to {most}", spec.experts.shared_intermediate, where)


def _check_distances(spec: ModelSpec, where: object) -> None:
    """What tells tokens how far apart they are."""
    turned = spec.rotary.turned(spec.head_dim) if 0 <= spec.rotary.fraction <= 1 else -1
    if spec.head_dim % 2 or turned % 2:
        raise _wrong("head_dim", "an even number, since rotary embedding turns pairs", spec.head_dim, where)
    if spec.rotary.follows_length and turned == 2:
        raise _wrong("head_dim", "4 or more with dynamic rotary scaling", spec.head_dim, where)
    if len(spec.alibi_slopes) not in (0, spec.num_heads):
        raise _wrong("alibi_slopes", f"none, or {spec.num_heads}", len(spec.alibi_slopes), where)
    for name in ("window", "logn_context"):
        value = getattr(spec, name)
        if value is not None and not 2 <= value <= _LIMITS["max_context"]:
            raise _wrong(name, f"none, or 2 to {_LIMITS['max_context']}", value, where)


def _wrong(name: str, expected: str, value: object, where: object) -> CheckpointError:
    next_step = "get the model's files again from where it came from"
    return CheckpointError(
        f"the model's {name} is out of range", expected=expected, got=repr(value), where=where, next_step=next_step
    )
