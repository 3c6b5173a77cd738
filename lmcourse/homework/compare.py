"""Two values → None if they agree, otherwise the difference in words that a student can act on.

Knows numbers, text, lists, dicts and tensors; an array or a list of numbers may stand for a tensor, and the other way
round. Tensors must agree exactly where an exercise moves values; where it does arithmetic, the expected one is wrapped
in Close.

Lesson: 9 (homework)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Close", "Judged", "describe", "difference"]

_SHOWN_CHARACTERS = 300
_ROUNDING = 1e-5  # of fractions computed in another order or in 32 bits; whole numbers are compared exactly


@dataclass(frozen=True)
class Close:
    """A tensor that an answer may miss by `tolerance`, relative to its largest element; NaN agrees with NaN."""

    value: Any
    tolerance: float


class Judged:
    """An expected value that knows by itself what agrees with it, such as a command line in any order of flags."""

    def difference(self, got: Any) -> str | None:
        """Where `got` departs from it; None if it does not."""
        raise NotImplementedError


def describe(value: Any) -> str:
    """A value in at most a few lines."""
    if isinstance(value, Judged):
        return str(value)
    if isinstance(value, Close):
        return _describe_numbers(value.value)
    if _is_tensor(value):
        return f"a tensor of shape {list(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple) and any(_is_tensor(part) for part in value):
        return "(" + ", ".join(describe(part) for part in value) + ")"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters)"


def difference(expected: Any, got: Any) -> str | None:
    """Where `got` first departs from `expected`; None if it does not."""
    got = got.value if isinstance(got, Close) else got
    if isinstance(expected, Judged):
        return expected.difference(got)
    if isinstance(expected, Close):
        return _distance(expected, got)
    if isinstance(expected, Mapping):
        return _mapping_difference(expected, got)
    if _is_tensor(expected):
        return _tensor_difference(expected, got)
    if isinstance(expected, str):
        return _text_difference(expected, got)
    if isinstance(expected, tuple | list):
        return _sequence_difference(expected, got)
    if expected is None or isinstance(expected, bool):
        told = got.item() if getattr(got, "ndim", None) == 0 else got  # of numpy and torch
        return None if told is expected else f"{expected} was expected"
    return _number_difference(expected, got)


def _is_tensor(value: Any) -> bool:
    # A tensor cannot exist before torch was imported, so there is no need to import it here.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _as_tensor(value: Any, like: Any) -> Any:
    """An array, or a list of numbers or of tensors, as the tensor it stands for; anything else as it is."""
    import torch

    try:
        if _is_array(value):
            return torch.from_numpy(value.copy())
        if isinstance(value, tuple | list) and value and all(_is_tensor(part) for part in value):
            return torch.stack(tuple(value))
        return torch.tensor(value, dtype=like.dtype) if isinstance(value, tuple | list) else value
    except (TypeError, ValueError, RuntimeError):  # ragged, or not of numbers
        return value


def _number_difference(expected: float, got: Any) -> str | None:
    if isinstance(got, bool) or not _is_number(got):
        return f"the answer is {_kind(got)}; a number was expected"
    if got == expected or (isinstance(expected, float) and math.isclose(got, expected, rel_tol=_ROUNDING)):
        return None
    return f"off by {got - expected:+,}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "ndim", None) == 0)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _text_difference(expected: str, got: Any) -> str | None:
    if not isinstance(got, str):
        return f"the answer is {_kind(got)}; text was expected"
    if got == expected:
        return None
    pairs = zip(expected, got, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(got)))
    return (
        f"the first {at} characters agree; then {expected[at : at + 24]!r} was expected and {got[at : at + 24]!r} came"
    )


def _sequence_difference(expected: Sequence[Any], got: Any) -> str | None:
    holds_tensors = any(_is_tensor(part) or isinstance(part, Close) for part in expected)
    if (_is_tensor(got) or _is_array(got)) and got.ndim and not holds_tensors:
        got = got.tolist()
    if not isinstance(got, tuple | list):
        return f"the answer is {_kind(got)}; a {type(expected).__name__} was expected"
    for n, (wanted, came) in enumerate(zip(expected, got, strict=False)):
        if found := difference(wanted, came):
            return f"item {n} differs: {describe(wanted)} was expected, {describe(came)} came ({found})"
    if len(got) != len(expected):
        return f"{len(got)} items instead of {len(expected)}; the first {min(len(got), len(expected))} agree"
    return None


def _mapping_difference(expected: Mapping[Any, Any], got: Any) -> str | None:
    if not isinstance(got, Mapping):
        return f"the answer is {_kind(got)}; a dict was expected"
    for key in [*expected, *got]:
        if key not in got:
            return f"{key!r} is missing"
        if key not in expected:
            return f"{key!r} should not be there"
        if found := difference(expected[key], got[key]):
            return f"at {key!r} {describe(expected[key])} was expected, {describe(got[key])} came ({found})"
    return None


def _describe_numbers(tensor: Any) -> str:
    shown = ", ".join(f"{value:.4g}" for value in tensor.flatten()[:6].tolist())
    return f"{describe(tensor)}: [{shown}{', …' if tensor.numel() > 6 else ''}]"


def _distance(expected: Close, got: Any) -> str | None:
    """As _tensor_difference, but for rounding."""
    wanted, got = expected.value, _as_tensor(got, expected.value)
    if not _is_tensor(got) or got.shape != wanted.shape:
        return _tensor_difference(wanted, got)
    allowed = expected.tolerance * max(1.0, wanted.abs().nan_to_num().max().item())
    if got.double().isclose(wanted.double(), rtol=0.0, atol=allowed, equal_nan=True).all():
        return None
    if not got.isfinite().all():
        return f"it holds NaN or infinity: {_describe_numbers(got)}"
    return f"off by up to {(got - wanted).abs().max().item():.2g}: {_describe_numbers(got)}"


def _tensor_difference(expected: Any, got: Any) -> str | None:
    got = _as_tensor(got, expected)
    if not _is_tensor(got):
        return f"the answer is {_kind(got)}; a tensor was expected"
    if got.shape != expected.shape:
        return f"shape {list(got.shape)} instead of {list(expected.shape)}"
    if got.dtype != expected.dtype:
        return f"dtype {got.dtype} instead of {expected.dtype}"
    wrong = (got != expected).reshape(got.shape[0], -1).any(dim=1).nonzero().flatten()
    if len(wrong) == 0:
        return None
    rows = f"{len(wrong)} of {got.shape[0]} rows hold other values, the first of them row {int(wrong[0])}"
    return f"the shape is right, but {rows}"
