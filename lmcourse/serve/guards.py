"""Guard: what is checked before a request's body is read: key, content type, size.

Lesson: 5 (what a key and an open port mean)
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmcourse.serve.class_quotas import ACCOUNT, Account, NoAccount
from lmcourse.serve.errors import refusal
from lmcourse.serve.settings import ServerSettings

__all__ = ["Guard"]

_OPEN_PATHS = ("/", "/health", "/openapi.json")  # these tell nothing that the package does not


class Guard:
    """ASGI middleware. Keys are compared in constant time; a body that grows past the limit is not read on."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings
        self._accounts: list[tuple[bytes, Account | NoAccount]] = [
            (key.encode(), NoAccount()) for key in settings.api_keys
        ]
        self._accounts += [(student.key.encode(), Account(student)) for student in settings.students]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._accounts and scope["path"] not in _OPEN_PATHS and not self._knows(headers):
            answer = refusal(
                401, "this server wants a key: Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
            await answer(scope, receive, send)
        elif scope["method"] == "POST" and not _is_json(headers):
            answer = refusal(415, "send JSON with Content-Type: application/json", code="unsupported_media_type")
            await answer(scope, receive, send)
        elif _declared_length(headers) > self._settings.max_body_bytes:
            await self._refuse_size(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        """Whether a key is among ours; if it is a student's, what follows goes on the student's account."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1", "replace")
        return scheme.lower() == "bearer" and self._open_account(given)

    def _open_account(self, given: bytes) -> bool:
        matches = [account for key, account in self._accounts if hmac.compare_digest(given, key)]
        if matches:
            ACCOUNT.set(matches[0])
        return bool(matches)

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
