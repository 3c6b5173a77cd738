"""AsyncEngine: the engine for asyncio, which is what a server stands on.

    tasks of an event loop              the stepping thread
    generate() ──── inbox ───────────→  add
    async for  ←─── TokenStream ──────  one step (Dispatcher.turn), whose outputs a courier brings into the loop
    cancelled  ──── abandon ─────────→  abort

One thread runs the steps; no task ever waits for one, and no step waits for a reader. Ending an iteration early ends
the request: its blocks are free before the next step. Others may use the same pipeline meanwhile; they share batches.

Lesson: 5 (the server's engine)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lmcourse.config import GenerationConfig
from lmcourse.engine.answer import StepOutput
from lmcourse.engine.courier import Courier
from lmcourse.engine.dispatcher import Dispatcher
from lmcourse.engine.fair_queue import EASY_PLACES, FairQueue
from lmcourse.engine.queues import Queue
from lmcourse.engine.stats import AccountLoad
from lmcourse.engine.token_stream import Order, TokenStream
from lmcourse.errors import EngineClosedError

if TYPE_CHECKING:
    from lmcourse.engine.engine import Engine
    from lmcourse.engine.sampling import TokenMask
    from lmcourse.engine.stats import EngineStats

__all__ = ["AsyncEngine"]

_PAUSE_SECONDS = 0.01  # between two looks at whether everything has ended
_QUIET_SECONDS, _BURST_SECONDS = 0.002, 0.05  # a burst is over when nobody came for so long; at most so long
_PASSES = 3  # of a loop, in which who stands right behind the first has asked, too


@runtime_checkable
class _Shared(Protocol):
    """A pipeline: others use its engine, too, and take turns through its dispatcher."""

    engine: Engine
    dispatcher: Dispatcher


class AsyncEngine:
    """Runs the requests of asyncio tasks, of one loop or several. Whoever made the engine closes it."""

    def __init__(self, source: _Shared | Engine) -> None:
        """A pipeline (which goes on working beside this), or an engine that nobody else steps."""
        self.source = source
        self.engine: Engine = source.engine if isinstance(source, _Shared) else source
        self._dispatcher = source.dispatcher if isinstance(source, _Shared) else Dispatcher(source)
        self._box: deque[StepOutput] = deque()  # where the dispatcher puts the outputs of all streams
        self._streams: dict[int, TokenStream] = {}  # by request id; touched by the stepping thread alone
        self._couriers: dict[asyncio.AbstractEventLoop, Courier] = {}  # likewise
        self._inbox: deque[TokenStream] = deque()
        self._open: set[TokenStream] = set()  # from the asking to the end of the answer
        self._awake = self._closing = False
        self._wake = threading.Condition()  # guards the three above and _thread
        self._thread: threading.Thread | None = None

    async def generate(
        self,
        prompt_ids: Sequence[int],
        gen: GenerationConfig | None = None,
        *,
        stop_ids: frozenset[int] = frozenset(),
        mask: TokenMask | None = None,
        account: str | None = None,
    ) -> AsyncIterator[StepOutput]:
        """The answer as it comes. What is wrong with the prompt is raised by the first step of the iteration."""
        with self.start(Order(prompt_ids, gen or GenerationConfig(), stop_ids, mask, account)) as stream:
            async for output in stream:
                yield output

    def start(self, order: Order) -> TokenStream:
        """The same as an object, which must be read to its end or closed. `gen.n` is the caller's business."""
        stream = TokenStream(order, self._forget)
        with self._wake:
            if self._closing:
                raise EngineClosedError("the server is shutting down", next_step="try again later")
            self._open.add(stream)
            self._inbox.append(stream)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lmcourse-steps", daemon=True)
                self._thread.start()
            self._rouse()
        return stream

    @property
    def num_open(self) -> int:
        """Answers asked for that have not ended."""
        return len(self._open)

    def stats(self) -> EngineStats:
        """The engine's present load and sums; what is still in the inbox counts as waiting."""
        stats = self.engine.stats()
        return dataclasses.replace(stats, num_waiting=stats.num_waiting + len(self._inbox))

    def line_up(self, queue: Queue) -> None:
        """Have requests wait in this queue from now on."""
        self._dispatcher.line_up(queue)

    def share_fairly(self) -> None:
        """Have accounts take turns from now on; how many run at once for nothing depends on the device."""
        self.line_up(FairQueue(num_easy=EASY_PLACES[self.engine.embeddings.device.type]))

    def loads(self) -> dict[str | None, AccountLoad]:
        """What each account has in the engine; what is still in the inbox waits."""
        loads = self.engine.loads()
        for account, count in Counter(stream.order.account for stream in tuple(self._inbox)).items():
            load = loads.get(account, AccountLoad())
            loads[account] = dataclasses.replace(load, num_waiting=load.num_waiting + count)
        return loads

    async def aclose(self, grace_seconds: float = 0.0) -> None:
        """Take no new requests, finish what ends within the grace, hand out the rest as it is (reason 'abort').

        Closing twice is fine. The engine itself stays open.
        """
        with self._wake:
            self._closing = True
        await self._wait_for_end(grace_seconds)
        for stream in list(self._open):
            _post(stream.loop, stream.cut)
        await self._wait_for_end(1.0)  # for the readers to fetch it
        for stream in list(self._open):
            stream.close()
        with self._wake:
            self._rouse()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def _wait_for_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            await asyncio.sleep(_PAUSE_SECONDS)

    def _forget(self, stream: TokenStream) -> None:
        """Nobody reads the stream any more."""
        with self._wake:
            self._open.discard(stream)
            if stream.request_id is not None:
                self._dispatcher.abandon([stream.request_id])  # one that is finished is left alone
            self._rouse()

    def _rouse(self) -> None:
        self._awake = True
        self._wake.notify()

    def _run(self) -> None:
        """The stepping thread: lives until closing, and until every stream has ended."""
        while self._wait():
            if not self._streams:
                self._gather()
            self._add_new()
            try:
                outputs = self._dispatcher.turn(self._box)
            except Exception as error:
                self._fail_all(error)
            else:
                self._hand_over(outputs)

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; False when it is time to end."""
        with self._wake:
            while not (self._awake or self._streams):
                if self._closing and not self._open:
                    return False
                self._wake.wait()
            self._awake = False
            return True

    def _gather(self) -> None:
        """Before an idle engine begins: who asks in the same burst comes along, since prompts together cost less.

        Whoever asks alone waits for some passes of the loop and no longer.
        """
        num_seen, until = 0, time.monotonic() + _BURST_SECONDS
        while num_seen < len(self._inbox) and time.monotonic() < until:
            num_seen = len(self._inbox)
            if num_seen == 1:
                _await_passes(self._inbox[0].loop)
            else:
                time.sleep(_QUIET_SECONDS)

    def _add_new(self) -> None:
        while self._inbox:
            stream = self._inbox.popleft()
            order = stream.order
            if stream.ended:
                continue
            try:
                request_id = self._dispatcher.add(
                    order.prompt_ids, order.gen, order.stop_ids, self._box, order.mask, order.account
                )
            except Exception as error:
                _post(stream.loop, partial(stream.receive, [], error))
                continue
            stream.request_id = request_id
            if stream.ended:  # meanwhile, by the loop, which did not know the id yet
                self._dispatcher.abandon([request_id])
            self._streams[request_id] = stream
            _post(stream.loop, partial(stream.receive, []))

    def _hand_over(self, outputs: Sequence[StepOutput]) -> None:
        """By one courier for each loop, who takes the outputs of several steps when the loop is busy."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[TokenStream, StepOutput]]] = {}
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                by_loop.setdefault(stream.loop, []).append((stream, output))
        over = [output.request_id for output in outputs if output.finish_reason is not None]
        over += [key for key, stream in self._streams.items() if stream.ended or stream.loop.is_closed()]
        self._dispatcher.abandon(over)
        for request_id in over:
            self._streams.pop(request_id, None)
        for loop, letters in by_loop.items():
            self._couriers.setdefault(loop, Courier(loop)).bring(letters)
        if not self._streams:
            self._couriers.clear()  # they finish their rounds without us, and loops come and go

    def _fail_all(self, error: Exception) -> None:
        """An error that no single request can be blamed for, such as an engine that was closed."""
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            _post(stream.loop, partial(stream.receive, [], error))
        self._dispatcher.abandon([stream.request_id for stream in streams if stream.request_id is not None])


def _await_passes(loop: asyncio.AbstractEventLoop) -> None:
    """Until the loop has gone round a few times; one that stands still is not waited for longer than a burst."""
    passed = threading.Event()

    def go_round(left: int) -> None:
        if left:
            loop.call_soon(go_round, left - 1)
        else:
            passed.set()

    _post(loop, partial(go_round, _PASSES))
    passed.wait(_BURST_SECONDS)


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Have the loop make a call; a loop that was closed has nobody to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
