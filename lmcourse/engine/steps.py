"""Steps: plans, launches and lands them, one at a time or with the next one on its way already.

The idea of overlap: a device needs nothing from the host but work. What a step samples feeds the next one on the
device itself, so the host can plan and launch step t + 1 without the tokens of step t, and read those while t + 1 runs:

    host     launch 1 │ launch 2 │ land 1 │ launch 3 │ land 2 │ …      launch: schedule, apply, send, start
    device            │ step 1 ········│ step 2 ········│ step 3 ·     land: tokens → answers → text

What this costs is knowing late. A request may end with the token that lands, by a stop token say, when its next step
runs already: that step's token is dropped. Its blocks may have new owners by then, which is safe, since the device runs
steps in the order of their launch. Only a request whose sampling needs its tokens on the host (`needs_host`) sits out
every other step.

Contract: `advance` lands one step at most, the oldest. After an error `drop` forgets all that is in flight.

Lesson: 3 (the host never stalls the device)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from lmcourse.engine.answer import Answer
from lmcourse.engine.events import Reporter
from lmcourse.engine.intake import Entry
from lmcourse.engine.launch import Launch
from lmcourse.engine.request import Request
from lmcourse.engine.runner import StepRunner
from lmcourse.engine.sampler import require_finite
from lmcourse.engine.scheduler import Plan, Scheduler

__all__ = ["InFlight", "Steps"]


@dataclass(frozen=True)
class InFlight:
    """A step between its launch and its landing."""

    number: int
    marks: tuple[float, ...]  # when its phases ended
    plan: Plan
    launch: Launch


class Steps:
    """The steps in flight, and sums over those that have landed."""

    def __init__(self, scheduler: Scheduler, reporter: Reporter, *, overlap: bool) -> None:
        self._scheduler, self._reporter = scheduler, reporter
        self._most_in_flight = 2 if overlap else 1
        self._in_flight: deque[InFlight] = deque()
        self.num_computed = self.num_sampled = self.num_preemptions = 0

    def advance(self, runner: StepRunner, entries: Mapping[int, Entry], unread: dict[int, Answer]) -> None:
        """Launch as far as the overlap allows, then land the oldest step; its answers go into `unread`."""
        while len(self._in_flight) < self._most_in_flight and self._launch(runner, entries):
            pass
        if self._in_flight:
            self._land(self._in_flight.popleft(), entries, unread)

    def _launch(self, runner: StepRunner, entries: Mapping[int, Entry]) -> bool:
        """Start one more step; False if nothing can be computed before something lands."""
        scheduler, reporter = self._scheduler, self._reporter
        plan = scheduler.schedule()
        if not plan.chunks:
            return False
        reporter.begin_step()
        reporter.planned(plan)
        allocated = scheduler.apply(plan)
        reporter.allocated(allocated)
        pending = self._in_flight[-1].launch.rows if self._in_flight else {}
        launch = runner.launch(plan, entries, pending, mark=reporter.mark)
        scheduler.record_launched(plan)
        self._in_flight.append(InFlight(reporter.num_steps, reporter.end_launch(), plan, launch))
        return True

    def _land(self, flight: InFlight, entries: Mapping[int, Entry], unread: dict[int, Answer]) -> None:
        """What was sampled becomes part of the requests; whoever is done leaves."""
        results = flight.launch.wait()
        self._reporter.begin_landing(flight.number, flight.marks)
        live = [
            (entry, token)
            for request, token in zip(flight.launch.sampling, results, strict=True)
            if (entry := entries.get(request.request_id)) and entry.answer.finish_reason is None
        ]
        if None in results:
            require_finite([token for _, token in live], [entry.request for entry, _ in live])
        for entry, token in live:
            assert token is not None
            request, answer, (token_id, logprobs) = entry.request, entry.answer, token
            unread[request.request_id] = answer
            answer.push(token_id, logprobs)
            if answer.finish_reason is None:
                request.append(token_id)
            else:
                self._reporter.finished(answer)
                self.remove(request)
        self.num_computed += flight.plan.num_tokens
        self.num_sampled += len(live)
        self.num_preemptions += len(flight.plan.preempted)
        self._reporter.end_step(flight.plan, self._scheduler)

    def remove(self, request: Request) -> None:
        """The request has ended; its blocks are free for the steps to come. After the last one nothing is in flight."""
        self._reporter.released(request)
        self._scheduler.remove(request)
        if not self._scheduler.has_work:
            self.drop()

    def drop(self) -> None:
        """Forget what is in flight; the requests are computed again."""
        self._in_flight.clear()
