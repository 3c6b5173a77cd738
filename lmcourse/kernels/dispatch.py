"""Which form of an operation runs: the reference anywhere, a faster form where a device and a batch have one.

An operation is written down once as its reference, in plain torch that reads like its formula. Other forms have the
same signature and, within rounding, the same results:

    Operation(
        reference=norm_qkv_reference,
        by_device={"cpu": ...},                                      another way to say it in torch, per device type
        triton=(UpTo(4, norm_qkv_rows), UpTo(64, norm_qkv_tiles)),   the first whose limit holds the batch's tokens
    )

Triton's forms run on CUDA devices with tensor cores that Triton knows (compute capability 8.0 and later), and on the
CPU under Triton's interpreter.

Lesson: 2 (the engine's floors)
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from lmcourse.kernels.lang import capability, has_triton, is_interpreting

__all__ = ["Operation", "UpTo", "check_shape", "runs_triton"]

P = ParamSpec("P")
R = TypeVar("R")
_OLDEST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class UpTo(Generic[P, R]):
    """A Triton form and the most tokens that it is for."""

    most_tokens: float
    form: Callable[P, R]
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Operation(Generic[P, R]):
    """The forms of one operation; `by_device` maps a torch device type to a form that replaces the reference there."""

    reference: Callable[P, R]
    by_device: Mapping[str, Callable[P, R]] = field(default_factory=dict)
    triton: tuple[UpTo[P, R], ...] = ()

    def form_for(
        self, device: torch.device, *, dtype: torch.dtype | None = None, num_tokens: float = math.inf
    ) -> Callable[P, R]:
        """The form that runs on this device, for so many tokens of this dtype; None: of any."""
        if self.triton and runs_triton(device):
            for entry in self.triton:
                if num_tokens <= entry.most_tokens and (dtype is None or dtype in entry.dtypes):
                    return entry.form
        return self.by_device.get(device.type, self.reference)


@functools.cache
def runs_triton(device: torch.device) -> bool:
    """Whether Triton's forms run there; warns, once, about a GPU that is too old for them."""
    if device.type == "cpu":
        return is_interpreting()
    if device.type != "cuda" or not has_triton():
        return False
    if capability(device) >= _OLDEST_CAPABILITY:
        return True
    warnings.warn(
        f"{torch.cuda.get_device_name(device)} has compute capability {capability(device)}; the Triton kernels need "
        f"{_OLDEST_CAPABILITY} or later. Plain torch runs instead, slower",
        stacklevel=2,
    )
    return False


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless the tensor has exactly this shape."""
    if tensor.shape != expected:
        raise ValueError(f"{name} has the wrong shape\n  expected: {list(expected)}\n  got: {list(tensor.shape)}")
