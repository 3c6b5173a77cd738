"""Connection: HTTP to one server, with its refusals as errors that say what to do.

The address may be that of a proxy that adds a path (http://host/user/ann/proxy/23333), with or without /v1 at its end.
A stream asks for text/event-stream, without which jupyter-server-proxy would hold it back until its end. Addresses of
this machine are never asked through the proxy that the environment names.

Contract: ServerError and its kinds, PromptError or ConfigError for what the server found wrong with a request.

Lesson: 5 (the client)
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lmcourse.client.refusals import error_of
from lmcourse.client.server_sent_events import read_events
from lmcourse.errors import ConfigError, MachineError, ServerError

if TYPE_CHECKING:
    import httpx

__all__ = ["Connection", "clean_url"]

_CONNECT_SECONDS = 10.0


class Connection:
    """Requests to one server. Belongs to the event loop that first uses it."""

    def __init__(
        self, url: str, api_key: str | None = None, *, timeout_seconds: float = 600.0, max_connections: int = 64
    ) -> None:
        """timeout_seconds bounds the silence of a server that was reached; an answer may take longer than that."""
        http = _import_httpx()
        self.url = clean_url(url)
        self._http = http.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {_clean_key(api_key)}"} if api_key is not None else {},
            timeout=http.Timeout(timeout_seconds, connect=_CONNECT_SECONDS, pool=None),
            limits=http.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            trust_env=not _is_this_machine(self.url),
            follow_redirects=False,
        )

    async def get(self, path: str) -> Any:
        """The JSON at a path."""
        async with self._sent("GET", path, None) as response:
            return _read_json(await response.aread(), self.url)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a request."""
        async with self._sent("POST", path, body) as response:
            return _read_json(await response.aread(), self.url)

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a streamed answer; ServerError if it breaks off before [DONE]."""
        done = False
        async with self._sent("POST", path, body) as response:
            async for data in read_events(response.aiter_bytes()):
                if data == "[DONE]":
                    done = True  # and read on to the end of the body, so that the connection can be used again
                    continue
                chunk = _read_json(data, self.url)
                if isinstance(chunk, dict) and chunk.get("error"):
                    raise error_of(500, chunk, {}, self.url)
                yield chunk
        if not done:
            wanted = "a stream that ends with [DONE]"
            raise ServerError("the answer broke off", expected=wanted, where=self.url, next_step="ask again")

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[httpx.Response]:
        """A response whose status is good, its body yet to be read."""
        import httpx

        accept = "text/event-stream" if body and body.get("stream") else "application/json"
        try:
            async with self._http.stream(method, path, json=body, headers={"Accept": accept}) as response:
                if response.status_code != httpx.codes.OK:
                    raise error_of(response.status_code, await _read_error(response), response.headers, self.url)
                yield response
        except httpx.ConnectError as error:
            raise ServerError(
                "no server answers there", got=str(error) or type(error).__name__, where=self.url,
                next_step="start one with `lmcourse serve api_server`, or check host and port",
            ) from error  # fmt: skip
        except httpx.TimeoutException as error:
            raise ServerError(
                "the server did not answer in time", got=type(error).__name__, where=self.url,
                next_step="see whether it is busy or hangs: open /health or /metrics",
            ) from error  # fmt: skip
        except httpx.HTTPError as error:
            got = str(error) or type(error).__name__
            raise ServerError("the connection broke off", got=got, where=self.url, next_step="ask again") from error


def clean_url(url: str) -> str:
    """Scheme, host and path of a server's address, without what clients add themselves; ConfigError if it is none."""
    text = url.strip().rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise ConfigError("this is not a server's address", expected="http://host:port", got=repr(url), where="url")
    return text


def _clean_key(api_key: str) -> str:
    if not api_key or not api_key.isascii() or not api_key.isprintable():
        raise ConfigError("this cannot be a key", expected="printable ASCII characters", where="api_key")
    return api_key


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _read_json(text: str | bytes, url: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ServerError(
            "the server answered with something else than JSON", got=repr(text[:80]), where=url,
            next_step="is this the address of an API server?",
        ) from error  # fmt: skip


async def _read_error(response: httpx.Response) -> Any:
    """The body of a refusal, as JSON if it is some."""
    body = await response.aread()
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", errors="replace")


def _import_httpx() -> ModuleType:
    if importlib.util.find_spec("httpx") is None:
        raise MachineError(
            "a client needs the package httpx", got="nothing of that name", next_step="pip install 'lmcourse[serve]'"
        )
    import httpx

    return httpx
