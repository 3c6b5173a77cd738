"""RayReplicas: Ray Serve's replicas as the front sees them: messages, or GoneError.

A replica catches everything that an answer can raise (engine_replica.py); so whatever else comes out of a call is Ray's
news that the process, its machine or the way to it is gone.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection
from typing import Any

from lmcourse.replicas.board import View
from lmcourse.replicas.carried import CarriedOrder
from lmcourse.replicas.messages import GoneError, Message

__all__ = ["BoardWatch", "RayReplicas"]

_LOOK_SECONDS = 0.5


class RayReplicas:
    """Implements Replicas over a handle of Ray Serve's."""

    def __init__(self, handle: Any) -> None:
        self._answer = handle.options(stream=True, method_name="answer")

    async def answer(
        self, order: CarriedOrder, key: bytes | None, avoid: Collection[str]
    ) -> AsyncGenerator[Message, None]:
        """One replica's messages; leaving the iteration early ends the answer there."""
        call = self._answer.remote(order, key=key, avoid=tuple(avoid))
        try:
            async for message in call:
                yield message
        except Exception as error:
            raise GoneError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
        finally:
            with contextlib.suppress(Exception):
                call.cancel()


class BoardWatch:
    """What the board said last."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self.view = View()

    async def look(self) -> View:
        """Read the board now."""
        self.view = await self._board.read.remote()
        return self.view

    async def keep_looking(self) -> None:
        """Twice a second, for ever."""
        while True:
            with contextlib.suppress(Exception):  # a board that is being restarted
                await asyncio.wait_for(self.look(), 5)
            await asyncio.sleep(_LOOK_SECONDS)
