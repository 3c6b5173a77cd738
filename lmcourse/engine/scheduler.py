"""Scheduler: which tokens of which requests the next step computes. No torch: it decides, others do.

The idea (vLLM's, arXiv 2309.06180): every step hands out a budget of tokens so that each request's num_computed catches
up with its num_tokens. A long prompt takes several steps (chunked prefill) while others decode beside it.

    budget 8 │ A decodes: 1 │ B decodes: 1 │ C the last 4 of its 9 │ D new: first 2 of 7 │   decodes, prompts, new ones

Rules: a running request owns the blocks of every token it knows, some of them perhaps together with others that begin
alike (prefix_cache.py). Who is admitted next, the queue says (queues.py); age counts from then. If a decode finds no
free block, the youngest running request gives all of its blocks back and waits again, at the front of its line, to be
computed again. The older never wait for the younger, so the oldest always moves on and ends, and then the next.

Contract: `schedule` is pure and returns a Plan; `apply` carries it out; `record_launched` follows the model's launch,
whose tokens come whenever they come (`Request.append`). Steps run in the order in which they are planned, so blocks
that are given back may be handed out again at once.

Lesson: 3 (continuous batching, preemption)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.prefix_cache import NoPrefixCache, Prefixes
from lmcourse.engine.queues import FirstComeQueue, Queue, Window
from lmcourse.engine.request import Request, RequestState
from lmcourse.errors import MemoryBudgetError

__all__ = ["Chunk", "Hit", "Plan", "Scheduler"]


class Chunk(NamedTuple):
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
class Hit:
    """Blocks that hold the first `num_tokens` tokens of a request that is being admitted."""

    request: Request
    blocks: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True)
class Plan:
    """One step. `preempted` lists the youngest first; `admitted` and `hits` the oldest first."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[Request, ...] = ()
    admitted: tuple[Request, ...] = ()
    hits: tuple[Hit, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.num_tokens for chunk in self.chunks)


