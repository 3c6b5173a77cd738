"""Paths as clients write them: //v1/models, /v1/models/ and HEAD reach what GET /v1/models reaches.

    base_url="http://host:23333/"  + "/v1/models"  ─→ //v1/models
    base_url="http://host:23333"   + "/models"     ─→ /models, which is nothing here: the refusal names base_url

Lesson: 5 (the request)
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["PlainPath", "explain_missing"]

_SEVERAL_SLASHES = re.compile(r"/{2,}")
_OPENAI = ("/chat/completions", "/completions", "/models")


class PlainPath:
    """ASGI middleware: one slash between parts, none at the end; HEAD is GET, whose body the web server leaves out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = _SEVERAL_SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "path": path, "method": method}
        await self._app(scope, receive, send)


def explain_missing(path: str) -> str:
    """Why there is nothing at a path, and where what was meant is."""
    end = path.removeprefix("/v1").removeprefix("/v1")
    if end.startswith(_OPENAI) and not path.startswith(tuple(f"/v1{known}" for known in _OPENAI)):
        return (
            f"there is nothing at {path[:60]}; /v1{end[:60]} is here: base_url is this server's address and /v1, once"
        )
    return "there is nothing at this path; see the docs page at /"
