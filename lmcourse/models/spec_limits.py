"""Sizes that a model's files may state: far above any model there is, and low enough that nothing hangs or overflows.

A config with a thousand million layers would otherwise keep the machine busy before the first weight is missed.

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

from lmcourse.errors import CheckpointError
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
_SCALINGS = (None, "linear", "dynamic")


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
    if spec.head_dim % 2:
        raise _wrong("head_dim", "an even number, since rotary embedding turns pairs", spec.head_dim, where)
    if spec.rotary.scaling == "dynamic" and spec.head_dim == 2:
        raise _wrong("head_dim", "4 or more with dynamic rotary scaling", spec.head_dim, where)
    return spec


def _wrong(name: str, expected: str, value: object, where: object) -> CheckpointError:
    next_step = "get the model's files again from where it came from"
    return CheckpointError(
        f"the model's {name} is out of range", expected=expected, got=repr(value), where=where, next_step=next_step
    )
