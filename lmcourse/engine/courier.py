"""Courier: news for the readers of one event loop, which carries them out in rounds. No torch.

The idea: the steps of a batch make tokens faster than an event loop can send events, and while it sends, it keeps the
interpreter from planning the next step. So a round takes everything that has come since the last, and the loop gets as
long a rest after a round as the round took: half of the interpreter's time is the steps', however many read. A round
that was long because the machine stood still is not followed by such a rest.

    steps    │s│s│s│s│s│s│s│s│          one reader: a round is shorter than a step, and every token leaves at once
    rounds   ██  ···  ██  ···           64 readers: a round takes two steps, and events carry three or four tokens

Contract: `bring` is called by one thread, the rest happens in the loop. What was brought is delivered in order, once.

Lesson: 5 (streaming from the server)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence

from lmcourse.engine.answer import StepOutput
from lmcourse.engine.token_stream import TokenStream

__all__ = ["Courier"]

Letter = tuple[TokenStream, StepOutput]
_LONGEST_REST_SECONDS = 0.1


class Courier:
    """Between the stepping thread and one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._guard = threading.Lock()  # of the two below
        self._letters: list[Letter] = []
        self._is_out = False  # a round was asked for and has not ended
        self._rested_at = 0.0  # when the next round may begin; loops' own clocks may count milliseconds

    def bring(self, letters: Sequence[Letter]) -> None:
        """Have these delivered with the next round."""
        with self._guard:
            self._letters += letters
            if self._is_out or not self._letters:
                return
            self._is_out = True
        with contextlib.suppress(RuntimeError):  # a loop that was closed has nobody to tell
            self._loop.call_soon_threadsafe(self._set_out)

    def _set_out(self) -> None:
        pause = self._rested_at - time.perf_counter()
        if pause > 0:
            self._loop.call_later(pause, self._go)
        else:
            self._go()

    def _go(self) -> None:
        """A round, which ends when the readers that it woke have read."""
        started = time.perf_counter()
        with self._guard:
            letters, self._letters = self._letters, []
        for stream, output in letters:
            stream.receive([output])
        self._loop.call_soon(self._come_back, started)

    def _come_back(self, started: float) -> None:
        now = time.perf_counter()
        rest = min(now - started, _LONGEST_REST_SECONDS)
        self._rested_at = now + rest
        with self._guard:
            self._is_out = bool(self._letters)
        if self._is_out:
            self._loop.call_later(rest, self._go)
