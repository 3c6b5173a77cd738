"""Launch: a step that the device was given, and the way of its tokens to the host.

    sampled (device)   [ 17 │ 4 │ 99 │ … ]   row of each request that sampled: `Launch.rows`
                          ├───── feeds the next step
                          └───── Fetch: a copy into pinned memory; an event says when it is there

Lesson: 3 (the host never stalls the device)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.engine.request import Request
from lmcourse.engine.sampler import Choice, Sampled

__all__ = ["Fetch", "Launch"]

_GLANCE_SECONDS = 20e-6


class Fetch:
    """Copies of tensors on their way to the host."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Starts the copies: into pinned memory behind what the device has to do, at once on a CPU."""
        self._arrived: torch.cuda.Event | None = None
        if not tensors[0].is_cuda:
            self._copies = [tensor.clone() for tensor in tensors]
            return
        self._copies = [
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            for tensor in tensors
        ]
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record()

    def wait(self) -> list[Tensor]:
        """The copies, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copies

    def wait_watching(self, watch: Callable[[], None]) -> list[Tensor]:
        """The same, but `watch` is called again and again meanwhile, and ends the wait with what it raises."""
        while self._arrived is not None and not self._arrived.query():  # type: ignore[no-untyped-call]
            watch()
            time.sleep(_GLANCE_SECONDS)
        return self._copies


@dataclass(frozen=True)
class Launch:
    """A step that the device was given."""

    sampling: tuple[Request, ...]  # who samples
    rows: Mapping[int, int]  # by request id: the row of `sampled` with its token
    choice: Choice
    fetch: Fetch
    watch: Callable[[], None] | None = None  # what may end the wait, where others take part in the step

    def wait(self) -> list[Sampled | None]:
        """One entry per request of `sampling`, once the device has got so far."""
        there = self.fetch.wait() if self.watch is None else self.fetch.wait_watching(self.watch)
        return self.choice.read(there)