class Scheduler:
    """The running requests (oldest first), the queue of the waiting ones (whose turn it is) and the rules above."""

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_running: int,
        max_tokens_per_step: int,
        prefixes: Prefixes | None = None,
        waiting: Queue | None = None,
    ) -> None:
        """At most max_tokens_per_step requests run, so that every decode gets its token in every step.

        waiting: an empty queue; None: first come, first served.
        """
        self.blocks, self.prefixes = blocks, prefixes or NoPrefixCache()
        self.num_admitted_tokens = self.num_hit_tokens = 0  # known on admission; of them found in the prefix cache
        self.max_running = min(max_running, max_tokens_per_step)
        self.max_tokens_per_step = max_tokens_per_step
        self.running: list[Request] = []
        self.waiting: Queue = FirstComeQueue() if waiting is None else waiting
        self.window: Window = None

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
        self.waiting.add(request)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running or self.waiting)

    def requests(self) -> Iterator[Request]:
        """Everything that is not finished: what runs, oldest first, then what waits."""
        return chain(self.running, self.waiting)

    def schedule(self) -> Plan:
        """Plan the next step; changes nothing. No chunks: there is no request, or all wait for pending tokens."""
        kept, preempted, num_available = self._find_room()
        budget = self.max_tokens_per_step
        chunks: list[Chunk] = []
        prompts: list[Request] = []
        for request in kept:  # decodes first; beyond that, age decides
            count = request.num_to_compute
            if count == 1 and budget:
                chunks.append(Chunk(request, request.num_computed, request.num_computed + 1, samples=True))
                budget -= 1
            elif count:
                prompts.append(request)
        for request in prompts:
            budget -= self._grant(request, request.num_computed, budget, chunks)
        hits: list[Hit] = []
        if not preempted:
            for hit in self._find_admissible(kept, num_available):
                if budget == 0:
                    break
                budget -= self._grant(hit.request, hit.num_tokens, budget, chunks)
                hits.append(hit)
        admitted = tuple(hit.request for hit in hits)
        return Plan(tuple(chunks), tuple(preempted), admitted, tuple(hit for hit in hits if hit.blocks))

    def _find_room(self) -> tuple[list[Request], list[Request], int]:
        """Who keeps running, who gives way (youngest first), and the blocks left once the former have theirs."""
        kept, preempted, room = list(self.running), list[Request](), self.blocks.num_available
        served = needed = 0
        while served < len(kept):
            missing = self._count_missing(kept[served])
            if needed + missing <= room:
                needed += missing
                served += 1
            else:
                preempted.append(kept.pop())
                given = [block for request in preempted for block in request.blocks]
                room = self.blocks.num_available + self.blocks.count_released(given)
        return kept, preempted, room - needed

    def _find_admissible(self, running: list[Request], num_available: int) -> Iterator[Hit]:
        """Waiting requests in order, as long as there are blocks, each with what the prefix cache has of it."""
        if not self.waiting:
            return
        taken: set[int] = set()  # idle blocks that this plan shares already
        ahead = list(running)
        candidates = self.waiting.candidates(running, self.max_running, self.window)
        for request in islice(candidates, self.max_running - len(running)):
            found = self.prefixes.find(request)
            idle = {block for block in found if self.blocks.is_idle(block)} - taken
            num_available -= self.blocks.count_blocks(request.num_wanted) - len(found) + len(idle)
            if num_available < 0 or self.prefixes.awaits(request, len(found), ahead):
                break
            yield Hit(request, tuple(found), len(found) * self.blocks.tokens_per_block)
            taken |= idle
            ahead.append(request)

    def _count_missing(self, request: Request) -> int:
        wanted = request.num_computed + request.num_to_compute
        return max(0, self.blocks.count_blocks(wanted) - len(request.blocks))

    @staticmethod
    def _grant(request: Request, start: int, budget: int, chunks: list[Chunk]) -> int:
        stop = min(request.num_wanted, start + budget)
        if stop > start:
            chunks.append(Chunk(request, start, stop, samples=stop == request.num_tokens))
        return stop - start

    def apply(self, plan: Plan) -> dict[int, list[int]]:
        """Preempt, admit, share and allocate as planned; returns the new blocks by request id."""
        for request in plan.preempted:
            self.running.remove(request)
            self._give_back(request, RequestState.WAITING)
            self.waiting.give_way(request)
        found = {hit.request.request_id: hit.num_tokens for hit in plan.hits}
        for request in plan.admitted:
            self.waiting.admit(request, found.get(request.request_id, 0))
            self.running.append(request)
            request.state = RequestState.RUNNING
            self.num_admitted_tokens += request.num_tokens
        for hit in plan.hits:  # before anything is allocated: the found blocks may be the next to be evicted
            self.blocks.share(hit.blocks)
            hit.request.blocks, hit.request.num_computed = list(hit.blocks), hit.num_tokens
            self.num_hit_tokens += hit.num_tokens
        allocated = {}
        for request, _, stop, _ in plan.chunks:
            if stop > len(request.blocks) * self.blocks.tokens_per_block:
                allocated[request.request_id] = self.blocks.allocate(self._count_missing(request))
                request.blocks += allocated[request.request_id]
        return allocated

    def record_launched(self, plan: Plan) -> None:
        """The chunks count as computed, and the tokens that they sample as known: there is one more to compute.

        From now on others may find the blocks that the chunks have filled, since they are computed later.
        """
        tokens_per_block = self.blocks.tokens_per_block
        for request, start, stop, samples in plan.chunks:
            request.num_computed = stop
            request.num_pending += samples
            if stop - start > 1 or stop % tokens_per_block < 2:
                self._publish(request, start - 1)  # whose token may have been pending when it was launched
        self.waiting.charge(plan.chunks)

    def _publish(self, request: Request, start: int) -> None:
        self.prefixes.publish(request, max(0, start), min(request.num_computed, len(request.token_ids)))

    def remove(self, request: Request) -> None:
        """Finish or abort: the request's blocks are free at once."""
        runs = request.state is RequestState.RUNNING
        if runs:
            self.running.remove(request)
        self.waiting.end(request, runs=runs)
        self._give_back(request, RequestState.FINISHED)

    def _give_back(self, request: Request, state: RequestState) -> None:
        if request.blocks:
            self._publish(request, request.num_computed - 2)  # what a last launch did not know yet
        self.blocks.release(request.blocks)
        request.blocks = []
        request.num_computed = 0
        request.state = state

    def restart(self, requests: Iterable[Request]) -> None:
        """Start over with these unfinished requests, by their ids: all wait, all blocks are free, nothing is computed.

        Asks nothing of the state before, so that it mends any interrupted `apply` or `remove`.
        """
        self.running = []
        self.waiting.restart(requests)
        self.blocks.reset()
        for request in self.waiting:
            request.blocks, request.num_computed, request.num_pending = [], 0, 0
            request.state = RequestState.WAITING

    def check(self) -> None:
        """Raise AssertionError unless requests, queues and blocks agree."""
        requests = list(self.requests())
        for request in requests:
            request.check(self.blocks.tokens_per_block)
        self.waiting.check(self.running, self.window)
        assert len(self.running) <= self.max_running, f"{len(self.running)} run, at most {self.max_running} may"
        self.blocks.check(request.blocks for request in requests)

    def __repr__(self) -> str:
        return f"Scheduler({len(self.running)} running, {len(self.waiting)} waiting, {self.blocks!r})"
