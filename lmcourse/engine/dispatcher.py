"""Dispatcher: one engine, many callers.

    AnswerStream ── take(its box) ─┐
    AnswerStream ── take(its box) ─┼─ Dispatcher ── Engine.step, run by whoever waits; fills everybody's boxes
    Session ─────── take(its box) ─┘

The engine serves one thread at a time, for one step at most; threads take turns in the order of arrival. Everyone
who waits runs steps, and a step advances all requests, so waiting together costs no more than waiting alone. A request
that cannot be computed ends with an output that carries the error; the others never hear of it.

Lesson: 3 (continuous batching), 5 (one engine behind a server)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from lmcourse.config import GenerationConfig
from lmcourse.engine.answer import StepOutput
from lmcourse.engine.home import Home
from lmcourse.engine.quarantine import Quarantine
from lmcourse.engine.queues import Queue
from lmcourse.engine.sampling import TokenMask
from lmcourse.errors import EngineClosedError, RequestFailedError

if TYPE_CHECKING:
    from lmcourse.engine.engine import Engine

__all__ = ["Dispatcher", "TurnLock"]


class TurnLock:
    """A lock that is handed on in order of arrival.

    threading.Lock is not fair: a thread that releases it and asks again at once, as a loop of steps does, often gets it
    back before a waiting thread has woken up, and that one would see its whole answer at the end.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._gates: deque[threading.Lock] = deque()  # one per waiting thread; opened to hand the lock over

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C while waiting
            with self._guard:
                waiting = gate in self._gates
                if waiting:
                    self._gates.remove(gate)
            if not waiting:
                self._hand_on()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        with self._guard:
            if self._gates:
                self._gates.popleft().release()
            else:
                self._held = False


class Dispatcher:
    """Runs one engine for many callers; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._home = Home()
        self._engine = engine
        self._lock = TurnLock()
        self._boxes: dict[int, deque[StepOutput]] = {}  # by request id: where its outputs go
        self._abandoned: deque[int] = deque()
        self._quarantine = Quarantine()

    def add(
        self,
        prompt_ids: Sequence[int],
        gen: GenerationConfig,
        stop_ids: frozenset[int],
        box: deque[StepOutput],
        mask: TokenMask | None = None,
        account: str | None = None,
    ) -> int:
        """Queue a request and return its id; its outputs go into the box."""
        self._home.require()
        with self._lock:
            request_id = self._engine.add(prompt_ids, gen, stop_ids=stop_ids, mask=mask, account=account)
            self._boxes[request_id] = box
            return request_id

    def line_up(self, queue: Queue) -> None:
        """Have requests wait in this queue from now on."""
        with self._lock:
            self._engine.line_up(queue)

    def take(self, box: deque[StepOutput]) -> list[StepOutput]:
        """Empty a box that something is still to come into; runs steps until there is something."""
        self._home.require()
        while True:
            with self._lock:
                self._abort(self._drain_abandoned())
                if box:
                    return [box.popleft() for _ in range(len(box))]
                if not self._engine.has_work:
                    raise EngineClosedError("the answer was ended by others", next_step="ask again")
                self._step()

    def turn(self, box: deque[StepOutput]) -> list[StepOutput]:
        """Empty a box after one step, if there is anything to compute; for a caller with more to do than to wait."""
        with self._lock:
            self._abort(self._drain_abandoned())
            if not box and self._engine.has_work:
                self._step()
            return [box.popleft() for _ in range(len(box))]

    def _step(self) -> None:
        """One step of the engine; whatever comes of it lies in the boxes."""
        engine, quarantine = self._engine, self._quarantine
        try:
            outputs = engine.step()
            if quarantine.window is not None:
                quarantine.passed([output.request_id for output in outputs], engine.unfinished())
                engine.admit_only(quarantine.window)
        except EngineClosedError:
            raise
        except RequestFailedError as error:
            outputs = self._fail(error.request_ids, error)
        except Exception as error:
            culprit = quarantine.failed(engine.unfinished())
            engine.admit_only(quarantine.window)
            outputs = [] if culprit is None else self._fail([culprit], error)
        for output in outputs:
            if output.request_id in self._boxes:
                self._boxes[output.request_id].append(output)
                if output.finish_reason is not None:
                    del self._boxes[output.request_id]

    def abort(self, request_ids: Collection[int]) -> None:
        """End requests, finished ones included; on a closed engine, or in a forked process, there is nothing to do."""
        if self._home.is_here:
            with self._lock:
                self._abort(request_ids)

    def abandon(self, request_ids: Collection[int]) -> None:
        """Have the next caller end requests: for the garbage collector, which may run while its thread has the lock."""
        self._abandoned.extend(request_ids)

    def close(self) -> None:
        """Close the engine; whoever waits gets an EngineClosedError. A forked process leaves it to its owner."""
        if self._home.is_here:
            with self._lock:
                self._boxes.clear()
                self._engine.close()

    def _fail(self, request_ids: Collection[int], error: Exception) -> list[StepOutput]:
        for request_id in request_ids:
            self._engine.abort(request_id)
        return [StepOutput(request_id, [], "", "abort", error=error) for request_id in request_ids]

    def _abort(self, request_ids: Collection[int]) -> None:
        for request_id in request_ids:
            if self._boxes.pop(request_id, None) is not None:
                self._engine.abort(request_id)

    def _drain_abandoned(self) -> list[int]:
        return [self._abandoned.popleft() for _ in range(len(self._abandoned))]
