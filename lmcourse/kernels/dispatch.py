"""Which form of an operation runs: the reference anywhere, a faster form where a device has one.

An operation is written down once as its reference, in plain torch that reads like its formula. A device type may have
a form of its own with the same signature and, within rounding, the same results; adding one is adding a table entry:

    Operation(reference=rms_norm_reference, by_device={"cuda": ...})

Lesson: 2 (the engine's floors)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["Operation", "check_shape"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Operation(Generic[P, R]):
    """The forms of one operation; `by_device` maps a torch device type to a form that replaces the reference there."""

    reference: Callable[P, R]
    by_device: Mapping[str, Callable[P, R]] = field(default_factory=dict)

    def form_for(self, device: torch.device) -> Callable[P, R]:
        """The form that runs on this device."""
        return self.by_device.get(device.type, self.reference)


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless the tensor has exactly this shape."""
    if tensor.shape != expected:
        raise ValueError(f"{name} has the wrong shape\n  expected: {list(expected)}\n  got: {list(tensor.shape)}")
