"""Server-sent events, and noticing at once that whoever asked has left.

    data: {"id": ..., "choices": [...]}      one event a piece
    data: {"error": {...}}                   if it fails on the way: the status was sent long ago
    data: [DONE]                             always last

A request is computed for somebody. When the connection ends, the work on it ends, waiting or running.

Lesson: 5 (streaming from the server)
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lmcourse.serve.errors import refusal_of

__all__ = ["EventStream", "json_answer", "while_connected"]

T = TypeVar("T")
_LOG = logging.getLogger("lmcourse.serve")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies hold events back otherwise


_DONE = b"data: [DONE]\n\n"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _dump(content: Any) -> bytes:
    return _ENCODER.encode(content).encode("utf-8", "replace")


def json_answer(content: Any) -> Response:
    """A whole answer."""
    return Response(_dump(content), media_type="application/json")


class EventStream(Response):
    """Sends objects as events until they end, fail, or nobody listens any more; `on_end` is called in any case.

    Whoever asked may leave before the first event: then the events are never even begun, and cannot clean up.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Any, None], on_end: Callable[[], None]) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events, self._on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _unless_left(self._send(send), receive)
        finally:
            self._on_end()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._lines()) as lines:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for line in lines:
                    await send({"type": "http.response.body", "body": line, "more_body": line is not _DONE})
            except OSError:  # of sending, since lines raise none: the connection broke while we wrote
                return

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        """What is sent: the events, perhaps what went wrong, the end."""
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    yield _line(_dump(event))
        except Exception as error:
            _LOG.exception("a stream failed")
            yield _line(bytes(refusal_of(error).body))
        yield _DONE


def _line(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, and the work cancelled, if whoever asked leaves first."""
    return await _unless_left(work, request.receive)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_left(work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
    """The work's result or error; None, and the work cancelled, when `receive` tells of a disconnect first."""
    watcher = asyncio.create_task(_until_disconnect(receive))
    try:
        async with asyncio.timeout(None) as patience:  # it ends when the watcher says so
            watcher.add_done_callback(lambda _: _end(patience))
            return await work
    except TimeoutError:
        if not patience.expired():
            raise
        return None
    finally:
        watcher.cancel()


def _end(patience: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # the work was done in the same moment
        patience.reschedule(0)
