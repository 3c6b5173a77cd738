"""Random workloads of the scheduler: drawn from a seed, run over a cache of token ids, checked at every step."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.fair_queue import FairQueue
from lmcourse.engine.prefix_cache import PrefixCache
from lmcourse.engine.queues import FirstComeQueue
from lmcourse.engine.request import Request
from lmcourse.engine.scheduler import Chunk, Plan, Scheduler

VOCAB = 1000


@dataclass(frozen=True)
class Job:
    """A request to come: when, how long, and perhaps at which step it is aborted."""

    arrival: int
    prompt_len: int
    num_new: int
    room: int  # tokens it may generate; it stops after num_new
    abort_at: int | None
    account: str | None = None


@dataclass(frozen=True)
class Workload:
    num_blocks: int
    tokens_per_block: int
    max_running: int
    budget: int
    jobs: tuple[Job, ...]
    num_beginnings: int | None = None  # with a prefix cache, and prompts that begin in one of so many ways
    num_easy: int | None = None  # with a fair queue


@dataclass
class Outcome:
    num_steps: int = 0
    num_preemptions: int = 0
    num_aborts: int = 0
    num_chunked: int = 0
    num_hit_tokens: int = 0


def draw_workload(rng: random.Random) -> Workload:
    """At least 8 requests and a pool that holds the largest of them, and often little more; any queue."""
    tokens_per_block = rng.choice((1, 2, 3, 4, 8))
    longest = rng.choice((4, 12, 30))
    jobs = []
    for _ in range(rng.randint(8, 14)):
        num_new = rng.randint(1, longest)
        arrival = rng.choice((0, 0, rng.randint(0, 30)))
        abort_at = arrival + rng.randint(0, 25) if rng.random() < 0.06 else None
        room, account = num_new + rng.choice((0, 0, 5)), rng.choice((None, "Ada", "Ben", "Cem"))
        jobs.append(Job(arrival, rng.randint(1, longest), num_new, room, abort_at, account))
    largest = max(-(-(job.prompt_len + job.room - 1) // tokens_per_block) for job in jobs)
    return Workload(
        num_blocks=largest + rng.choice((0, 1, 3, 10, 100)),
        tokens_per_block=tokens_per_block,
        max_running=rng.choice((1, 3, 8, 32)),
        budget=rng.choice((1, 2, 5, 16, 64)),
        jobs=tuple(sorted(jobs, key=lambda job: job.arrival)),
        num_beginnings=rng.choice((None, 1, 2, 4)),
        num_easy=rng.choice((None, 1, 2, 8)),
    )


def draw_prompt(rng: random.Random, num_beginnings: int | None, length: int, vocab: int) -> list[int]:
    """Random ids, or, of at least half their length, the same ids as other prompts have."""
    prompt = [rng.randrange(vocab) for _ in range(length)]
    if num_beginnings is not None:
        kind = rng.randrange(num_beginnings)
        same = rng.randint(length // 2, length)
        prompt[:same] = [zlib.crc32(b"%d %d" % (kind, i)) % vocab for i in range(same)]
    return prompt


def next_token(token_ids: list[int]) -> int:
    return zlib.crc32(b"".join(t.to_bytes(2, "little") for t in token_ids)) % VOCAB


def expected_outputs(request: Request, count: int) -> list[int]:
    """The oracle: one request alone, no cache, no scheduler."""
    ids = request.token_ids[: request.prompt_len]
    for _ in range(count):
        ids.append(next_token(ids))
    return ids[request.prompt_len :]


class Simulation:
    """The scheduler around a model that keeps token ids in KV slots and reads its context back from them."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.rng = random.Random(len(workload.jobs))
        blocks = BlockManager(workload.num_blocks, workload.tokens_per_block)
        self.scheduler = Scheduler(
            blocks,
            max_running=workload.max_running,
            max_tokens_per_step=workload.budget,
            prefixes=None if workload.num_beginnings is None else PrefixCache(blocks),
            waiting=FirstComeQueue()
            if workload.num_easy is None
            else FairQueue(lambda: 0.05 * self.outcome.num_steps, num_easy=workload.num_easy),
        )
        self.slots: list[int] = [0] * (workload.num_blocks * workload.tokens_per_block)
        self.outcome = Outcome()
        self.jobs: dict[int, Job] = {}
        self.requests: dict[int, Request] = {}
        self.most_steps = sum(job.arrival + job.prompt_len + job.num_new for job in workload.jobs) + 1

    def run(self) -> Outcome:
        coming = list(enumerate(self.workload.jobs))
        clock = 0
        while coming or self.scheduler.has_work:
            while coming and coming[0][1].arrival <= clock:
                self._add(*coming.pop(0))
            self._abort(clock)
            if self.scheduler.has_work:
                self._step()
            clock += 1
            assert clock <= self.most_steps, f"not finished after {clock} steps"
        assert self.scheduler.blocks.num_available == self.workload.num_blocks
        self.outcome.num_hit_tokens = self.scheduler.num_hit_tokens
        return self.outcome

    def _add(self, request_id: int, job: Job) -> None:
        prompt = draw_prompt(self.rng, self.workload.num_beginnings, job.prompt_len, VOCAB)
        request = Request(request_id, prompt, job.prompt_len + job.room, account=job.account)
        self.scheduler.add(request)
        self.jobs[request_id], self.requests[request_id] = job, request

    def _abort(self, clock: int) -> None:
        for request in list(self.scheduler.requests()):
            if self.jobs[request.request_id].abort_at == clock:
                self.scheduler.remove(request)
                self.outcome.num_aborts += 1
                self.scheduler.check()

    def _step(self) -> None:
        before = repr(self.scheduler)
        plan = self.scheduler.schedule()
        assert repr(self.scheduler) == before, "schedule() changed something"
        self._check_plan(plan)
        self.scheduler.apply(plan)
        self.scheduler.check()
        for chunk in plan.chunks:
            self._compute(chunk)
        self.scheduler.record_launched(plan)
        for chunk in plan.chunks:
            self._finish_or_go_on(chunk)
        self.scheduler.check()
        self.outcome.num_steps += 1
        self.outcome.num_preemptions += len(plan.preempted)
        self.outcome.num_chunked += any(not chunk.samples for chunk in plan.chunks)

    def _check_plan(self, plan: Plan) -> None:
        assert 0 < plan.num_tokens <= self.workload.budget
        planned = {chunk.request.request_id for chunk in plan.chunks}
        assert len(planned) == len(plan.chunks)
        for oldest in self.scheduler.running[:1]:
            assert oldest.request_id in planned, "the oldest request makes no progress"
        given_way = {request.request_id for request in plan.preempted}
        for request in self.scheduler.running:
            if request.num_to_compute == 1 and request.request_id not in given_way:
                assert request.request_id in planned, f"{request!r} decodes and got no token"
        found = {hit.request.request_id: hit.num_tokens for hit in plan.hits}
        assert found.keys() <= {request.request_id for request in plan.admitted}
        for chunk in plan.chunks:
            assert chunk.start == found.get(chunk.request.request_id, chunk.request.num_computed)
            assert chunk.start < chunk.stop <= chunk.request.num_tokens
            assert chunk.samples == (chunk.stop == chunk.request.num_tokens)

    def _slot(self, request: Request, position: int) -> int:
        size = self.workload.tokens_per_block
        return request.blocks[position // size] * size + position % size

    def _compute(self, chunk: Chunk) -> None:
        for position in range(chunk.start, chunk.stop):
            self.slots[self._slot(chunk.request, position)] = chunk.request.token_ids[position]

    def _finish_or_go_on(self, chunk: Chunk) -> None:
        request, job = chunk.request, self.jobs[chunk.request.request_id]
        if not chunk.samples:
            return
        token = next_token([self.slots[self._slot(request, position)] for position in range(chunk.stop)])
        if request.num_outputs < job.num_new:
            request.append(token)
            return
        assert [*request.output_ids, token] == expected_outputs(request, job.num_new)
        self.scheduler.remove(request)


@dataclass
class Tally:
    """What a set of workloads must have contained to mean anything."""

    num_workloads: int = 0
    with_preemption: int = 0
    with_abort: int = 0
    with_chunks: int = 0
    with_hits: int = 0

    def count(self, outcome: Outcome) -> None:
        self.num_workloads += 1
        self.with_preemption += outcome.num_preemptions > 0
        self.with_abort += outcome.num_aborts > 0
        self.with_chunks += outcome.num_chunked > 0
        self.with_hits += outcome.num_hit_tokens > 0

    def check(self, at_least: int) -> None:
        print(self)
        assert self.num_workloads >= at_least
        # true shares, of 6,000: 0.28, 0.34, 0.56 to 0.67, 0.57; 100 of them fall short by chance once in 10¹⁰ times
        assert self.with_preemption >= 0.03 * self.num_workloads
        assert self.with_abort >= 0.05 * self.num_workloads
        assert self.with_chunks >= 0.2 * self.num_workloads
        assert self.with_hits >= 0.2 * self.num_workloads


def run_random_workloads(count: int, first_seed: int) -> Tally:
    """Workloads first_seed, first_seed + 1, …; a failure names its seed."""
    tally = Tally()
    for seed in range(first_seed, first_seed + count):
        try:
            tally.count(Simulation(draw_workload(random.Random(seed))).run())
        except Exception as error:
            raise AssertionError(f"workload of seed {seed}: {error}") from error
    return tally
