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
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lmcourse.serve.errors import refusal_of

__all__ = ["EventStream", "json_answer", "while_connected"]

T = TypeVar("T")
_LOG = logging.getLogger("lmcourse.serve")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies hold events back otherwise


def _dump(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


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
            await _first_done(self._send(send), _until_disconnect(receive))
        finally:
            self._on_end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await send(_body(b"data: " + _dump(event) + b"\n\n", more=True))
        except OSError:  # the connection broke while we wrote
            return
        except Exception as error:
            _LOG.exception("a stream failed")
            await send(_body(b"data: " + bytes(refusal_of(error).body) + b"\n\n", more=True))
        await send(_body(b"data: [DONE]\n\n", more=False))


def _body(data: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, and the work cancelled, if whoever asked leaves first."""
    return await _first_done(work, _until_disconnect(request.receive))


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_done(work: Coroutine[Any, Any, T], until: Coroutine[Any, Any, None]) -> T | None:
    """The work's result or error, unless `until` is over first; both tasks have ended when this returns."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(until)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
