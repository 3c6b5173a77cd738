"""FrontEngine: an AsyncEngine without an engine: what it is asked, replicas answer.

    start(order) ─→ TokenStream ←─ pump ←─ replica A ✝    nothing handed out, or the same comes again: go on with B
                                    └───── ←─ replica B    otherwise: ReplicaLostError

A replica that the board calls silent is as good as dead: it hangs, and its connections stay open and say nothing.
The way to a replica is one queue for all: few of each student's requests stand in it, so that nobody fills it.
The server in front (routes, keys, queue, metrics) is the one of lmcourse.serve: it cannot tell the difference.

Lesson: 5 (serving a class; what is lost when a replica dies)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Protocol

from lmcourse.engine import AccountLoad, AsyncEngine, EngineStats, Order, TokenStream
from lmcourse.errors import EngineClosedError, LmcourseError, ReplicaLostError
from lmcourse.pipeline import Pipeline
from lmcourse.replicas.board import View, add_up, add_up_loads
from lmcourse.replicas.carried import CarriedOrder, carry
from lmcourse.replicas.messages import Broken, GoneError, Message, Piece, Refused, Taken
from lmcourse.replicas.replay import Replay, seeded
from lmcourse.replicas.routing import prefix_key
from lmcourse.replicas.settings import ReplicaSettings

__all__ = ["FrontEngine", "Losses", "Replicas"]

_LOG = logging.getLogger("lmcourse.replicas")
_MOST_LOST = 4  # an order that kills whoever takes it must not kill them all
_AT_THE_DOOR = 2  # of one account's requests are on their way to a replica that takes them
_PAUSE_SECONDS = 0.05  # before another replica is asked
_GLANCE_SECONDS = 0.25  # between two looks at who is silent


class Replicas(Protocol):
    """Whoever answers orders."""

    def answer(self, order: CarriedOrder, key: bytes | None, avoid: Collection[str]) -> AsyncGenerator[Message, None]:
        """Messages of one replica, not one of `avoid` if there is another; GoneError when it dies."""


@dataclass
class Losses:
    """What dying replicas cost, so far."""

    num_lost: int = 0  # answers whose replica died under them
    num_resumed: int = 0  # of these, answered to the end elsewhere


@dataclass(eq=False)
class _Ask:
    """One replica is being asked; which one is known when it has taken the order."""

    limit: asyncio.Timeout
    silent_before: frozenset[str]
    where: str | None = None

    def give_up_on(self, silent: frozenset[str]) -> None:
        """End it if its replica is among these; a replica not known yet might be one that has become silent since."""
        lost = bool(silent - self.silent_before) if self.where is None else self.where in silent
        if lost and not self.limit.expired():
            self.limit.reschedule(0.0)


@dataclass
class _Hunt:
    """The search for a replica that answers one order to the end."""

    deadline: float  # until which one has to take it
    avoid: set[str] = field(default_factory=set)  # those that died under it
    num_lost: int = 0
    replay: Replay = field(default_factory=Replay)
    door: asyncio.Semaphore | None = None  # that it stands in, until a replica has taken the order

    def leave_door(self) -> None:
        """Let the account's next one in."""
        if self.door is not None:
            self.door.release()
            self.door = None

    def lost(self, name: str, deadline: float) -> None:
        """One that had taken it is gone."""
        self.avoid.add(name)
        self.num_lost += 1
        self.deadline = deadline


