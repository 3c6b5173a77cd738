"""Ranks: how the devices that share one model talk to each other in the middle of a layer.

The idea (Megatron-LM, arXiv 1909.08053 §3): cut the first matrix of a pair by its output features and the second by its
input features. Between the two every rank works on features that it alone has; behind the second each has a part of
every output, and one sum over the ranks makes the whole. A layer has two such pairs, hence two sums:

    rank 0    qkv of heads 0 1 ─ attend ─ output, columns of heads 0 1 ┐        gate_up 0 ─ down 0 ┐
    rank 1    qkv of heads 2 3 ─ attend ─ output, columns of heads 2 3 ┴ add_up ─ gate_up 1 ─ down 1 ┴ add_up

The vocabulary is cut, too: each rank looks up and scores its own range of tokens.

Contract: ranks do the same operations in the same order; ALONE is one device, for which none of this costs anything.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

from lmcourse.errors import ConfigError
from lmcourse.spec import ModelSpec

__all__ = ["ALONE", "Alone", "GroupRanks", "Ranks", "cut_spec", "finish"]

_LOOK = timedelta(seconds=0.5)  # how long a wait lasts before somebody looks who is still there
_LAST_SECONDS = 5.0


class Ranks(Protocol):
    """One rank's view of all of them."""

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def add_up(self, parts: Tensor) -> Tensor:
        """Parts of a product [num_parts, num_tokens, out_features] → parts that add up to the sum over all ranks."""

    def concatenate(self, tensor: Tensor) -> Tensor:
        """[rows, n] of each rank, side by side in their order: [rows, size · n]."""

    def least(self, number: int) -> int:
        """The smallest of the numbers that the ranks give."""


@dataclass(frozen=True)
class Alone:
    """One device has everything."""

    rank: int = 0
    size: int = 1

    def add_up(self, parts: Tensor) -> Tensor:
        """As it is."""
        return parts

    def concatenate(self, tensor: Tensor) -> Tensor:
        """As it is."""
        return tensor

    def least(self, number: int) -> int:
        """As it is."""
        return number


ALONE = Alone()


def finish(work: Any, group: ProcessGroup, watch: Callable[[], None]) -> None:
    """Wait for an operation of gloo's; `watch` is called meanwhile, and ends the wait with what it raises.

    gloo learns of a lost rank from its sockets, and on a busy machine sometimes does not: then its own thread waits on,
    and the group's destructor would wait for the thread. Such a group is kept until the process ends.
    """
    try:
        while not _is_over(work):
            watch()
    except BaseException:
        if not work.is_completed():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
        raise


def _is_over(work: Any) -> bool:
    """Whether it is, after a moment's wait; its own error if it ended with one."""
    try:
        work.wait(_LOOK)
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()
    return True


def _end_before_the_interpreter(thread: threading.Thread) -> None:
    """A thread that comes back from C++ while Python ends takes the process down with it (before Python 3.14)."""
    if thread.is_alive():
        gc.collect()  # graphs that only a traceback still holds
        thread.join(_LAST_SECONDS)


@dataclass(frozen=True)
class GroupRanks:
    """Processes of one torch.distributed group: NCCL between GPUs, gloo between processors.

    `watch` raises if one of them is known to be lost; a wait on a processor then ends.
    """

    group: ProcessGroup
    device: torch.device
    watch: Callable[[], None]

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""
        return self.group.rank()

    @property
    def size(self) -> int:
        """How many there are."""
        return self.group.size()

    def add_up(self, parts: Tensor) -> Tensor:
        """One part [1, num_tokens, out_features], the same on every rank."""
        whole = parts.contiguous() if parts.shape[0] == 1 else parts.sum(dim=0, keepdim=True)
        self._finish(self.group.allreduce([whole]))
        return whole

    def concatenate(self, tensor: Tensor) -> Tensor:
        """[rows, n] of each rank → [rows, size · n], the same on every rank."""
        rows, width = tensor.shape
        gathered = tensor.new_empty((self.size * rows, width))
        self._finish(self.group._allgather_base(gathered, tensor.contiguous()))
        return gathered.view(self.size, rows, width).transpose(0, 1).flatten(1)

    def least(self, number: int) -> int:
        """The smallest of the numbers that the ranks give."""
        told = torch.tensor([number], device=self.device)
        self._finish(self.group.allreduce([told], ReduceOp.MIN))
        return int(told)

    def let_go(self) -> None:
        """A rank was lost: whatever of this one waits for it on the device ends; the group is of no more use."""
        if self.device.type == "cuda":  # returns only when the graphs that were recorded with it are gone, too
            thread = threading.Thread(target=self.group.abort, daemon=True)
            thread.start()
            atexit.register(_end_before_the_interpreter, thread)

    def _finish(self, work: Any) -> None:
        if self.device.type == "cuda":
            work.wait()  # holds up the stream, not this process
        else:
            finish(work, self.group, self.watch)


def cut_spec(spec: ModelSpec, ranks: Ranks) -> ModelSpec:
    """What one of the ranks computes; ConfigError where heads or features cannot be dealt out evenly.

    Ranks that outnumber the kv heads share them: each keeps a copy of the one that its query heads look at.
    """
    size = ranks.size
    if size == 1:
        return spec
    heads = spec.num_heads // size
    few, many = sorted((spec.num_kv_heads, size))
    experts = spec.experts
    for what, count, unit in (
        ("query heads", spec.num_heads, size),
        ("kv heads, or is a multiple of them", many, few),
        ("features between gate_up and down", spec.intermediate, size),
        ("features of an expert", experts.intermediate if experts else size, size),
    ):
        if count % unit:
            raise _uneven(spec, size, what)
    if experts is not None:
        narrow, shared = experts.intermediate // size, -(-experts.shared_intermediate // size)
        experts = dataclasses.replace(experts, intermediate=narrow, shared_intermediate=shared)
    return dataclasses.replace(
        spec,
        num_heads=heads,
        num_kv_heads=max(1, spec.num_kv_heads // size),
        intermediate=spec.intermediate // size,
        experts=experts,
        alibi_slopes=spec.alibi_slopes[ranks.rank * heads : (ranks.rank + 1) * heads],
    )


def _uneven(spec: ModelSpec, size: int, what: str) -> ConfigError:
    fitting = [str(n) for n in range(1, size) if not spec.num_heads % n and not spec.intermediate % n]
    return ConfigError(
        f"{size} ranks cannot share this model evenly",
        expected=f"tp that divides the {what}",
        got=f"tp={size}: {spec.num_heads} query heads, {spec.num_kv_heads} kv heads, {spec.intermediate} features",
        where="tp",
        next_step=f"try tp={' or '.join(fitting)}",
    )
