"""Two values → None if they agree, otherwise the difference in words that a student can act on.

Knows numbers, text, lists and tensors. Tensors must agree exactly: the exercises move values and do no arithmetic.

Lesson: 9 (homework)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["describe", "difference"]

_SHOWN_CHARACTERS = 300


def describe(value: Any) -> str:
    """A value in at most a few lines."""
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
    if _is_tensor(expected):
        return _tensor_difference(expected, got)
    if isinstance(expected, str):
        return _text_difference(expected, got)
    if isinstance(expected, tuple | list):
        return _sequence_difference(expected, got)
    if isinstance(got, bool) or not _is_number(got):
        return f"the answer is {_kind(got)}; a number was expected"
    if got != expected:
        return f"off by {got - expected:+,}"
    return None


def _is_tensor(value: Any) -> bool:
    # A tensor cannot exist before torch was imported, so there is no need to import it here.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


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
    if _is_tensor(got) and got.ndim == 1:
        got = got.tolist()
    if not isinstance(got, tuple | list):
        return f"the answer is {_kind(got)}; a {type(expected).__name__} was expected"
    for n, (wanted, came) in enumerate(zip(expected, got, strict=False)):
        if found := difference(wanted, came):
            return f"item {n} differs: {describe(wanted)} was expected, {describe(came)} came ({found})"
    if len(got) != len(expected):
        return f"{len(got)} items instead of {len(expected)}; the first {min(len(got), len(expected))} agree"
    return None


def _tensor_difference(expected: Any, got: Any) -> str | None:
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
