"""Launch: a step that the device was given, and the way of its tokens to the host.

    sampled (device)   [ 17 │ 4 │ 99 │ … ]   row of each request that sampled: `Launch.rows`
                          ├───── feeds the next step
                          └───── Fetch: a copy into pinned memory; an event says when it is there

Lesson: 3 (the host never stalls the device)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.engine.request import Request
from lmcourse.engine.sampler import Choice, Sampled

__all__ = ["Fetch", "Launch"]


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


@dataclass(frozen=True)
class Launch:
    """A step that the device was given."""

    sampling: tuple[Request, ...]  # who samples
    rows: Mapping[int, int]  # by request id: the row of `sampled` with its token
    choice: Choice
    fetch: Fetch

    def wait(self) -> list[Sampled | None]:
        """One entry per request of `sampling`, once the device has got so far."""
        return self.choice.read(self.fetch.wait())
