"""EngineReplica: one engine in a process of Ray Serve's: takes orders, sends pieces, says how it is.

    answer(order) ─→ Taken, Piece, Piece … | Refused | Broken          one call per answer, streamed
    check_health  ─→ an engine that broke is replaced by Ray Serve     a note on the board twice a second

Broken is also an engine that has work and has ended no step for long: nobody knows what it waits for.

Contract: whoever stops reading ends the request, and its blocks are free before the next step.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lmcourse.config import ChatTemplateConfig, GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import AsyncEngine, EngineStats, Order, TokenMask
from lmcourse.errors import EngineClosedError, LmcourseError, MachineError
from lmcourse.pipeline import load_pipeline
from lmcourse.replicas.board import Note
from lmcourse.replicas.carried import CarriedOrder
from lmcourse.replicas.messages import Broken, Message, Taken, piece_of, refused
from lmcourse.serve.grammar import Grammar, Grammars

__all__ = ["Duty", "EngineReplica"]

_LOG = logging.getLogger("lmcourse.replicas")
_POST_SECONDS = 0.5


@dataclass(frozen=True)
class Duty:
    """What all replicas of a deployment are told."""

    generation: int = 0
    stuck_seconds: float = 60.0  # a step that takes longer will not end


class EngineReplica:
    """What Ray Serve makes copies of; `place` says where this copy runs, `board` is the actor's handle."""

    def __init__(
        self,
        model: str | None,
        engine: TurbomindEngineConfig,
        template: ChatTemplateConfig,
        duty: Duty,
        board: Any,
        place: tuple[str, str],
    ) -> None:
        self.name, self._node = place
        self._duty = duty
        self._pipe = load_pipeline(model, backend_config=engine, chat_template_config=template)
        self._engine = AsyncEngine(self._pipe)
        self._board = board
        self._broken: str | None = None
        self._has_class = False
        self._leaving = threading.Event()
        threading.Thread(target=self._post, name="lmcourse-board", daemon=True).start()

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self._pipe.tokenizer, self._pipe.engine.spec.vocab, self._pipe.stop_ids)

    async def answer(
        self, order: CarriedOrder, *, key: bytes | None = None, avoid: Collection[str] = ()
    ) -> AsyncIterator[Message]:
        """The answer as it comes; the stream ends with a reason, or with what went wrong.

        key and avoid have brought it here (routing.py) and mean nothing any more.
        """
        try:
            mask = await self._mask(order.grammar)
            gen = GenerationConfig(**order.gen)
            self._seat(order.account)
            asked = Order(order.prompt_ids, gen, frozenset(order.stop_ids), mask, order.account)
            with self._engine.start(asked) as stream:
                await stream.accepted()
                yield Taken(self.name)
                async for output in stream:
                    yield piece_of(output)
        except (MachineError, EngineClosedError) as error:
            self._broken = str(error)
            yield Broken(str(error))
        except LmcourseError as error:
            yield refused(error)
        except Exception as error:
            _LOG.exception("an answer failed")
            yield refused(LmcourseError("a replica failed; its log says more", got=type(error).__name__))

    def _seat(self, account: str | None) -> None:
        """From the first student on, this engine is a class's, and shared fairly by those who are sent here."""
        if account is not None and not self._has_class:
            self._has_class = True
            self._engine.share_fairly()

    async def _mask(self, grammar: Grammar | None) -> TokenMask | None:
        if grammar is None:
            return None
        return (await self._grammars.compile(grammar, where="grammar"))()

    async def check_health(self) -> None:
        """Raises if the engine will not answer again."""
        if self._broken is not None:
            raise MachineError("the engine of this replica broke", got=self._broken)

    def _post(self) -> None:
        stood, stuck_seconds = -1, 0.0
        while not self._leaving.is_set():
            looked, stats = time.monotonic(), self._engine.stats()
            if not stats.num_running + stats.num_waiting or stats.num_steps != stood:
                stood, stuck_seconds = stats.num_steps, 0.0
            elif stuck_seconds > self._duty.stuck_seconds and self._broken is None:
                self._broken = f"no step ended within {self._duty.stuck_seconds:g} s, and answers wait"
            with contextlib.suppress(Exception):  # a board that is being restarted: the next note will do
                self._board.post.remote(self._describe(stats))
            self._leaving.wait(_POST_SECONDS)
            # of this thread's own time: while the machine stood still, so did the engine
            stuck_seconds += min(time.monotonic() - looked, 2 * _POST_SECONDS)

    def _describe(self, stats: EngineStats) -> Note:
        size = self._pipe.engine.config.max_batch_size
        loads = {account: asdict(load) for account, load in self._engine.loads().items()}
        where = (self.name, os.getpid(), self._node, self._duty.generation)
        return Note(*where, size, asdict(stats), loads, self._broken is not None)

    def leave(self) -> None:
        """Take the note down; the memory goes with the process."""
        self._leaving.set()
        with contextlib.suppress(Exception):
            self._board.take_down.remote(self.name)