class FrontEngine(AsyncEngine):
    """Orders in, streams out; `view` tells how the replicas are."""

    def __init__(
        self, pipe: Pipeline, replicas: Replicas, view: Callable[[], View], settings: ReplicaSettings, *, prefixes: bool
    ) -> None:
        """prefixes: prompts that begin alike go to the same replica."""
        super().__init__(pipe)
        self.losses = Losses()
        self._replicas, self._view, self._settings, self._prefixes = replicas, view, settings, prefixes
        self._tasks: dict[TokenStream, asyncio.Task[None]] = {}
        self._untaken: Counter[str | None] = Counter()  # asks that no replica has taken yet, by account
        self._doors: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_THE_DOOR))
        self._asks: set[_Ask] = set()
        self._glances = False

    def start(self, order: Order) -> TokenStream:
        """As the parent's; the answer comes from a replica."""
        if self._closing:
            raise EngineClosedError("the server is shutting down", next_step="try again later")
        stream = TokenStream(order, self._leave)
        self._open.add(stream)
        self._tasks[stream] = asyncio.create_task(self._pump(stream))
        return stream

    def stats(self) -> EngineStats:
        """All replicas together; what none has taken yet waits."""
        stats = add_up(self._view().notes.values())
        return changed(stats, num_waiting=stats.num_waiting + self._untaken.total())

    def share_fairly(self) -> None:
        """Each replica does so by itself, when the first student's order comes."""

    def loads(self) -> dict[str | None, AccountLoad]:
        """Answers by account, counted here; which of them wait, and their blocks, is what the replicas said last."""
        told, nothing, loads = add_up_loads(self._view().notes.values()), AccountLoad(), {}
        for account, count in Counter(stream.order.account for stream in self._open).items():
            load = told.get(account, nothing)
            waiting = min(count, self._untaken[account] + load.num_waiting)
            loads[account] = changed(load, num_running=count - waiting, num_waiting=waiting)
        return loads

    def _leave(self, stream: TokenStream) -> None:
        """Nobody reads the stream any more."""
        self._open.discard(stream)
        task = self._tasks.pop(stream, None)
        if task is not None:
            task.cancel()

    async def _pump(self, stream: TokenStream) -> None:
        """Whatever happens, the reader hears of it."""
        try:
            await self._answer(stream)
        except LmcourseError as error:
            stream.receive([], error)
        except Exception as error:
            _LOG.exception("an answer failed in front of the replicas")
            stream.receive([], error)

    async def _answer(self, stream: TokenStream) -> None:
        """Ask replicas until one answers to the end, or patience ends."""
        order = carry(stream.order, seeded(stream.order.gen))
        door = await self._come_to_the_door(order.account)
        hunt = _Hunt(time.monotonic() + self._settings.patience_seconds, door=door)
        try:
            while True:
                try:
                    await self._ask(stream, order, hunt)
                except GoneError as gone:
                    self._judge(hunt, gone)
                else:
                    self.losses.num_resumed += hunt.num_lost > 0
                    return
                hunt.replay.restart()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            hunt.leave_door()

    async def _come_to_the_door(self, account: str | None) -> asyncio.Semaphore | None:
        """Wait for one's turn among those of the account; who is nobody's in particular does not."""
        if account is None:
            return None
        door = self._doors[account]
        self._untaken[account] += 1
        try:
            await door.acquire()
        finally:
            self._untaken[account] -= 1
        return door

    def _judge(self, hunt: _Hunt, gone: GoneError) -> None:
        """Return if another replica may be asked."""
        if hunt.replay.begun and not self._settings.resumes:
            raise ReplicaLostError(
                "the replica that was answering died", got="an answer that ends here", next_step="ask again"
            ) from gone
        if hunt.num_lost >= _MOST_LOST:
            raise ReplicaLostError("every replica that took this request died", got=str(gone)) from gone
        if time.monotonic() >= hunt.deadline:
            raise ReplicaLostError("no replica answers", got=str(gone), next_step="ask again later") from gone

    async def _ask(self, stream: TokenStream, order: CarriedOrder, hunt: _Hunt) -> None:
        """One replica's answer, handed on; GoneError if it breaks off."""
        silent = self._view().silent
        ask = _Ask(asyncio.timeout(max(0.0, hunt.deadline - time.monotonic())), silent)
        self._untaken[stream.order.account] += 1
        try:
            async with (
                ask.limit,
                aclosing(self._replicas.answer(order, self._key(order), hunt.avoid | silent)) as messages,
            ):
                self._watch(ask)
                async for message in messages:
                    if isinstance(message, Taken):
                        ask.where = message.replica
                        self._untaken[stream.order.account] -= 1
                        ask.limit.reschedule(None)
                        hunt.leave_door()
                    if _hand_on(message, stream, hunt.replay):
                        return
                raise GoneError("the answer broke off")
        except (TimeoutError, GoneError) as error:
            if ask.where is None:
                raise GoneError(
                    "none took the request in time" if isinstance(error, TimeoutError) else str(error)
                ) from error
            self.losses.num_lost += 1
            hunt.lost(ask.where, time.monotonic() + self._settings.patience_seconds)
            raise GoneError("it hangs" if isinstance(error, TimeoutError) else str(error)) from error
        finally:
            self._asks.discard(ask)
            self._untaken[stream.order.account] -= ask.where is None

    def _watch(self, ask: _Ask) -> None:
        """Until it ends, look whether its replica is silent."""
        self._asks.add(ask)
        if not self._glances:
            self._glances = True
            asyncio.get_running_loop().call_later(_GLANCE_SECONDS, self._glance)

    def _glance(self) -> None:
        self._glances = False
        silent = self._view().silent
        for ask in list(self._asks):
            ask.give_up_on(silent)
        if self._asks:
            self._glances = True
            asyncio.get_running_loop().call_later(_GLANCE_SECONDS, self._glance)

    def _key(self, order: CarriedOrder) -> bytes | None:
        if not self._prefixes:
            return None
        return prefix_key(order.prompt_ids, max(1, add_up(self._view().notes.values()).tokens_per_block))


def _hand_on(message: Message, stream: TokenStream, replay: Replay) -> bool:
    """Give the reader what is new to it; whether that was the end."""
    match message:
        case Taken():
            stream.receive([])
        case Piece():
            piece = replay.push(message)
            if piece is not None:
                stream.receive([piece.output()])
            return message.finish_reason is not None
        case Refused():
            raise message.error()
        case Broken():
            raise GoneError(message.message)
    return False
