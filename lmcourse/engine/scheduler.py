"""Scheduler: which tokens of which requests the next step computes. No torch: it decides, others do.

The idea (vLLM's, arXiv 2309.06180): every step hands out a budget of tokens so that each request's num_computed catches
up with its num_tokens. A long prompt takes several steps (chunked prefill) while others decode beside it.

    budget 8 │ A decodes: 1 │ B decodes: 1 │ C the last 4 of its 9 │ D new: first 2 of 7 │   decodes, prompts, new ones

Rules: a running request owns the blocks of every token it knows. If a decode finds no free block, the youngest running
request gives all of its blocks back and waits again, first in line, to be computed again. The older never wait for the
younger, so the oldest always moves on and every request ends.

Contract: `schedule` is pure and returns a Plan; `apply` carries it out; `record_computed` follows the model's run.

Lesson: 3 (continuous batching, preemption)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.request import Request, RequestState
from lmcourse.errors import MemoryBudgetError

__all__ = ["Chunk", "Plan", "Scheduler"]


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of one request; `samples`: they end with the last known one, so the next can be sampled."""

    request: Request
    start: int
    stop: int
    samples: bool

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """One step. `preempted` lists the youngest first; `admitted` the oldest first."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[Request, ...] = ()
    admitted: tuple[Request, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.num_tokens for chunk in self.chunks)


class Scheduler:
    """The running requests (oldest first), the waiting ones (first come, first served) and the rules above."""

    def __init__(self, blocks: BlockManager, *, max_running: int, max_tokens_per_step: int) -> None:
        """At most max_tokens_per_step requests run, so that every decode gets its token in every step."""
        self.blocks = blocks
        self.max_running = min(max_running, max_tokens_per_step)
        self.max_tokens_per_step = max_tokens_per_step
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()

    def check_fits(self, request: Request) -> None:
        """MemoryBudgetError if the request could not finish even with all blocks to itself."""
        needed = self.blocks.count_blocks(request.max_tokens - 1)
        if needed > self.blocks.num_blocks:
            raise MemoryBudgetError(
                "the request cannot fit into the KV cache even alone",
                expected=f"at most {self.blocks.num_blocks} blocks of {self.blocks.tokens_per_block} tokens",
                got=f"{request.max_tokens} tokens, {needed} blocks",
                next_step="ask for fewer new tokens, or raise cache_max_entry_count",
            )

    def add(self, request: Request) -> None:
        """Queue a request that fits; requests come in the order of their ids."""
        self.check_fits(request)
        self.waiting.append(request)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running or self.waiting)

    def requests(self) -> Iterator[Request]:
        """Everything that is not finished, oldest first."""
        return chain(self.running, self.waiting)

    def schedule(self) -> Plan:
        """Plan the next step; changes nothing. The plan has chunks whenever there is any request."""
        kept, preempted, num_free = self._find_room()
        budget = self.max_tokens_per_step
        chunks: list[Chunk] = []
        for request in sorted(kept, key=lambda request: request.num_to_compute > 1):  # stable: age decides otherwise
            budget -= self._grant(request, budget, chunks)
        admitted: list[Request] = []
        if not preempted:
            for request in islice(self.waiting, self.max_running - len(kept)):
                num_free -= self.blocks.count_blocks(request.num_tokens)
                if num_free < 0 or budget == 0:
                    break
                budget -= self._grant(request, budget, chunks)
                admitted.append(request)
        return Plan(tuple(chunks), tuple(preempted), tuple(admitted))

    def _find_room(self) -> tuple[list[Request], list[Request], int]:
        """Who keeps running, who gives way (youngest first), and the blocks left free once the former have theirs."""
        kept, preempted, num_free = list(self.running), list[Request](), self.blocks.num_free
        served = 0
        while served < len(kept):
            missing = self._count_missing(kept[served])
            if missing <= num_free:
                num_free -= missing
                served += 1
            else:
                youngest = kept.pop()
                num_free += self.blocks.count_released(youngest.blocks)
                preempted.append(youngest)
        return kept, preempted, num_free

    def _count_missing(self, request: Request) -> int:
        return self.blocks.count_blocks(request.num_tokens) - len(request.blocks)

    @staticmethod
    def _grant(request: Request, budget: int, chunks: list[Chunk]) -> int:
        granted = min(request.num_to_compute, budget)
        if granted:
            start, stop = request.num_computed, request.num_computed + granted
            chunks.append(Chunk(request, start, stop, samples=stop == request.num_tokens))
        return granted

    def apply(self, plan: Plan) -> dict[int, list[int]]:
        """Preempt, admit and allocate as planned; returns the new blocks by request id."""
        for request in plan.preempted:
            self.running.remove(request)
            self._give_back(request, RequestState.WAITING)
            self.waiting.appendleft(request)
        for request in plan.admitted:
            self.running.append(self.waiting.popleft())
            request.state = RequestState.RUNNING
        allocated = {}
        for request in (chunk.request for chunk in plan.chunks):
            missing = self._count_missing(request)
            if missing:
                allocated[request.request_id] = self.blocks.allocate(missing)
                request.blocks += allocated[request.request_id]
        return allocated

    @staticmethod
    def record_computed(chunk: Chunk, sampled: int | None = None) -> None:
        """The chunk's keys and values are cached; a sampled token is appended so that there is one more to compute."""
        if sampled is not None:
            chunk.request.append(sampled)
        chunk.request.num_computed = chunk.stop

    def remove(self, request: Request) -> None:
        """Finish or abort: the request's blocks are free at once."""
        (self.running if request.state is RequestState.RUNNING else self.waiting).remove(request)
        self._give_back(request, RequestState.FINISHED)

    def _give_back(self, request: Request, state: RequestState) -> None:
        self.blocks.release(request.blocks)
        request.blocks = []
        request.num_computed = 0
        request.state = state

    def restart(self, requests: Iterable[Request]) -> None:
        """Start over with these unfinished requests, oldest first: all wait, all blocks are free, nothing is computed.

        Asks nothing of the state before, so that it mends any interrupted `apply` or `remove`.
        """
        self.running, self.waiting = [], deque(requests)
        self.blocks.reset()
        for request in self.waiting:
            request.blocks, request.num_computed, request.state = [], 0, RequestState.WAITING

    def check(self) -> None:
        """Raise AssertionError unless requests, queues and blocks agree."""
        requests = list(self.requests())
        for request in requests:
            request.check(self.blocks.tokens_per_block)
        ids = [request.request_id for request in requests]
        assert ids == sorted(set(ids)), f"running then waiting is not the order of arrival: {ids}"
        assert len(self.running) <= self.max_running, f"{len(self.running)} run, at most {self.max_running} may"
        self.blocks.check(request.blocks for request in requests)

    def __repr__(self) -> str:
        return f"Scheduler({len(self.running)} running, {len(self.waiting)} waiting, {self.blocks!r})"
