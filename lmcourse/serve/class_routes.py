"""/class and /class/view: the class at this moment, as JSON and as a page. The page is open, what it shows is not.

A snapshot is made at most four times a second, however many look on.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from lmcourse.serve.class_page import HEADERS, make_class_page
from lmcourse.serve.class_quotas import Account
from lmcourse.serve.class_view import Moment, snapshot_in_portions
from lmcourse.serve.errors import FORBIDDEN, REFUSALS, refusal
from lmcourse.serve.schema import ClassAnswer
from lmcourse.serve.service import Service
from lmcourse.serve.streaming import json_answer

__all__ = ["class_routes"]

_FRESH_SECONDS = 0.25
_NO_CLASS = {**REFUSALS[404], "description": "this server has no class: it was started without --class-roster"}


def class_routes(service: Service, accounts: Sequence[Account]) -> APIRouter:
    """The routes on a service and the accounts of its class; without any they say what is missing."""
    router = APIRouter(tags=["Watching"])
    view = _View(service, accounts)
    answers: dict[int | str, dict[str, Any]] = {401: REFUSALS[401], **FORBIDDEN, 404: _NO_CLASS}

    @router.get("/class", response_model=ClassAnswer, responses=answers)
    async def read_class() -> Response:
        """Who of the class runs what: answers, KV blocks, tokens, quotas by student; no prompts, no answers.

        For the instructor's key, and for students if the roster says `"students_see": "class"`. As a page: `class/view`
        """
        return await view.answer() if accounts else _refuse()

    @router.get("/class/view", include_in_schema=False)
    async def show_class() -> Response:
        return HTMLResponse(make_class_page(service.model_names[0]), headers=HEADERS) if accounts else _refuse()

    return router


def _refuse() -> Response:
    return refusal(404, "this server has no class; start it with --class-roster FILE", code="no_class")


class _View:
    """The newest snapshot, as it is sent."""

    def __init__(self, service: Service, accounts: Sequence[Account]) -> None:
        self._service, self._accounts = service, accounts
        self._body, self._stale_at = b"", 0.0
        self._taking = asyncio.Lock()

    async def answer(self) -> Response:
        """The snapshot; an older one while it is fresh."""
        async with self._taking:
            if time.monotonic() >= self._stale_at:
                self._body = await self._take()
                self._stale_at = time.monotonic() + _FRESH_SECONDS
        return Response(self._body, media_type="application/json", headers={"Cache-Control": "no-store"})

    async def _take(self) -> bytes:
        """A new one; whoever is served comes first between its portions."""
        service = self._service
        moment = Moment(
            now=time.monotonic(),
            model=service.model_names[0],
            started_at=service.started_at,
            places=service.pipe.engine.config.max_batch_size,
            stats=service.engine.stats(),
            loads=service.engine.loads(),
            written=service.written,
        )
        portions = snapshot_in_portions(moment, self._accounts)
        while True:
            try:
                next(portions)
            except StopIteration as end:
                return bytes(json_answer(end.value).body)
            await asyncio.sleep(0)
