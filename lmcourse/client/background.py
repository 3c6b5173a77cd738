"""EventLoop: runs coroutines for callers that have no event loop, or have one that is busy with them (Jupyter's).

The idea: one thread owns a loop; callers hand it coroutines and wait, or take them back. Cancelling a coroutine closes
its connection at once, which is how a server learns that nobody is listening any more.

Lesson: 5 (the client)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["EventLoop"]

T = TypeVar("T")


class EventLoop:
    """A loop in a thread of its own; `close` ends what still runs in it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        self.closed = False

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin, and do not wait. Cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Begin, and wait for the result. Ctrl-C cancels the coroutine."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, None] | None = None, *, wait: bool = True) -> None:
        """Cancel what runs, do one last thing, and end the thread. wait=False is for the garbage collector."""
        self.closed = True
        self.start(self._finish(last))
        if wait:
            self._thread.join()

    async def _finish(self, last: Coroutine[Any, Any, None] | None) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        try:
            if last is not None:
                await last
        finally:
            self._loop.stop()
