"""Queues: in which order waiting requests are admitted. No torch.

The idea: the scheduler knows what fits; whose turn it is, the queue knows. First come, first served is the queue of
somebody's own notebook; fair_queue.py has the one of a class.

Contract: `candidates` changes nothing and yields whom the scheduler may admit, in this order and no other: when one
does not fit, all behind it wait. Whoever gave way comes before those of the same account that never ran.

Lesson: 3 (continuous batching)
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from lmcourse.engine.request import Request

if TYPE_CHECKING:
    from lmcourse.engine.scheduler import Chunk

__all__ = ["FirstComeQueue", "Queue", "Window"]

Window = tuple[int, int] | None  # first and last id that may run (a quarantine); None: all may


class Queue(Protocol):
    """Who waits, and in which order; told of everything that happens to a request."""

    def __len__(self) -> int:
        """Requests that wait."""

    def __iter__(self) -> Iterator[Request]:
        """They, in no promised order."""

    def add(self, request: Request) -> None:
        """A new request; they come in the order of their ids."""

    def candidates(self, running: Sequence[Request], num_places: int, window: Window) -> Iterable[Request]:
        """Whom to admit beside these, in order, if each is admitted; at most num_places run."""

    def admit(self, request: Request, num_found: int) -> None:
        """A candidate runs from now on; the cache had num_found of its tokens."""

    def give_way(self, request: Request) -> None:
        """A running request waits again; of several the youngest first."""

    def charge(self, chunks: Iterable[Chunk]) -> None:
        """A step with these chunks was launched."""

    def end(self, request: Request, *, runs: bool) -> None:
        """The request is done, or given up: a running one, or one that waits."""

    def restart(self, requests: Iterable[Request]) -> None:
        """From now on exactly these wait, in the order of their ids, whatever was before."""

    def check(self, running: Sequence[Request], window: Window) -> None:
        """Raise AssertionError unless the order is kept."""


class FirstComeQueue:
    """First come, first served: the order is that of the ids, for running and waiting together."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._waiting)

    def add(self, request: Request) -> None:
        """To the end."""
        self._waiting.append(request)

    def candidates(self, running: Sequence[Request], num_places: int, window: Window) -> Iterable[Request]:
        """All, as they came."""
        if window is None:
            return self._waiting
        return [request for request in self._waiting if window[0] <= request.request_id <= window[1]]

    def admit(self, request: Request, num_found: int) -> None:
        """The first, but for a quarantine."""
        self._waiting.remove(request)

    def give_way(self, request: Request) -> None:
        """Back to where it came from."""
        bisect.insort(self._waiting, request, key=_get_id)

    def charge(self, chunks: Iterable[Chunk]) -> None:
        """Nobody counts."""

    def end(self, request: Request, *, runs: bool) -> None:
        """It is gone."""
        if not runs:
            self._waiting.remove(request)

    def restart(self, requests: Iterable[Request]) -> None:
        """Only these."""
        self._waiting = deque(requests)

    def check(self, running: Sequence[Request], window: Window) -> None:
        """Running, then waiting, is the order of arrival; in a quarantine, each of the two."""
        for requests in (running, self) if window else ((*running, *self),):
            ids = [request.request_id for request in requests]
            assert ids == sorted(set(ids)), f"running then waiting is not the order of arrival: {ids}"


def _get_id(request: Request) -> int:
    return request.request_id
