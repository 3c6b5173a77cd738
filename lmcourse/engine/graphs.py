"""Graphs: a step recorded as one CUDA graph and replayed, instead of hundreds of launches.

The idea: a decode step of 24 layers is 150 launches, each of which costs the host 15 to 60 µs and the device 2 to 10.
What a stream was told once can be told again in a single launch, if nothing about it changes: the same kernels, the
same addresses, the same sizes. So the step works on tensors that stay where they are, and their contents change.

    first time     run                   compiles what has to be compiled
    second time    record, replay        the host goes through the step once more, the device does nothing meanwhile
    then           replay                about 10 µs

Contract: the work of a key does the same launches on the same memory whenever it is called, waits for nothing and
copies nothing from or to the host. Recordings share their memory: what one returns is good until the next one runs.

Lesson: 3 (one graph instead of 150 launches)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch

from lmcourse.config import TurbomindEngineConfig
from lmcourse.kernels.dispatch import runs_triton

__all__ = ["Graphs", "Recorder", "choose_recorder"]

T = TypeVar("T")
_SMALLEST_TILE = 16  # tokens of a block that the attention kernels take


class Recorder(Protocol):
    """How repeated work is done."""

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Do the work, or what was recorded of it under this key."""


class Graphs:
    """Records and replays, on one stream of one device."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()  # one for all: they never run at the same time
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # the default stream cannot be recorded
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any] | None] = {}

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Runs, then records, then replays."""
        if key not in self._recorded:
            self._recorded[key] = None
            return work()
        recorded = self._recorded[key]
        if recorded is None:
            recorded = self._recorded[key] = self._record(work)
        graph, results = recorded
        graph.replay()
        return results  # type: ignore[no-any-return]

    def _record(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # other threads of the process may go on using the device meanwhile
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                results = work()
            finally:
                graph.capture_end()
        return graph, results


def choose_recorder(config: TurbomindEngineConfig, device: torch.device) -> Recorder | None:
    """Graphs, where a step is made of kernels alone; plain torch's attention asks the device for sizes."""
    tile = config.cache_block_seq_len
    has_kernels = device.type == "cuda" and runs_triton(device) and tile >= _SMALLEST_TILE and tile & (tile - 1) == 0
    return Graphs() if config.cuda_graphs and has_kernels else None
