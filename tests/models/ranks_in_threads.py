"""Ranks as threads of one process: the same contract as processes, without their start."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass
class Table:
    """Where the threads lay down what the others need."""

    size: int
    barrier: threading.Barrier = field(init=False)
    places: list = field(init=False)

    def __post_init__(self) -> None:
        self.barrier, self.places = threading.Barrier(self.size, timeout=60), [None] * self.size

    def exchange(self, rank: int, thing: T) -> list[T]:
        self.places[rank] = thing
        self.barrier.wait()
        seen = list(self.places)
        self.barrier.wait()
        return seen


@dataclass(frozen=True)
class ThreadRanks:
    table: Table
    rank: int

    @property
    def size(self) -> int:
        return self.table.size

    def add_up(self, parts: Tensor) -> Tensor:
        return torch.stack([part.sum(0, keepdim=True) for part in self.table.exchange(self.rank, parts)]).sum(0)

    def concatenate(self, tensor: Tensor) -> Tensor:
        return torch.cat(self.table.exchange(self.rank, tensor), dim=1)

    def least(self, number: int) -> int:
        return min(self.table.exchange(self.rank, number))


def run_ranks(size: int, work: Callable[[ThreadRanks], T]) -> list[T]:
    """work(ranks) on `size` ranks at once."""
    table = Table(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, [ThreadRanks(table, rank) for rank in range(size)]))
