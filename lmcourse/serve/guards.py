"""Guard: what is checked before a request's body is read: key, whom the path is for, content type, size.

Lesson: 5 (what a key and an open port mean)
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmcourse.serve.class_quotas import ACCOUNT, Account, NoAccount
from lmcourse.serve.class_register import Register
from lmcourse.serve.errors import refusal
from lmcourse.serve.settings import ServerSettings

__all__ = ["Guard"]

_OPEN_PATHS = ("/", "/health", "/openapi.json", "/class/view")  # these tell nothing that the package does not


class Guard:
    """ASGI middleware. Keys are compared in constant time; a body that grows past the limit is not read on."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, register: Register) -> None:
        self._app, self._settings, self._register = app, settings, register

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if answer := self._check_key(headers, scope["path"]):
            await answer(scope, receive, send)
        elif scope["method"] == "POST" and not _is_json(headers):
            answer = refusal(415, "send JSON with Content-Type: application/json", code="unsupported_media_type")
            await answer(scope, receive, send)
        elif (coding := headers.get("content-encoding", "identity").lower()) != "identity":
            answer = refusal(415, f"send the body as it is: {coding} is not unpacked", code="unsupported_media_type")
            await answer(scope, receive, send)
        elif _declared_length(headers) > self._settings.max_body_bytes:
            await self._refuse_size(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    def _check_key(self, headers: Headers, path: str) -> Response | None:
        """A refusal, or None; if the key is a student's, what follows goes on the student's account."""
        if not self._register.wants_key or path in _OPEN_PATHS:
            return None
        visitor = self._find_visitor(headers)
        if visitor is None:
            return refusal(
                401, "this server wants a key: Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if not self._register.may_open(visitor, path):
            return refusal(403, f"{path} is the instructor's: a student's key does not open it", code="forbidden")
        ACCOUNT.set(visitor)
        return None

    def _find_visitor(self, headers: Headers) -> Account | NoAccount | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1", "replace")
        return self._register.find(given) if scheme.lower() == "bearer" else None

    async def _refuse_size(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._settings.max_body_bytes
        answer = refusal(
            413, f"the body has more than {limit} bytes", code="body_too_large", headers={"Connection": "close"}
        )
        await answer(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body as it comes; a chunked one declares no length."""
        num_bytes, refused = 0, False

        async def counted() -> Message:
            nonlocal num_bytes, refused
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._settings.max_body_bytes and not refused:
                refused = True
                await self._refuse_size(scope, receive, send)
            return {"type": "http.disconnect"} if refused else message

        async def only_once(message: Message) -> None:
            if not refused:
                await send(message)

        await self._app(scope, counted, only_once)


def _is_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _declared_length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0
