"""Two machines that answer a class: the engine itself, and its scheduler with a clock that only jumps.

    EngineMachine     an Engine; `now` is the time that passes
    VirtualMachine    the engine's Scheduler and BlockManager; a step takes what a StepTable says, `now` is their sum

The idea: who waits for whom is decided by the scheduler, and the scheduler is code. Only the length of a step is a fact
about hardware, and it can be measured once. So a simulation runs the real decisions on measured steps: nothing is
computed, and a class of an hour takes seconds.

    host     launch 1 │ launch 2 │ land 1 │ launch 3 │ …       with overlap a step is planned while the one before runs:
    device            │ step 1 ········│ step 2 ········│      whoever asks waits for two steps and not for one

Contract of both: `ask`, then `advance` while `has_work`; each gives the requests that got a token by then and whether
it was their last. Nothing is aborted, answers have exactly the length that was asked for.

Lesson: 5 (how many students)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lmcourse.bench.capacity_steps import StepTable
from lmcourse.config import GenerationConfig
from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.queues import FirstComeQueue, Queue
from lmcourse.engine.request import Request
from lmcourse.engine.scheduler import Plan, Scheduler

if TYPE_CHECKING:
    from lmcourse.engine import Engine

__all__ = ["EngineMachine", "Machine", "MachineUse", "News", "VirtualMachine"]


class News(NamedTuple):
    """A request has a token more, or several."""

    request_id: int
    is_last: bool


class MachineUse(NamedTuple):
    """What a machine did so far."""

    busy_seconds: float
    num_steps: int
    num_outside: int  # steps beyond what the table was measured with
    num_preemptions: int
    peak_blocks: int
    num_blocks: int


class Machine(Protocol):
    """What a class asks."""

    @property
    def now(self) -> float:
        """Seconds since the machine began."""

    @property
    def has_work(self) -> bool:
        """Whether `advance` has anything to do."""

    def ask(self, prompt_len: int, num_outputs: int, account: str | None = None) -> int:
        """A request's id; it starts with the next step that is planned."""

    def advance(self) -> list[News]:
        """Until the next step's end."""

    def wait_until(self, moment: float) -> None:
        """With nothing to do."""

    def use(self) -> MachineUse:
        """Sums since the machine began."""


class VirtualMachine:
    """The scheduler's own decisions, timed by a table."""

    def __init__(
        self,
        table: StepTable,
        *,
        max_running: int | None = None,
        num_blocks: int | None = None,
        queue: Callable[[Callable[[], float]], Queue] | None = None,
    ) -> None:
        """The table's limits, unless given; a smaller pool shows a smaller card. queue: makes one for this clock."""
        self._table = table
        self._scheduler = Scheduler(
            BlockManager(num_blocks or table.num_blocks, table.tokens_per_block),
            max_running=max_running or table.max_running,
            max_tokens_per_step=table.max_tokens_per_step,
            waiting=None if queue is None else queue(lambda: self._now),
        )
        self._in_flight: deque[tuple[Plan, float]] = deque()  # with the moment of its end
        self._now = self._device_free_at = 0.0
        self._next_id = self._num_steps = self._num_outside = self._num_preemptions = self._peak_blocks = 0
        self._busy = 0.0

    @property
    def now(self) -> float:
        return self._now

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def ask(self, prompt_len: int, num_outputs: int, account: str | None = None) -> int:
        request = Request(self._next_id, [0] * prompt_len, prompt_len + num_outputs, account=account)
        self._next_id += 1
        self._scheduler.add(request)
        return request.request_id

    def advance(self) -> list[News]:
        while len(self._in_flight) < 1 + self._table.overlap and self._launch():
            pass
        plan, end = self._in_flight.popleft()
        self._now = max(self._now, end)
        news = []
        for chunk in plan.chunks:
            if chunk.samples:
                chunk.request.append(0)
                is_last = len(chunk.request.token_ids) == chunk.request.max_tokens
                news.append(News(chunk.request.request_id, is_last))
                if is_last:
                    self._scheduler.remove(chunk.request)
        return news

    def _launch(self) -> bool:
        """Steps._launch, without a device."""
        scheduler = self._scheduler
        plan = scheduler.schedule()
        if not plan.chunks:
            return False
        scheduler.apply(plan)
        scheduler.record_launched(plan)
        decodes = [chunk.stop for chunk in plan.chunks if chunk.samples and chunk.stop - chunk.start == 1]
        prompts = [
            (chunk.start, chunk.stop) for chunk in plan.chunks if not (chunk.samples and chunk.stop - chunk.start == 1)
        ]
        seconds, is_measured = self._table.seconds(decodes, prompts)
        self._device_free_at = max(self._now, self._device_free_at) + seconds
        self._in_flight.append((plan, self._device_free_at))
        self._busy += seconds
        self._num_steps += 1
        self._num_outside += not is_measured
        self._num_preemptions += len(plan.preempted)
        self._peak_blocks = max(self._peak_blocks, scheduler.blocks.num_blocks - scheduler.blocks.num_available)
        return True

    def wait_until(self, moment: float) -> None:
        self._now = max(self._now, moment)

    def use(self) -> MachineUse:
        num_blocks = self._scheduler.blocks.num_blocks
        sums = (self._busy, self._num_steps, self._num_outside, self._num_preemptions)
        return MachineUse(*sums, self._peak_blocks, num_blocks)

    def check(self) -> None:
        """Raise AssertionError unless requests, queues and blocks agree."""
        self._scheduler.check()


class EngineMachine:
    """The engine, in real time. Prompts are random ids of its vocabulary, answers have the asked length."""

    def __init__(self, engine: Engine, *, queue: Queue | None = None) -> None:
        """The engine is idle, and keeps the queue."""
        self._engine = engine
        engine.line_up(queue or FirstComeQueue())
        self._origin = time.perf_counter()
        self._busy, self._peak_blocks = 0.0, 0
        self._before = engine.stats()
        self._wanted: dict[int, int] = {}  # tokens to come

    @property
    def now(self) -> float:
        return time.perf_counter() - self._origin

    @property
    def has_work(self) -> bool:
        return self._engine.has_work

    def ask(self, prompt_len: int, num_outputs: int, account: str | None = None) -> int:
        first = 1 + 7919 * len(self._wanted)
        prompt = [(first + 104729 * i) % self._engine.spec.vocab for i in range(prompt_len)]
        rule = GenerationConfig(max_new_tokens=num_outputs, ignore_eos=True)
        request_id = self._engine.add(prompt, rule, account=account)
        self._wanted[request_id] = num_outputs
        return request_id

    def advance(self) -> list[News]:
        started = time.perf_counter()
        outputs = self._engine.step()
        self._busy += time.perf_counter() - started
        stats = self._engine.stats()
        self._peak_blocks = max(self._peak_blocks, stats.num_blocks - stats.num_free_blocks - stats.num_cached_blocks)
        news = []
        for output in outputs:
            self._wanted[output.request_id] -= len(output.token_ids)
            if output.token_ids:
                news.append(News(output.request_id, self._wanted[output.request_id] == 0))
        return news

    def wait_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - self.now))

    def use(self) -> MachineUse:
        stats = self._engine.stats()
        num_steps = stats.num_steps - self._before.num_steps
        preemptions = stats.num_preemptions - self._before.num_preemptions
        return MachineUse(self._busy, num_steps, 0, preemptions, self._peak_blocks, stats.num_blocks)
